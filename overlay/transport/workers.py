"""Tasks that serve the far side's streams, one stream after another.

A task and a cancel scope of its own for every call would cost a quarter of the call. So a task that
has served a stream waits for the next one, and only one whose stream was cancelled ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from overlay.transport.bell import Bell

IDLE_MAX: Final = 32
"""Waiting tasks kept per connection, a few KB each; more callers at a time than this are rare."""

Job = Callable[[], Awaitable[None]]


class Worker:
    """One task. Cancelling it cancels what it does now, and ends it."""

    __slots__ = ("bell", "cancelled", "job", "scope")

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.bell = Bell()
        self.scope = trio.CancelScope()
        self.cancelled = False

    def cancel(self) -> None:
        """Cancels the present job."""
        self.cancelled = True
        self.scope.cancel()


class Workers:
    """The tasks of one connection, in its nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[Worker] = []

    def start(self, job: Job) -> Worker:
        """Runs ``job`` in a task; gives what cancels it, to be used while it runs only.

        A job always begins, so that what it releases in ``finally`` is released; when it was
        cancelled before, it meets that at its first checkpoint.
        """
        if self._idle:
            worker = self._idle.pop()
            worker.job = job
            worker.bell.ring()
        else:
            worker = Worker(job)
            self._nursery.start_soon(self._run, worker)
        return worker

    async def _run(self, worker: Worker) -> None:
        with worker.scope:
            while worker.job is not None:
                job, worker.job = worker.job, None
                await job()
                if worker.cancelled or len(self._idle) >= IDLE_MAX:
                    return
                self._idle.append(worker)
                try:
                    await worker.bell.wait()
                except trio.Cancelled:
                    if worker.job is None:
                        raise
