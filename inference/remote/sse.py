"""Server-sent events, as far as inference servers use them: bytes in, ``data`` payloads out.

The wire may be cut anywhere. A payload is given when its event is complete (an empty line); lines
end with LF, CRLF or CR; comments (servers send them as signs of life) and other fields are left
out. An event that never ends is an error and not memory. After WHATWG HTML, section 9.2.
"""

from __future__ import annotations

EVENT_BYTES_MAX = 1 << 20
"""As large as a client's body may be; a chunk of an answer has some hundred bytes."""


class EventTooLarge(ValueError):
    """An event exceeds :data:`EVENT_BYTES_MAX`."""


class SseParser:
    """Takes pieces of a response body in and gives the payloads of the events that they complete.

    Args:
        event_bytes_max: The largest event, its line ends and other fields included.
    """

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._limit = event_bytes_max
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._scanned = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads of the events that end in this piece.

        Raises:
            EventTooLarge: The parser is of no use afterwards.
        """
        payloads: list[bytes] = []
        if self._after_cr and piece:
            # The second half of a line end whose first half ended the piece before.
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        self._rest += piece
        while (end := self._line_end()) >= 0:
            line = bytes(self._rest[:end])
            self._drop_line(end)
            if line:
                self._take(line)
            elif self._data:
                payloads.append(b"\n".join(self._data))
                self._data.clear()
            if not line:
                self._size = 0
        if self._size + len(self._rest) > self._limit:
            raise EventTooLarge(f"an event is larger than {self._limit} bytes")
        return payloads

    def _line_end(self) -> int:
        """Where the first line ends, or -1; bytes looked at once are not looked at again."""
        line_feed = self._rest.find(b"\n", self._scanned)
        limit = len(self._rest) if line_feed < 0 else line_feed
        carriage_return = self._rest.find(b"\r", self._scanned, limit)
        if carriage_return >= 0:
            return carriage_return
        if line_feed < 0:
            self._scanned = len(self._rest)
        return line_feed

    def _drop_line(self, end: int) -> None:
        if self._rest[end : end + 2] == b"\r\n":
            del self._rest[: end + 2]
        else:
            self._after_cr = self._rest[end : end + 1] == b"\r" and end + 1 == len(self._rest)
            del self._rest[: end + 1]
        self._scanned = 0

    def _take(self, line: bytes) -> None:
        self._size += len(line)
        if self._size > self._limit:
            raise EventTooLarge(f"an event is larger than {self._limit} bytes")
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
