"""When a step of an engine counts as hanging, and when it is only slow."""

from __future__ import annotations

import pytest

from inference.request import EngineLoad
from inference.worker import STALLED_MIN_S, StepWatch


def at_rates(queued_tokens: int, prefill_tokens_per_s: float, decode_s: float) -> EngineLoad:
    return EngineLoad(
        running=1,
        queued=0,
        queued_tokens=queued_tokens,
        prefill_tokens_per_s=prefill_tokens_per_s,
        decode_s_per_token=decode_s,
        used_blocks=0,
        total_blocks=0,
    )


@pytest.mark.parametrize(
    ("queued_tokens", "rate", "decode_s", "hangs_after_s"),
    [
        (0, 0.0, 0.01, STALLED_MIN_S),
        (0, 0.0, 2.0, 8.0),
        (256, 64.0, 0.0, 16.0),
        (256, 64.0, 1.0, 20.0),
        (256, 0.0, 1.0, None),
        (0, 0.0, 0.0, None),
    ],
)
def test_step_hangs_that_takes_far_longer_than_its_work(
    queued_tokens: int, rate: float, decode_s: float, hangs_after_s: float | None
) -> None:
    watch, load = StepWatch(), at_rates(queued_tokens, rate, decode_s)
    assert not watch.hangs(1e6, load)
    watch.began(100.0, queued_tokens)
    if hangs_after_s is None:
        assert not watch.hangs(1e6, load)
        return
    assert not watch.hangs(100.0 + hangs_after_s - 0.01, load)
    assert watch.hangs(100.0 + hangs_after_s, load)
    watch.ended(200.0)
    assert not watch.hangs(1e6, load)


def test_step_may_take_several_times_as_long_as_the_slowest_of_late() -> None:
    watch, load = StepWatch(), at_rates(0, 0.0, 0.01)
    for began_s, ended_s in ((0.0, 3.0), (3.0, 3.1)):
        watch.began(began_s, 0)
        watch.ended(ended_s)
    watch.began(4.0, 0)
    assert not watch.hangs(4.0 + 11.9, load)
    assert watch.hangs(4.0 + 12.0, load)
    watch.ended(4.1)
    watch.began(1000.0, 0)
    watch.ended(1000.1)
    watch.began(1001.0, 0)
    assert watch.hangs(1001.0 + STALLED_MIN_S, load)
