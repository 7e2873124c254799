"""Reads which protocols a TLS ClientHello offers, before a context is chosen for it. Sans-IO.

Only what RFC 8446 section 4.1.2 and RFC 7301 need. Whatever is not understood offers nothing:
who asks then falls back to the stricter context.
"""

from __future__ import annotations

from typing import Final

RECORD_HEADER_BYTES: Final = 5
RECORD_BYTES_MAX: Final = RECORD_HEADER_BYTES + (1 << 14)
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16


def record_bytes(data: bytes) -> int:
    """Size of the first record, or how much must be read before that is known."""
    if not data:
        return RECORD_HEADER_BYTES
    if data[0] != _HANDSHAKE:
        return 1
    if len(data) < RECORD_HEADER_BYTES:
        return RECORD_HEADER_BYTES
    return min(RECORD_BYTES_MAX, RECORD_HEADER_BYTES + int.from_bytes(data[3:5], "big"))


class _Cursor:
    """Reads length-prefixed fields; a field that is cut off raises IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise IndexError(end)
        data, self._at = self._data[self._at : end], end
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def field(self, prefix_bytes: int) -> _Cursor:
        return _Cursor(self.take(self.number(prefix_bytes)))


def offered_protocols(record: bytes) -> tuple[str, ...]:
    """The ALPN names in a record that holds a whole ClientHello; none where it does not."""
    try:
        return _offered(_Cursor(record))
    except (IndexError, UnicodeDecodeError):
        return ()


def _offered(record: _Cursor) -> tuple[str, ...]:
    if record.number(1) != _HANDSHAKE:
        return ()
    record.take(2)
    message = record.field(2)
    if message.number(1) != _CLIENT_HELLO:
        return ()
    hello = message.field(3)
    hello.take(2 + 32)
    hello.field(1)  # session id
    hello.field(2)  # cipher suites
    hello.field(1)  # compression methods
    extensions = hello.field(2)
    while extensions.more:
        kind = extensions.number(2)
        body = extensions.field(2)
        if kind == _ALPN:
            names = body.field(2)
            found = []
            while names.more:
                size = names.number(1)
                found.append(names.take(size).decode("ascii"))
            return tuple(found)
    return ()
