"""A bell for one waiting task: ringing it before somebody waits is not lost."""

from __future__ import annotations

import trio
from trio.lowlevel import Abort, checkpoint, current_task, reschedule, wait_task_rescheduled


class Bell:
    """Cheaper than an event that is replaced each time: one is rung for every message."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """Wakes the waiting task, or the next one to wait."""
        task = self._task
        if task is None:
            self._rung = True
        else:
            self._task = None
            reschedule(task)

    async def wait(self) -> None:
        """Waits for the next ring, or takes one that nobody has waited for."""
        if self._rung:
            self._rung = False
            await checkpoint()
            return
        if self._task is not None:
            raise trio.BusyResourceError("another task waits already")
        self._task = current_task()
        await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED
