"""A connection to another peer or to a client: calls, streams of messages, and their end.

The driver of ``mux.py``: one task writes, one reads, one pings, and each stream that the far side
opens runs its handler in a task and a cancel scope of its own. Nothing a caller does is awaited
between changing the state of a stream and leaving it consistent, and only the writer task touches
the channel, so that cancelling a caller anywhere costs its own stream and nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

import trio

from overlay.errors import (
    Deadline,
    LocalFault,
    Overloaded,
    PeerFault,
    PeerGone,
    ProtocolError,
    StreamReset,
)
from overlay.ports import ByteChannel, Clock, Entropy
from overlay.transport.bell import Bell
from overlay.transport.events import (
    Ended,
    Opened,
    Ponged,
    Received,
    RoomAgain,
    WasReset,
    WentAway,
)
from overlay.transport.frame import DEADLINE_MS_MAX, PROTOCOL_BYTES_MAX, GoawayCode, ResetCode
from overlay.transport.goodbye import say_goodbye
from overlay.transport.limits import Limits
from overlay.transport.liveness import Idleness, Liveness
from overlay.transport.mux import IDS_USED_UP, Mux
from overlay.transport.remote import Remote
from overlay.transport.stream import Opening, Stream
from overlay.transport.watch import Watch
from overlay.transport.workers import Workers

log = logging.getLogger(__name__)

WRITE_BYTES: Final = 1 << 17
"""Bytes given to the channel at a time: several small frames become one write and one record."""

RETIRE_S: Final = 5.0
"""For streams under way once the stream ids are used up; the peers are apart for as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """Counters since the connection came up; bytes are those of the multiplexer, before TLS."""

    bytes_sent: int
    bytes_received: int
    streams_opened: int
    streams_accepted: int
    streams_refused: int
    streams_open: int
    handlers_failed: int


Handler = Callable[["Connection", Stream], Awaitable[None]]
"""Serves one stream. Returning finishes it; raising resets it; the far side's reset cancels it."""

NO_HANDLERS: Final[Mapping[str, Handler]] = MappingProxyType({})


