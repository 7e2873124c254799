"""Every reader of bytes from outside: a typed error or a value, in bounded memory.

Hypothesis changes the committed vectors of each form; ``corpus/`` has inputs that are worth
keeping, and every reader is given all of them. HTTP heads have the same in
``tests/overlay/http/test_random_bytes.py``.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.readers import READERS, corpus, typed

MEMORY_MAX = 8 << 20
"""For inputs of a few KB. msgspec, json and OpenSSL's bindings among it, each reader far below."""


def peak_of(parse: Callable[[bytes], object], data: bytes) -> int:
    tracemalloc.start()
    try:
        typed(parse, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bounded(parse: Callable[[bytes], object], data: bytes) -> None:
    """Twice where it was much: a table of the process that grows meanwhile grows once."""
    assert peak_of(parse, data) < MEMORY_MAX or peak_of(parse, data) < MEMORY_MAX


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A committed form with bytes changed, taken out, doubled or put in; or any bytes at all."""
    if draw(st.integers(0, 7)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at:]
            case 2:
                del data[at : at + draw(st.integers(1, 8))]
            case 3:
                data[at:at] = draw(st.binary(max_size=12))
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


def test_control_every_seed_is_read_by_a_reader_of_its_form() -> None:
    read = {
        name for name, (parse, seeds) in READERS.items() for seed in seeds if typed(parse, seed)
    }
    # No vectors: these never leave their hosts.
    assert set(READERS) - read == {"issuer's state", "issuer's key", "root's key"}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_bytes_from_outside(name: str) -> None:
    parse, seeds = READERS[name]
    for data in corpus():
        bounded(parse, data)

    @settings(max_examples=60)
    @given(changed(seeds))
    def change(data: bytes) -> None:
        bounded(parse, data)

    change()
