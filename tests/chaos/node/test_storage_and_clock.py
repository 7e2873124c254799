"""Disks that are full, lose power or go back in time; wall clocks that are wrong."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chaos.clock import VirtualClock, ahead_by, drifting, frozen, strobing
from chaos.storage import Session, SimStorage
from overlay.errors import StorageFull


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_disk_is_full_until_every_fault_that_filled_it_is_over() -> None:
    storage, refused = SimStorage(), [0]

    def count() -> None:
        refused[0] += 1

    storage.fill("one", count)
    storage.fill("two")
    storage.free("two")
    with pytest.raises(StorageFull):
        storage.write("t", {b"a": b"1"})
    storage.free("one")
    storage.write("t", {b"a": b"1"})
    assert refused == [1]
    assert storage.read("t") == {b"a": b"1"}


def test_a_disk_goes_back_to_what_it_was_at_a_time() -> None:
    time = Time()
    storage = SimStorage(time)
    storage.write("t", {b"a": b"1", b"b": b"1"}, durable=True)
    time.now_s = 10.0
    storage.write("t", {b"a": b"2", b"b": None})
    storage.write("u", {b"c": b"1"}, durable=True)
    time.now_s = 20.0
    storage.write("t", {b"a": b"3"})
    assert storage.roll_back(10.0) == 1
    assert storage.read("t") == {b"a": b"2"}
    assert storage.roll_back(5.0) == 3
    assert storage.read("t") == {b"a": b"1", b"b": b"1"}
    assert storage.read("u") == {}
    storage.crash_machine()
    assert storage.read("t") == {b"a": b"1", b"b": b"1"}, "it is on the disk"


def test_a_dead_process_writes_nothing() -> None:
    storage = SimStorage()
    session = Session(storage)
    session.write("t", {b"a": b"1"})
    session.dead = True
    session.write("t", {b"a": b"2"})
    assert Session(storage).read("t") == {b"a": b"1"}


def test_a_batch_in_which_the_power_is_lost_is_not_there() -> None:
    storage = SimStorage()
    storage.write("t", {b"a": b"1"}, durable=True)
    storage.on_write = lambda: False
    storage.write("t", {b"a": b"2", b"b": b"2"})
    storage.on_write = None
    assert storage.read("t") == {b"a": b"1"}


def wrong_by(clock: VirtualClock) -> float:
    return round(clock.unix_s() - VirtualClock().unix_s(), 6)


def test_distortions_of_a_wall_clock_add_up_and_leave_the_monotonic_one() -> None:
    async def main() -> None:
        clock, looks = VirtualClock(), [0]

        def look() -> None:
            looks[0] += 1

        clock.distort("skew", drifting(1000.0, 0.0), look)
        clock.distort("offset", ahead_by(-5.0))
        await trio.sleep(100)
        assert wrong_by(clock) == pytest.approx(-4.9)
        clock.restore("skew")
        assert wrong_by(clock) == -5.0
        clock.restore("offset")
        clock.restore("offset")
        assert wrong_by(clock) == 0.0
        assert looks == [1]
        assert clock.now_s() == 100.0

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_frozen_clock_stands_still_and_a_strobing_one_goes_to_and_fro() -> None:
    async def main() -> None:
        clock = VirtualClock()
        await trio.sleep(10)
        clock.distort("freeze", frozen(10.0))
        stands = clock.unix_s()
        await trio.sleep(7)
        assert clock.unix_s() == stands
        clock.restore("freeze")
        clock.distort("strobe", strobing(30.0, 4.0, 17.0))
        seen = []
        for _ in range(8):
            seen.append(wrong_by(clock))
            await trio.sleep(1)
        assert seen == [0.0, 0.0, 30.0, 30.0] * 2

    trio.run(main, clock=MockClock(autojump_threshold=0))
