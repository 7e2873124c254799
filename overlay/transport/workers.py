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
    """One task. ``scope`` cancels what it does now, and ends it."""

    __slots__ = ("bell", "job", "scope")

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.bell = Bell()
        self.scope = trio.CancelScope()


class Workers:
    """The tasks of one connection, in its nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[Worker] = []

    def start(self, job: Job) -> trio.CancelScope:
        """Runs ``job`` in a task; gives the scope that cancels it, while it runs only.

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
        return worker.scope

    async def _run(self, worker: Worker) -> None:
        with worker.scope:
            while worker.job is not None:
                job, worker.job = worker.job, None
                await job()
                if worker.scope.cancel_called or len(self._idle) >= IDLE_MAX:
                    return
                self._idle.append(worker)
                await self._next(worker)

    async def _next(self, worker: Worker) -> None:
        try:
            await worker.bell.wait()
        except trio.Cancelled:
            if worker.job is None:
                raise
