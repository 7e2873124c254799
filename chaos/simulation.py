"""Runs an async function under virtual time so that one seed gives one history.

trio schedules a batch of runnable tasks in random order; two private switches make that order a
function of the seed, and a queue of our own lets all tasks below one task stand still, as the
threads of a stopped process do. They sit here and nowhere else, and a test compares two processes.
Threads, real sockets and wall clocks must stay outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from chaos.garbage import seldom_collected

T = TypeVar("T")

TURNS_PER_LOOK = 4096
SPIN_TURNS = 25 * TURNS_PER_LOOK
"""Turns of the scheduler without virtual time passing after which a run counts as spinning."""

SPINS_MAX = 3
"""A run that goes on spinning after it was cancelled is given up."""


class SimulationStuck(Exception):
    """Virtual time ran past its limit, or stands still: a deadlock, or an end that never comes."""


class TaskQueue(deque[trio.lowlevel.Task]):
    """trio's queue of runnable tasks, which can hold tasks back and notices a spin."""

    def __init__(self, now_s: Callable[[], float], on_spin: Callable[[], None]) -> None:
        super().__init__()
        self._now_s = now_s
        self._on_spin = on_spin
        self._turns = 0
        self._looked_s = now_s()
        self._held: dict[trio.lowlevel.Task, list[trio.lowlevel.Task]] = {}
        self._append = super().append

    def append(self, task: trio.lowlevel.Task, /) -> None:
        if self._held:
            root = self._root(task)
            if root is not None:
                self._held[root].append(task)
                return
        self._append(task)

    def clear(self) -> None:
        """Called by trio once a turn, when it has taken what is there."""
        super().clear()
        self._turns += 1
        if self._turns % TURNS_PER_LOOK == 0:
            now_s = self._now_s()
            if now_s != self._looked_s:
                self._looked_s, self._turns = now_s, 0
            elif self._turns >= SPIN_TURNS:
                self._turns = 0
                self._on_spin()

    def hold(self, root: trio.lowlevel.Task) -> None:
        """Nothing below this task runs from the next turn on; what wakes it up is kept."""
        self._held.setdefault(root, [])
        runnable = list(self)
        super().clear()
        for task in runnable:
            self.append(task)

    def release(self, root: trio.lowlevel.Task) -> None:
        """Everything below this task goes on. One that is not held: no effect."""
        for task in self._held.pop(root, ()):
            self.append(task)

    def release_all(self) -> None:
        """Nothing is held any more."""
        for root in list(self._held):
            self.release(root)

    def _root(self, task: trio.lowlevel.Task) -> trio.lowlevel.Task | None:
        """The held task that this one is or runs below."""
        above: trio.lowlevel.Task | None = task
        while above is not None:
            if above in self._held:
                return above
            nursery = above.parent_nursery
            above = None if nursery is None else nursery.parent_task
        return None


def hold_tasks(root: trio.lowlevel.Task) -> None:
    """Stops a task and all below it, as SIGSTOP does: their deadlines fire when they go on."""
    _queue().hold(root)


def release_tasks(root: trio.lowlevel.Task) -> None:
    """Lets them go on. Those that are not stopped: no effect."""
    _queue().release(root)


def _queue() -> TaskQueue:
    queue = trio_run.GLOBAL_RUN_CONTEXT.runner.runq
    assert isinstance(queue, TaskQueue), "tasks can be held in run_simulation only"
    return queue


def _still_clock() -> MockClock:
    """A clock that moves by jumps only, and so need not look at the real one to tell the time."""
    clock = MockClock(autojump_threshold=0.0)
    clock.current_time = lambda: clock._virtual_base  # type: ignore[method-assign]  # at rate 0
    return clock


def run_simulation(seed: int, main: Callable[[], Awaitable[T]], *, limit_s: float = 3600.0) -> T:
    """Runs ``main`` to its end under an autojumping clock.

    Args:
        seed: Decides the order in which runnable tasks are taken.
        main: The whole scenario.
        limit_s: Virtual seconds after which it counts as stuck.

    Raises:
        SimulationStuck: When ``limit_s`` virtual seconds pass, or none passes in
            :data:`SPIN_TURNS` turns of the scheduler.
    """
    spun: list[str] = []

    async def bounded() -> T:
        runner = trio_run.GLOBAL_RUN_CONTEXT.runner
        with trio.move_on_after(limit_s) as scope:

            def on_spin() -> None:
                at_s = runner.clock.current_time()
                spun.append(f"{SPIN_TURNS} turns at {at_s:.6f} virtual seconds (seed {seed})")
                if len(spun) > SPINS_MAX:
                    raise SimulationStuck(f"does not end when it is cancelled: {spun[0]}")
                queue.release_all()
                scope.cancel()

            queue = TaskQueue(runner.clock.current_time, on_spin)
            queue.extend(runner.runq)
            runner.runq = queue
            return await main()
        if spun:
            raise SimulationStuck(spun[0])
        raise SimulationStuck(f"still running after {limit_s} virtual seconds (seed {seed})")

    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # trio's switch
    trio_run._r.seed(seed)
    try:
        with seldom_collected():
            return trio.run(bounded, clock=_still_clock())
    except trio.TrioInternalError as error:
        if isinstance(error.__cause__, SimulationStuck):
            raise error.__cause__ from None
        raise
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio_run._r.setstate(state)
