"""The contract of ``overlay.ports.Clock``, for the real one and the simulated one."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from chaos.clock import VirtualClock
from overlay.ports import Clock
from overlay.system import SystemClock

IMPLEMENTATIONS = [SystemClock(), VirtualClock(), VirtualClock(offset_s=-90.0)]


@pytest.mark.parametrize("clock", IMPLEMENTATIONS, ids=lambda clock: type(clock).__name__)
def test_now_is_the_clock_that_deadlines_use(clock: Clock) -> None:
    async def scenario() -> None:
        assert clock.now_s() == pytest.approx(trio.current_time(), abs=1.0)
        before_s = clock.now_s()
        await trio.sleep(5)
        assert 5 <= clock.now_s() - before_s < 6

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("clock", IMPLEMENTATIONS, ids=lambda clock: type(clock).__name__)
def test_neither_time_falls(clock: Clock) -> None:
    async def scenario() -> None:
        readings = []
        for _ in range(50):
            readings.append((clock.now_s(), clock.unix_s()))
            await trio.lowlevel.checkpoint()
        assert readings == sorted(readings)
        assert min(unix_s for _, unix_s in readings) > 1_600_000_000

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_virtual_wall_clock_follows_virtual_time_and_keeps_its_offset() -> None:
    async def scenario() -> None:
        right, wrong = VirtualClock(), VirtualClock(offset_s=75.0)
        before_s = right.unix_s()
        await trio.sleep(3600)
        assert right.unix_s() - before_s == 3600
        assert wrong.unix_s() - right.unix_s() == 75

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_system_wall_clock_is_the_systems() -> None:
    assert SystemClock().unix_s() == pytest.approx(time.time(), abs=5)
