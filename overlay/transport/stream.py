"""A stream of messages on a connection, as its user sees it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from overlay.errors import LocalFault, OverlayError, StreamReset
from overlay.transport.bell import Bell
from overlay.transport.frame import ResetCode
from overlay.transport.mux import Mux
from overlay.transport.workers import Worker


class Stream:
    """One exchange of messages. Not to be used by two readers or two writers at a time."""

    __slots__ = (
        "_bell",
        "_ended",
        "_expect",
        "_failure",
        "_inbox",
        "_mux",
        "_room",
        "_sent_last",
        "_wake",
        "body",
        "deadline_s",
        "due_s",
        "key",
        "protocol",
        "watched_s",
        "worker",
    )

    def __init__(
        self,
        mux: Mux,
        wake: Callable[[], None],
        expect: Callable[[Stream], None],
        key: int,
        *,
        protocol: str,
        body: bytes,
        deadline_s: float | None,
    ) -> None:
        self._mux = mux
        self._wake = wake
        self._expect = expect
        self.key = key
        self.protocol = protocol
        self.body = body
        """The opening message; of a stream that the far side opened, until the first ``receive``:
        a handler that serves a stream for long does not hold on to how it began."""
        self.deadline_s = deadline_s
        """Seconds that the opener grants, from the stream's arrival; None for no limit."""
        self.due_s = self.watched_s = math.inf
        """By when the reader wants something, and when that is looked at (``watch.py``)."""
        self.worker: Worker | None = None
        """The task that serves it here; None for one that we opened."""
        self._inbox: deque[tuple[bytes, int]] = deque()
        self._ended = False
        self._sent_last = False
        self._failure: Callable[[], OverlayError] | None = None
        self._bell = Bell()
        self._room: Bell | None = None

    async def send(self, message: bytes) -> None:
        """Queues a message; waits while too much of this stream is unsent.

        Raises:
            StreamReset: When the far side has given the stream up.
            PeerGone: When the connection has ended.
            LocalFault: When the message is too large, or the stream was finished.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._failure is None and not self._mux.has_room(self.key):
            self._room = self._room or Bell()
            await self._room.wait()
        if self._failure is not None:
            raise self._failure()
        if self._sent_last:
            raise LocalFault("the stream was finished or reset")
        self._mux.send(self.key, message)
        self._wake()

    async def receive(self, *, by_s: float = math.inf) -> bytes | None:
        """The next message, or None when the far side has finished.

        Args:
            by_s: When nothing has come by then, by trio's clock, the stream has failed.

        Raises:
            StreamReset: When the far side has given the stream up.
            PeerGone: When the connection has ended.
            Deadline: When nothing has come in time.
        """
        if self.body and self.key < 0:
            self.body = b""
            self._mux.body_done(self.key)
        if self._inbox or self._ended:
            await trio.lowlevel.checkpoint_if_cancelled()
        elif by_s < math.inf:
            self.due_s = by_s
            self._expect(self)
        try:
            while not self._inbox:
                if self._ended:
                    return None
                if self._failure is not None:
                    raise self._failure()
                await self._bell.wait()
        finally:
            self.due_s = math.inf
        message, cost = self._inbox.popleft()
        self._mux.consumed(self.key, cost)
        if self._mux.has_output:
            self._wake()
        return message

    async def finish(self) -> None:
        """Sends no more; what is queued still goes. The far side's ``receive`` then gives None."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sent_last = True
        self._mux.finish(self.key)
        self._wake()

    def reset(self, code: int = ResetCode.CANCELLED) -> None:
        """Gives the stream up, both ways and at once."""
        self._sent_last = True
        self._mux.reset(self.key, code)
        self._wake()
        self.fail(lambda: StreamReset(code))

    # For the connection.

    @property
    def failed(self) -> bool:
        """Whether the far side has given it up or is gone."""
        return self._failure is not None

    def put(self, message: bytes, cost: int, *, last: bool) -> None:
        """A message came."""
        self._inbox.append((message, cost))
        self._ended = last
        self._bell.ring()

    def end(self) -> None:
        """The far side has finished."""
        self._ended = True
        self._bell.ring()

    def fail(self, failure: Callable[[], OverlayError]) -> None:
        """The stream is over; messages that have come can still be read."""
        if self._failure is None:
            self._failure = failure
        self._bell.ring()
        self.room_again()

    def room_again(self) -> None:
        """A sender that waits may go on."""
        if self._room is not None:
            self._room.ring()


class Opening:
    """A stream from its opening to its leaving. No generator: that would cost three times this."""

    __slots__ = ("_begin", "_leave", "_stream")

    def __init__(
        self, begin: Callable[[], Awaitable[Stream]], leave: Callable[[Stream], None]
    ) -> None:
        self._begin = begin
        self._leave = leave

    async def __aenter__(self) -> Stream:
        self._stream = await self._begin()
        return self._stream

    async def __aexit__(self, *_: object) -> None:
        self._leave(self._stream)