class Connection:
    """Made by ``establish``; lives from ``run`` to the end of the channel.

    Attributes:
        remote: Who is at the other end.
        closed: Why the connection has ended, or None while it has not.
    """

    def __init__(
        self,
        channel: ByteChannel,
        remote: Remote,
        *,
        clock: Clock,
        entropy: Entropy,
        limits: Limits,
        allowed: str = "/",
        received: bytes = b"",
    ) -> None:
        """Takes over a channel.

        Args:
            channel: Closed when the connection ends.
            remote: Who is at the other end.
            clock: Of this host.
            entropy: Of this host.
            limits: What is bounded.
            allowed: The far side may open only protocols that start with this.
            received: Bytes that came behind the HELLO.
        """
        self._channel = channel
        self.remote = remote
        self._clock = clock
        self._limits = limits
        self._allowed = allowed
        self._received = received
        self._mux = Mux(limits=limits, theirs=remote.hello.windows)
        self._liveness = Liveness(
            ping_every_s=limits.ping_every_s,
            ping_timeout_s=limits.ping_timeout_s,
            now_s=clock.now_s(),
            secret=entropy.secret,
        )
        self._idleness = Idleness(idle_s=limits.idle_s, now_s=clock.now_s())
        self._streams: dict[int, Stream] = {}
        self._slots = trio.lowlevel.ParkingLot()
        self._bell = Bell()
        self._wake_writer = self._bell.ring
        self._nursery: trio.Nursery | None = None
        self._workers: Workers | None = None
        self._watch = Watch(self._streams)
        self._ended = trio.Event()
        self._drained = trio.Event()
        self._writing = False
        self._far_is_gone = False
        self._code: int = GoawayCode.DONE
        self._closing: str | None = None
        self._last = b""
        self._farewell: str | None = None
        self.closed: str | None = None
        self._bytes_sent = self._bytes_received = 0
        self._opened = self._accepted = self._refused = self._failed = 0

    @property
    def runs(self) -> bool:
        """Whether it has been run, so that calls can be made while it is not closed."""
        return self._nursery is not None

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip of our pings; None before the first answer."""
        return self._liveness.rtt_s

    @property
    def last_heard_s(self) -> float:
        """When anything last came, by ``Clock.now_s``."""
        return self._liveness.last_heard_s

    def statistics(self) -> ConnectionStatistics:
        """Counters as they are now."""
        return ConnectionStatistics(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            streams_opened=self._opened,
            streams_accepted=self._accepted,
            streams_refused=self._refused,
            streams_open=self._mux.streams_open,
            handlers_failed=self._failed,
        )

    # -- what callers do

    async def call(self, protocol: str, body: bytes, *, timeout_s: float) -> bytes:
        """One message there and one back: a frame each way. Cancelling it cancels the handler.

        Raises:
            Deadline: When ``timeout_s`` is over.
            StreamReset: When the far side refuses or fails; its code says which.
            PeerGone: When the connection has ended or ends.
            ProtocolError: When the far side finishes without an answer.
        """
        deadline_s = trio.current_time() + timeout_s
        if not self._mux.can_open:
            await self._slot(protocol, timeout_s)
        stream = self._start(protocol, body, timeout_s, last=True)
        try:
            reply = await stream.receive(by_s=deadline_s)
        finally:
            self._leave(stream)
        if reply is None:
            raise ProtocolError(f"no answer to a call of {protocol}")
        return reply

    def open(
        self,
        protocol: str,
        body: bytes,
        *,
        deadline_s: float | None = None,
        wait_s: float = math.inf,
    ) -> AbstractAsyncContextManager[Stream]:
        """Opens a stream with its first message; leaving the block early cancels its handler.

        Args:
            protocol: Which handler of the far side serves it.
            body: The opening message.
            deadline_s: Seconds granted, told to the far side. Nothing here enforces it.
            wait_s: Seconds to wait for where the far side takes no more streams now.

        Raises:
            Deadline: When no stream was free in time.
            PeerGone: When the connection has ended or takes no new streams.
            LocalFault: When the body is too large.
        """
        return Opening(partial(self._begin, protocol, body, deadline_s, wait_s), self._leave)

    async def aclose(self, code: int, reason: str, *, drain_s: float = 0.0) -> None:
        """Says goodbye and ends the connection; everything under way fails with PeerGone.

        Args:
            code: A ``GoawayCode``.
            reason: For the far side's log, no secrets.
            drain_s: Lets streams under way go on for up to this long; new ones are refused.
        """
        if self._ended.is_set():
            return
        self._code = code
        self._mux.go_away(code, reason)
        self._wake_writer()
        try:
            if drain_s > 0:
                with trio.move_on_after(drain_s):
                    await self._drained.wait()
        finally:
            self._closing = self._closing or reason
            self._wake_writer()
            with trio.CancelScope(shield=True):
                if self._nursery is None:
                    await self._shut(self._closing)
                else:
                    with trio.move_on_after(self._limits.close_s):
                        await self._ended.wait()
                    self._close(self._closing)
                    # Bounded: a handler of this connection may be the one that closes it.
                    with trio.move_on_after(self._limits.close_s):
                        await self._ended.wait()

    async def _begin(
        self, protocol: str, body: bytes, deadline_s: float | None, wait_s: float
    ) -> Stream:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._mux.can_open:
            await self._slot(protocol, wait_s)
        return self._start(protocol, body, deadline_s, last=False)

    async def _slot(self, protocol: str, wait_s: float) -> None:
        """Waits until the far side takes one more stream, or the connection is over."""
        with trio.move_on_after(wait_s) as scope:
            while not self._mux.can_open and self.closed is None:
                await self._slots.park()
        if scope.cancelled_caught:
            raise Deadline(f"no free stream for {protocol}")

    def _start(self, protocol: str, body: bytes, deadline_s: float | None, *, last: bool) -> Stream:
        if not protocol.startswith("/") or len(protocol) > PROTOCOL_BYTES_MAX:
            raise LocalFault("a protocol id starts with / and is short")
        self._check_open()
        deadline_ms = 0
        if deadline_s is not None:
            deadline_ms = max(1, min(DEADLINE_MS_MAX, int(deadline_s * 1000)))
        key = self._mux.open(protocol, body, deadline_ms=deadline_ms, last=last)
        self._opened += 1
        if self._mux.going_away and self._nursery is not None:
            self._nursery.start_soon(self._retire)
        stream = self._stream(key, protocol, body, deadline_s)
        self._wake_writer()
        return stream

    def _stream(self, key: int, protocol: str, body: bytes, deadline_s: float | None) -> Stream:
        stream = self._streams[key] = Stream(
            self._mux,
            self._wake_writer,
            self._watch.expect,
            key,
            protocol=protocol,
            body=body,
            deadline_s=deadline_s,
        )
        return stream

    def _check_open(self) -> None:
        if self.closed is not None:
            raise PeerGone(self.closed)
        if self._closing is not None or self._farewell is not None:
            raise PeerGone(self._closing or self._farewell or "")
        if self._nursery is None:
            raise LocalFault("the connection does not run yet")

    def _leave(self, stream: Stream) -> None:
        if self._streams.pop(stream.key, None) is not None:
            self._watch.ended()
            self._mux.leave(stream.key)
            if self._mux.has_output or self._mux.going_away:
                self._wake_writer()
            if self._slots and self._mux.can_open:
                self._slots.unpark()

    # -- the life of the connection

    async def run(
        self,
        handlers: Mapping[str, Handler] = NO_HANDLERS,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries bytes and serves the far side's streams until the connection ends.

        A fault of the far side or of the network ends it without an error; ``closed`` says why.

        Args:
            handlers: Who serves which protocol. A stream of any other one is refused.
            task_status: Started when calls can be made.
        """
        if self._nursery is not None:
            raise LocalFault("a connection is run once")
        if self._ended.is_set():
            task_status.started()
            return
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._workers = Workers(nursery)
                nursery.start_soon(self._guarded, self._write)
                nursery.start_soon(self._guarded, self._read, handlers)
                nursery.start_soon(self._guarded, self._keep_alive)
                nursery.start_soon(self._watch.run)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                await self._shut("cancelled")

    async def _guarded(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await work(*args)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            self._far_is_gone = True
            self._close(self._farewell or f"connection lost: {error.__cause__ or error}")
        except PeerGone as error:
            self._far_is_gone = True
            self._close(str(error))
        except PeerFault as error:
            log.warning("ending the connection to %s: %s", self.remote.address, error)
            self._code = GoawayCode.PROTOCOL
            self._close(str(error))

    async def _retire(self) -> None:
        """No stream can be opened any more, so this connection makes room for a new one."""
        with trio.move_on_after(RETIRE_S):
            await self._drained.wait()
        self._close(IDS_USED_UP)

    async def _write(self) -> None:
        while True:
            data = self._mux.data_to_send(WRITE_BYTES)
            self._dispatch(NO_HANDLERS)
            if data:
                self._writing = True
                await self._channel.send_all(data)
                self._writing = False
                self._bytes_sent += len(data)
                continue
            if self._mux.going_away and not self._mux.streams_open:
                self._drained.set()
            if self._closing is not None:
                self._close(self._closing)
                return
            await self._bell.wait()

    async def _read(self, handlers: Mapping[str, Handler]) -> None:
        data = self._received or await self._channel.receive_some()
        self._received = b""
        while data:
            self._bytes_received += len(data)
            self._liveness.on_heard(self._clock.now_s())
            self._mux.receive(data)
            self._dispatch(handlers)
            if self._mux.has_output:
                self._wake_writer()
            data = await self._channel.receive_some()
        self._far_is_gone = True
        self._close(self._farewell or "the far side hung up")

    async def _keep_alive(self) -> None:
        while True:
            # An answer brings the next deadline forward: look at least once per pause.
            latest_s = self._clock.now_s() + self._limits.ping_every_s
            await trio.sleep_until(min(latest_s, self._liveness.next_deadline_s()))
            now_s = self._clock.now_s()
            begun, under_way = self._opened + self._accepted, bool(self._streams)
            if self._idleness.is_over(now_s, begun=begun, under_way=under_way):
                self._close("no request for too long")
                return
            number = self._liveness.on_timer(now_s)
            if number is not None:
                self._mux.ping(number)
                self._wake_writer()

    def _dispatch(self, handlers: Mapping[str, Handler]) -> None:
        streams = self._streams
        for event in self._mux.events():
            if isinstance(event, Received):
                if (stream := streams.get(event.key)) is not None:
                    stream.put(event.message, event.cost, last=event.last)
            elif isinstance(event, Opened):
                self._accept(event, handlers)
            elif isinstance(event, Ponged):
                self._liveness.on_pong(event.number, self._clock.now_s())
            elif isinstance(event, WentAway):
                self._farewell = f"the far side said goodbye: {event.reason}"
                self._slots.unpark_all()
            elif (stream := streams.get(event.key)) is not None:
                self._tell(stream, event)

    @staticmethod
    def _tell(stream: Stream, event: Ended | WasReset | RoomAgain) -> None:
        match event:
            case Ended():
                stream.end()
            case RoomAgain():
                stream.room_again()
            case WasReset(_, code):
                stream.fail(lambda: StreamReset(code))
                if stream.worker is not None and code != ResetCode.DONE:
                    stream.worker.cancel()

    def _accept(self, event: Opened, handlers: Mapping[str, Handler]) -> None:
        key, protocol = event.key, event.protocol
        handler = handlers.get(protocol) if protocol.startswith(self._allowed) else None
        if handler is None or self._workers is None:
            self._refused += 1
            self._mux.reset(key, ResetCode.UNSUPPORTED)
            self._mux.leave(key)
            return
        self._accepted += 1
        deadline_s = event.deadline_ms / 1000 if event.deadline_ms else None
        stream = self._stream(key, protocol, event.body, deadline_s)
        if event.last:
            stream.end()
        stream.worker = self._workers.start(partial(self._serve, handler, stream))

    async def _serve(self, handler: Handler, stream: Stream) -> None:
        try:
            await handler(self, stream)
        except Exception as error:  # noqa: BLE001 - a handler's failure ends its stream only
            self._mux.reset(stream.key, self._code_of(error, stream))
        finally:
            self._leave(stream)

    def _code_of(self, error: Exception, stream: Stream) -> ResetCode:
        match error:
            case StreamReset() | PeerGone() if stream.failed:
                return ResetCode.CANCELLED
            case PeerFault():
                log.warning("%s from %s: %s", stream.protocol, self.remote.address, error)
                return ResetCode.PROTOCOL
            case Overloaded():
                return ResetCode.OVERLOADED
        self._failed += 1
        log.error("handler of %s failed", stream.protocol, exc_info=error)
        return ResetCode.INTERNAL

    def drop(self, reason: str, last: tuple[str, bytes] | None = None) -> None:
        """Ends it at once: nothing is taken in any more, not even what has come and waits.

        ``last`` is a protocol and a message that the far side is shown, where it still can be.
        """
        self._last = b"" if last is None else self._mux.last_words(*last)
        self._close(reason)

    def _close(self, reason: str) -> None:
        """The connection is over: callers hear of it now, the channel is closed by ``run``."""
        if self.closed is None:
            self.closed = reason
            for stream in self._streams.values():
                stream.fail(lambda: PeerGone(reason))
            self._slots.unpark_all()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _shut(self, reason: str) -> None:
        """Says goodbye where that can still be heard, and closes the channel."""
        if self._ended.is_set():
            return
        self._close(self._closing or reason)
        with trio.move_on_after(self._limits.close_s):
            if not self._writing and not self._far_is_gone:
                goodbye = self._last + self._mux.farewell(self._code, self.closed or reason)
                await say_goodbye(self._channel, goodbye, heard=bool(self._last))
        with trio.move_on_after(self._limits.close_s):
            await self._channel.aclose()
        self._ended.set()
