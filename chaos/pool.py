"""Schedules tried in child processes, several at a time; cancelling ends the children."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
import trio

from chaos.scenario.reader import read
from chaos.tried import BROKEN, Tried
from chaos.worker import Job, Task, line_of, task_line

WORKER = (sys.executable, "-m", "chaos.worker")
LINE_BYTES_MAX = 1 << 24
RECEIVE_BYTES = 1 << 16
FRESH_HASH_SEED = 1000
"""Fresh processes count their ``PYTHONHASHSEED`` from here, the pool's own from 1."""

OnTried = Callable[[Tried], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How jobs are tried.

    Attributes:
        task: What they share.
        count: Processes at a time.
        limit_s: A job that takes longer is given up, and its process ended.
        twice: Whether a job is run again in a fresh process with another hash seed.
    """

    task: Task
    count: int
    limit_s: float
    twice: Callable[[Job], bool] = field(default=lambda _: False)

    async def run(self, jobs: Iterator[Job], on_tried: OnTried) -> None:
        """Tries every job; ``on_tried`` is called with each result as it comes."""
        async with trio.open_nursery() as nursery:
            for number in range(self.count):
                nursery.start_soon(self._work, number, jobs, on_tried)

    async def _work(self, number: int, jobs: Iterator[Job], on_tried: OnTried) -> None:
        """One process after another, as long as there are jobs: a new one where one has died."""
        while True:
            job = next(jobs, None)
            if job is None:
                return
            async with worker(self.task, 1 + number) as child:
                while job is not None:
                    tried = await self._one(child, job)
                    if tried.verdict != BROKEN and self.twice(job):
                        again = await self.again(job, FRESH_HASH_SEED + tried.seed)
                        tried = replace(tried, twice=again.trace or again.error)
                    on_tried(tried)
                    if child.ended:
                        break
                    job = next(jobs, None)
                else:
                    return

    async def again(self, job: Job, hash_seed: int) -> Tried:
        """Tries a job in a process of its own, which leaves no files."""
        async with worker(replace(self.task, out=None), hash_seed) as child:
            return await self._one(child, job)

    async def _one(self, child: Worker, job: Job) -> Tried:
        error = f"it took longer than {self.limit_s:g} s"
        with trio.move_on_after(self.limit_s):
            try:
                return await child.ask(job)
            except WorkerDied as died:
                error = str(died)
        child.ended = True
        seed = job.schedule.seed if job.schedule else job.seed or 0
        return Tried(name=job.name, seed=seed, verdict=BROKEN, error=error)


class WorkerDied(Exception):
    """A child process ended in the middle of a job; the message says how."""


@dataclass(eq=False)
class Worker:
    """A running child process."""

    process: trio.Process
    ended: bool = False
    _buffer: bytearray = field(default_factory=bytearray)

    async def ask(self, job: Job) -> Tried:
        """Gives it a job, and waits for what it showed. Raises ``WorkerDied``."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(line_of(job))
            return read(Tried, msgspec.json.decode(await self._line()))
        except trio.BrokenResourceError:
            code = await self.process.wait()
            raise WorkerDied(f"the process that tried it ended with {code}") from None

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            chunk = await self.process.stdout.receive_some(RECEIVE_BYTES)
            if not chunk or len(self._buffer) > LINE_BYTES_MAX:
                raise trio.BrokenResourceError
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


@asynccontextmanager
async def worker(task: Task, hash_seed: int) -> AsyncIterator[Worker]:
    """A child process for a task, ended in any case when the block is left."""
    process = await trio.lowlevel.open_process(
        list(WORKER),
        stdin=-1,
        stdout=-1,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed % 2**32)},
    )
    try:
        assert process.stdin is not None
        await process.stdin.send_all(task_line(task))
        yield Worker(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def fresh(task: Task, job: Job, *, times: int = 2, limit_s: float) -> tuple[Tried, ...]:
    """Tries a job in so many fresh processes, each with a ``PYTHONHASHSEED`` of its own."""
    pool = Pool(task=task, count=1, limit_s=limit_s)
    return tuple([await pool.again(job, FRESH_HASH_SEED + number) for number in range(times)])
