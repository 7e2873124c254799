"""A bell for one waiting task: ringing it before somebody waits is not lost."""

from __future__ import annotations

import trio


class Bell:
    """Cheaper than an event that is replaced each time: one is rung for every message."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """Wakes the waiting task, or the next one to wait."""
        if self._task is None:
            self._rung = True
        else:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Waits for the next ring, or takes one that nobody has waited for."""
        if self._rung:
            self._rung = False
            await trio.lowlevel.checkpoint()
            return
        if self._task is not None:
            raise trio.BusyResourceError("another task waits already")
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
