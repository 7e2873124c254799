"""Runs an async function under virtual time so that one seed gives one history.

trio schedules a batch of runnable tasks in random order; two private switches make that order a
function of the seed. They sit here and nowhere else, and a test compares two processes. Threads,
real sockets and wall clocks must stay outside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

T = TypeVar("T")


class SimulationStuck(Exception):
    """Virtual time ran past its limit: a deadlock, or a scenario that never ends."""


def run_simulation(seed: int, main: Callable[[], Awaitable[T]], *, limit_s: float = 3600.0) -> T:
    """Runs ``main`` to its end under an autojumping clock.

    Args:
        seed: Decides the order in which runnable tasks are taken.
        main: The whole scenario.
        limit_s: Virtual seconds after which it counts as stuck.

    Raises:
        SimulationStuck: When ``limit_s`` virtual seconds pass.
    """

    async def bounded() -> T:
        with trio.move_on_after(limit_s):
            return await main()
        raise SimulationStuck(f"still running after {limit_s} virtual seconds (seed {seed})")

    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # trio's switch
    trio_run._r.seed(seed)
    try:
        return trio.run(bounded, clock=MockClock(autojump_threshold=0.0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio_run._r.setstate(state)
