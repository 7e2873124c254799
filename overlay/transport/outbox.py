"""The sending half of a multiplexer: what is written next, under the far side's credit. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from overlay.errors import ProtocolError
from overlay.transport import frame
from overlay.transport.frame import DATA, FIN, HEADER, MORE, OPEN, OPENER
from overlay.transport.limits import Windows
from overlay.transport.record import StreamRecord

FRAME_COST: Final = 64
"""Credit charged per frame beside its bytes, so that empty messages are not free for the reader."""

CHUNK_BYTES_MAX: Final = 1 << 15
"""Largest piece of a message in one frame: a small call waits behind little (measured well)."""

UNSENT_BYTES_MAX: Final = 1 << 23
"""Unsent messages of all streams; senders wait beyond."""


class Outbox:
    """Control frames, then one chunk of each stream in turn.

    ``on_fin_sent`` is told when a stream's last frame has gone, and gives a frame to send after it
    or b"".
    """

    def __init__(
        self,
        theirs: Windows,
        *,
        waiting_bytes: int,
        on_fin_sent: Callable[[StreamRecord], bytes],
    ) -> None:
        self._theirs = theirs
        self._waiting_bytes = waiting_bytes
        self._on_fin_sent = on_fin_sent
        self._chunk_bytes = min(CHUNK_BYTES_MAX, theirs.frame_bytes) - frame.OPENING_BYTES_MAX
        self.control: list[bytes] = []
        self.ready: deque[StreamRecord] = deque()
        """Streams that have something to send, as far as is known."""
        self._starved: deque[StreamRecord] = deque()
        """Streams whose next message waits for the connection's credit, in order."""
        self._unsent_bytes = 0
        self._waiting: dict[int, StreamRecord] = {}
        self.credit = theirs.connection_bytes
        """What the far side will still take of all streams together."""

    def add(self, stream: StreamRecord, message: bytes) -> None:
        """Queues a message."""
        stream.out.append(message)
        stream.unsent_bytes += len(message)
        self._unsent_bytes += len(message)
        self.queue(stream)

    def queue(self, stream: StreamRecord) -> None:
        """The stream has something to send, or credit to send it."""
        if not stream.queued:
            stream.queued = True
            self.ready.append(stream)

    def drop(self, stream: StreamRecord) -> None:
        """Forgets what the stream has not sent; credit taken for it returns."""
        if stream.charged or self._starved:
            self._feed(stream.charged)
        stream.charged = 0
        self._unsent_bytes -= stream.unsent_bytes
        stream.unsent_bytes = 0
        stream.out.clear()

    def add_credit(self, cost: int) -> None:
        """The far side has taken that much. Raises ProtocolError."""
        self._feed(cost)
        if self.credit > self._theirs.connection_bytes:
            raise ProtocolError("more credit than was ever taken")

    def has_room(self, stream: StreamRecord) -> bool:
        """Whether the stream's sender may go on; when not, ``woken`` will name it."""
        if self._roomy(stream):
            return True
        self._waiting[stream.key] = stream
        return False

    def woken(self) -> list[int]:
        """Keys of the streams whose senders may go on again."""
        if not self._waiting:
            return []
        keys = [key for key, stream in self._waiting.items() if self._roomy(stream)]
        for key in keys:
            del self._waiting[key]
        return keys

    def data_to_send(self, size_bytes: int) -> bytes:
        """The next bytes to write: about ``size_bytes``, or b"" when nothing can go now."""
        parts, self.control = self.control, []
        size = 0
        while self.ready and size < size_bytes:
            stream = self.ready.popleft()
            if stream.closed:
                stream.queued = False
            elif not stream.out:
                stream.queued = False
                flags = OPENER if stream.key > 0 else 0
                parts.append(frame.encode(frame.END, flags, abs(stream.key)))
                self._fin(stream, parts)
            elif stream.charged or self._charge(stream):
                size += self._chunk(stream, parts)
        return b"".join(parts)

    def _feed(self, cost: int) -> None:
        """There is more credit: who waits for it goes first, or no large message ever would."""
        self.credit += cost
        self.ready.extendleft(reversed(self._starved))
        self._starved.clear()

    def _roomy(self, stream: StreamRecord) -> bool:
        if stream.closed:
            return True
        return stream.unsent_bytes < self._waiting_bytes and self._unsent_bytes < UNSENT_BYTES_MAX

    def _charge(self, stream: StreamRecord) -> bool:
        """Takes the credit of the next message; False when it has to wait for some."""
        if stream.credit <= 0:
            stream.queued = False
            return False
        size = len(stream.out[0])
        cost = size + FRAME_COST * max(1, -(-size // self._chunk_bytes))
        if self._starved or cost > self.credit:
            self._starved.append(stream)
            return False
        stream.credit -= cost
        self.credit -= cost
        stream.charged = cost
        return True

    def _chunk(self, stream: StreamRecord, parts: list[bytes]) -> int:
        """Adds the next frame of the stream's first message; gives its size."""
        body = stream.out[0]
        flags = OPENER if stream.key > 0 else 0
        start = stream.sent_bytes
        if len(body) - start > self._chunk_bytes:
            body = body[start : start + self._chunk_bytes]
            stream.sent_bytes += len(body)
            flags |= MORE
        else:
            body = body[start:] if start else body
            stream.out.popleft()
            stream.sent_bytes = 0
            if stream.fin_queued and not stream.out:
                flags |= FIN
        size = len(body)
        stream.charged -= size + FRAME_COST
        stream.unsent_bytes -= size
        self._unsent_bytes -= size
        if stream.opening_out is None:
            parts.append(HEADER.pack(size, abs(stream.key), DATA, flags))
        else:
            opening, stream.opening_out = stream.opening_out, None
            size += len(opening)
            parts += (HEADER.pack(size, stream.key, OPEN, flags), opening)
        parts.append(body)
        if flags & FIN:
            stream.queued = False
            self._fin(stream, parts)
        elif stream.out:
            self.ready.append(stream)
        else:
            stream.queued = False
        return size

    def _fin(self, stream: StreamRecord, parts: list[bytes]) -> None:
        stream.fin_sent = True
        trailer = self._on_fin_sent(stream)
        if trailer:
            parts.append(trailer)
