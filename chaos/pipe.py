"""One direction of a simulated connection, and what its link may do to the bytes on it.

A pipe behaves as TCP does: bytes arrive whole and in order or not at all, a sender waits while too
much is under way, an end arrives behind the bytes, and the news that a connection is broken travels
as bytes do, so that nobody learns of it through a link that carries nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from chaos.trace import Trace

IN_FLIGHT_BYTES_MAX = 1 << 20
"""A sender waits while this much is undelivered, like a full TCP window."""

Chunk = tuple[float, bytes | None]
"""Bytes with the time they are due; None breaks the connection when it is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction between two hosts. ``delay_s`` is one way."""

    delay_s: float = 0.0002
    cut: bool = False


class Impairment:
    """What a fault does to directed links, for as long as the network has it under its key.

    ``holds``: nothing arrives meanwhile, and everything does afterwards. ``swallows``: nothing
    arrives, and the connections break afterwards. ``on_effect`` is called for each chunk or dial
    that it changes.
    """

    holds = False
    swallows = False

    def __init__(self, on_effect: Callable[[], None] = lambda: None) -> None:
        self.on_effect = on_effect

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks as they arrive; they are put in order of their times afterwards."""
        del pipe
        return chunks

    def end_delay_s(self) -> float:
        """By how much the end of a connection is told later."""
        return 0.0

    def dial_delay_s(self) -> float:
        """What one way of a handshake takes longer."""
        return 0.0

    def lifted(self, pipe: Pipe) -> None:
        """The fault is over for this pipe."""


class Alarms:
    """Wakes the readers of a network's pipes when something is due, all of one moment at once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Pipe]] = []
        self._numbers = itertools.count()
        self._task: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None
        self._idle = False

    def set(self, at_s: float, pipe: Pipe) -> None:
        """Wakes the pipe's reader at that time, and possibly before."""
        heapq.heappush(self._heap, (at_s, next(self._numbers), pipe))
        if self._task is None:
            self._task = trio.lowlevel.spawn_system_task(self._run)
        elif self._idle:
            self._idle = False
            trio.lowlevel.reschedule(self._task)
        elif self._scope is not None and at_s < self._scope.deadline:
            self._scope.deadline = at_s

    async def _run(self) -> None:
        while True:
            if not self._heap:
                self._idle = True
                await trio.lowlevel.wait_task_rescheduled(self._leave)
                continue
            with trio.CancelScope(deadline=self._heap[0][0]) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            now_s = trio.current_time()
            while self._heap and self._heap[0][0] <= now_s:
                heapq.heappop(self._heap)[2].ring(now_s)

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._idle = False
        return trio.lowlevel.Abort.SUCCEEDED


