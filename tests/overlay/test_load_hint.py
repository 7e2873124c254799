"""What every peer of an overlay is told of a host's load, whatever its tenant."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.none import no_engine
from inference.request import EngineLoad
from overlay.gossip.messages import LoadHint
from overlay.knowledge import coarse, hint_of

BUSY = EngineLoad(
    running=3,
    queued=5,
    queued_tokens=1000,
    prefill_tokens_per_s=512.3,
    decode_s_per_token=0.0314,
    used_blocks=77,
    total_blocks=100,
)


def hint(load: EngineLoad) -> LoadHint:
    return hint_of(load, no_engine().capabilities())


def test_a_hint_counts_no_blocks() -> None:
    names = [each.name for each in msgspec.structs.fields(LoadHint)]
    assert names == [
        "slots",
        "running",
        "queued",
        "queued_tokens",
        "prefill_tokens_per_s",
        "decode_s_per_token",
    ]
    assert hint(BUSY) == hint(replace(BUSY, used_blocks=1, total_blocks=5))


def test_counts_and_rates_are_rounded() -> None:
    told = hint(BUSY)
    assert (told.queued, told.queued_tokens) == (6, 1024)
    assert (told.prefill_tokens_per_s, told.decode_s_per_token) == (510.0, 0.031)


@pytest.mark.parametrize("saved", [0, 100, 200])
def test_what_one_request_finds_cached_is_mostly_lost_in_the_rounding(saved: int) -> None:
    assert hint(replace(BUSY, queued_tokens=1000 - saved)).queued_tokens == 1024


@given(count=st.integers(0, 1 << 40))
def test_rounding_is_upwards_by_at_most_a_half_to_few_values(count: int) -> None:
    rounded = coarse(count)
    assert count <= rounded <= count * 1.5
    assert coarse(rounded) == rounded
    assert rounded.bit_count() <= 2
