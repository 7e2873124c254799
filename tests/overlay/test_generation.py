"""Generations only rise, whatever happens to clock, process and disk."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.storage import SimStorage
from overlay.errors import StorageFull
from overlay.generation import KEY, TABLE, next_generation


class FixedClock:
    """A wall clock that stands where it is put."""

    def __init__(self, unix_s: float) -> None:
        self.set_s = unix_s

    def now_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return self.set_s


class WatchedStorage(SimStorage):
    """Notes which writes were durable."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[str, bool]] = []

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        super().write(table, rows, durable=durable)
        self.writes.append((table, durable))


def test_the_first_generation_is_the_time_in_milliseconds() -> None:
    assert next_generation(SimStorage(), FixedClock(1_800_000_000.25)) == 1_800_000_000_250


def test_the_next_one_is_one_more_where_the_clock_has_not_moved_or_was_set_back() -> None:
    storage, clock = SimStorage(), FixedClock(1000.0)
    assert next_generation(storage, clock) == 1_000_000
    assert next_generation(storage, clock) == 1_000_001
    clock.set_s = 3.0
    assert next_generation(storage, clock) == 1_000_002
    clock.set_s = -5.0
    assert next_generation(storage, clock) == 1_000_003
    clock.set_s = 2000.0
    assert next_generation(storage, clock) == 2_000_000


def test_it_is_above_one_that_was_met_elsewhere() -> None:
    storage = SimStorage()
    assert next_generation(storage, FixedClock(1.0), above=5_000) == 5_001
    assert next_generation(storage, FixedClock(1.0), above=7) == 5_002


def test_it_is_stored_durably_before_it_is_given_out() -> None:
    storage = WatchedStorage()
    next_generation(storage, FixedClock(1.0))
    assert storage.writes == [(TABLE, True)]


def test_none_is_given_out_that_could_not_be_stored() -> None:
    storage = SimStorage()
    storage.full = True
    with pytest.raises(StorageFull):
        next_generation(storage, FixedClock(1.0))


@pytest.mark.parametrize("damaged", [b"", b"1234567", b"123456789"])
def test_a_damaged_row_counts_as_none(damaged: bytes) -> None:
    storage = SimStorage()
    storage.write(TABLE, {KEY: damaged}, durable=True)
    assert next_generation(storage, FixedClock(4.0)) == 4_000


@given(
    steps=st.lists(
        st.tuples(st.floats(-10, 2_000_000_000), st.booleans(), st.integers(0, 10**13)), max_size=25
    )
)
def test_no_generation_is_used_twice_whatever_the_clock_says_and_however_the_machine_dies(
    steps: list[tuple[float, bool, int]],
) -> None:
    storage, used = SimStorage(), [0]
    for unix_s, crash, above in steps:
        generation = next_generation(storage, FixedClock(unix_s), above=above)
        assert generation > max(used)
        assert generation > above
        used.append(generation)
        if crash:
            storage.crash_machine()