class Pipe:
    """One direction of a connection; ``back`` is the other one.

    Attributes:
        held: Nothing arrives at present; the network sets it.
        stuck_behind: The impairment that an undeliverable chunk waits for.
        last_due_s: When the last byte that was sent is due.
    """

    def __init__(self, trace: Trace, alarms: Alarms, source: str, target: str) -> None:
        self._trace = trace
        self._alarms = alarms
        self.source = source
        self.target = target
        self.back: Pipe = self
        self.impairments: tuple[Impairment, ...] = ()
        self.delay_s = 0.0
        self.held = False
        self.lost = False
        self.stuck_behind: Impairment | None = None
        self.last_due_s = 0.0
        self.size_bytes = 0
        self._queue: deque[Chunk] = deque()
        self._room = trio.Event()
        self._reader: trio.lowlevel.Task | None = None
        self._alarm_s = math.inf
        self._ended = False
        self._end_s = math.inf
        self._reset_s = math.inf
        self._unread = False

    def wake(self) -> None:
        """Something that a waiting reader or writer looks at has changed."""
        self._wake_reader()
        if self._room._tasks:
            self._room.set()
            self._room = trio.Event()

    def ring(self, now_s: float) -> None:
        """An alarm of this pipe: its reader looks again."""
        if self._alarm_s <= now_s:
            self._alarm_s = math.inf
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    # -- the writer's side

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.size_bytes > IN_FLIGHT_BYTES_MAX and not self.back.is_over():
            with trio.move_on_at(self.back.over_s()):
                await self._room.wait()
            if self._ended:
                raise trio.ClosedResourceError
        if self.back.is_over():
            raise trio.BrokenResourceError("the far host is gone")
        self._trace.add_chunk(self.source, self.target, len(data))
        if self.lost or self._unread:
            return
        due_s = trio.current_time() + self.delay_s
        chunks: list[Chunk] = [(due_s, data)]
        for impairment in self.impairments:
            chunks = impairment.shape(self, chunks)
        waits = not self._queue
        for at_s, piece in chunks:
            self.last_due_s = max(at_s, self.last_due_s)
            self._queue.append((self.last_due_s, piece))
            self.size_bytes += len(piece or b"")
        if waits and self._reader is not None:
            self._set_alarm()

    def end(self) -> None:
        """Orderly end: what is under way still arrives."""
        if self._ended:
            return
        self._ended = True
        if not self._vanishes():
            self._end_s = max(self.last_due_s, self._told_s())
        self._wake_both()

    def reset(self) -> None:
        """The writer's host breaks the connection; what is under way is lost."""
        self._ended = True
        self._queue.clear()
        self.size_bytes = 0
        self.back.unread()
        if not self._vanishes():
            self._reset_s = min(self._reset_s, self._told_s())
        self._wake_both()

    def _told_s(self) -> float:
        """When the far end learns of an end that happens now."""
        later_s = sum(each.end_delay_s() for each in self.impairments)
        return trio.current_time() + self.delay_s + later_s

    def _vanishes(self) -> bool:
        return self.lost or any(each.swallows for each in self.impairments)

    # -- the reader's side

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._unread:
                raise trio.ClosedResourceError
            now_s = trio.current_time()
            if not (self.held or self.lost):
                if now_s >= self._reset_s:
                    raise trio.BrokenResourceError("the far host is gone")
                if self._queue and self.stuck_behind is None:
                    if self._queue[0][0] <= now_s:
                        return self._take()
                elif not self._queue and now_s >= self._end_s:
                    return b""
            self._set_alarm()
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_reading)

    def _stop_reading(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _set_alarm(self) -> None:
        """The reader is woken when something arrives, unless it will be before."""
        next_s = self._next_s()
        if next_s < self._alarm_s:
            self._alarm_s = next_s
            self._alarms.set(next_s, self)

    def _take(self) -> bytes:
        _, data = self._queue.popleft()
        if data is None:
            self.break_now()
            raise trio.BrokenResourceError("the bytes were damaged under way")
        full = self.size_bytes > IN_FLIGHT_BYTES_MAX
        self.size_bytes -= len(data)
        if full:
            self.wake()
        return data

    def _next_s(self) -> float:
        """When something may arrive if nothing changes."""
        if self.held or self.lost:
            return math.inf
        if not self._queue:
            return min(self._end_s, self._reset_s)
        if self.stuck_behind is not None:
            return self._reset_s
        return min(self._queue[0][0], self._reset_s)

    def over_s(self) -> float:
        """When the reader's host learns that the connection is over; infinite while it cannot."""
        return math.inf if self.held or self.lost else min(self._end_s, self._reset_s)

    def is_over(self) -> bool:
        """Whether the reader's host knows that the other side has ended the connection."""
        return trio.current_time() >= self.over_s()

    def unread(self) -> None:
        """The reader has gone: what is under way and what follows is lost."""
        self._unread = True
        self._queue.clear()
        self.size_bytes = 0
        self.wake()

    # -- both

    def abort(self) -> None:
        """Abrupt end, known at both ends at once: what is under way is lost."""
        self._queue.clear()
        self.size_bytes = 0
        self._reset_s = 0.0
        self.back._reset_s = 0.0
        self._wake_both()

    def break_now(self) -> None:
        """The connection breaks at both ends, each of which learns of it as far as it can."""
        self.abort()
        self.back.abort()

    def lose(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self.lost = True
        self._queue.clear()
        self.size_bytes = 0
        self._wake_both()

    @property
    def is_done(self) -> bool:
        """Both ends have closed the connection, and will not look at it again."""
        return self._ended and self._unread and self.back._ended and self.back._unread

    def _wake_both(self) -> None:
        self.wake()
        self.back.wake()


class SimChannel:
    """``overlay.ports.ByteChannel`` over two pipes."""

    def __init__(self, outgoing: Pipe, incoming: Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self._broken = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError("a send was cancelled")
        try:
            await self._outgoing.send(bytes(data))
        except trio.Cancelled:
            self._broken = True
            raise

    async def receive_some(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        data = await self._incoming.receive()
        if self._closed:
            raise trio.ClosedResourceError
        return data

    def reset(self) -> None:
        """Breaks the connection from this end."""
        self._closed = True
        self._outgoing.reset()

    async def aclose(self) -> None:
        self._closed = True
        self._outgoing.end()
        self._incoming.unread()
        await trio.lowlevel.checkpoint()
