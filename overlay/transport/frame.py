"""Frames of the multiplexer: the codec, and nothing that remembers a stream.

A frame is a 10-byte header (payload length u32, stream id u32, kind u8, flags u8; big endian) and
its payload. Rules:

1. The length is checked against a limit before a byte of the payload is kept.
2. Both sides number the streams they open from 1; the flag ``OPENER`` says that the sender of the
   frame opened the stream. So no side needs a role, and a peer that dials itself works as well.
3. ``MORE`` says that the message goes on in the stream's next frame, ``FIN`` that it was the
   sender's last one.
4. An unknown kind is skipped when it carries ``OPTIONAL`` and ends the connection when not.

The shape follows yamux and HTTP/2 (RFC 9113), without header compression.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

import msgspec

from overlay.errors import ProtocolError

HELLO: Final = 1
OPEN: Final = 2
DATA: Final = 3
END: Final = 4
WINDOW: Final = 5
RESET: Final = 6
PING: Final = 7
PONG: Final = 8
GOAWAY: Final = 9

FIN: Final = 1
MORE: Final = 2
OPENER: Final = 4
OPTIONAL: Final = 128

HEADER: Final = struct.Struct(">IIBB")
HEADER_BYTES: Final = HEADER.size
STREAM_ID_MAX: Final = 0xFFFF_FFFF

PROTOCOL_BYTES_MAX = 128
DEADLINE_MS_MAX = 0xFFFF_FFFF
REASON_BYTES_MAX = 256

_OPENING = struct.Struct(">IB")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_GOAWAY = struct.Struct(">II")

OPENING_BYTES_MAX = _OPENING.size + PROTOCOL_BYTES_MAX


class ResetCode(enum.IntEnum):
    """Why a stream was reset."""

    DONE = 0
    """The far side has finished and reads no more; no error."""
    CANCELLED = 1
    UNSUPPORTED = 2
    """Nobody there speaks this protocol, or it is not open to this connection."""
    OVERLOADED = 3
    """Refused unread: too many streams or bytes in work."""
    INTERNAL = 4
    PROTOCOL = 5
    """The stream's messages broke the rules of its protocol."""
    GOING_AWAY = 6
    """Refused unread: the far side is leaving."""


class GoawayCode(enum.IntEnum):
    """Why a connection ends."""

    DONE = 0
    PROTOCOL = 1
    REFUSED = 2
    """The far side does not admit us."""
    INTERNAL = 3


class Frame(NamedTuple):
    """One frame as it came. ``stream`` is 0 for frames about the whole connection."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Cuts a byte stream into frames. Holds at most one unfinished frame."""

    def __init__(self, payload_bytes_max: int) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._rest = bytearray()
        self._need_bytes = HEADER_BYTES

    def feed(self, data: bytes) -> list[Frame]:
        """Takes the next bytes and gives the frames that they complete.

        Raises:
            ProtocolError: When a header announces more than the limit.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need_bytes:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[Frame] = []
        make = tuple.__new__
        at, size = 0, len(data)
        self._need_bytes = HEADER_BYTES
        while size - at >= HEADER_BYTES:
            length, stream, kind, flags = HEADER.unpack_from(data, at)
            if length > self._payload_bytes_max:
                raise ProtocolError(f"a frame of {length} bytes is over {self._payload_bytes_max}")
            end = at + HEADER_BYTES + length
            if end > size:
                self._need_bytes = HEADER_BYTES + length
                break
            parts = (kind, flags, stream, data[at + HEADER_BYTES : end])
            frames.append(make(Frame, parts))  # not Frame(*parts), which costs twice as much
            at = end
        if at < size:
            self._rest += data[at:]
        return frames

    @property
    def rest(self) -> bytes:
        """Bytes of the unfinished frame."""
        return bytes(self._rest)


def encode(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return HEADER.pack(len(payload), stream, kind, flags) + payload


def encode_opening(protocol: str, deadline_ms: int) -> bytes:
    """What stands before the body in an OPEN frame. ``deadline_ms`` 0 means none."""
    name = protocol.encode("ascii")
    return _OPENING.pack(min(deadline_ms, DEADLINE_MS_MAX), len(name)) + name


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A decoded OPEN payload."""

    protocol: str
    deadline_ms: int
    body: bytes


def decode_opening(payload: bytes) -> Opening:
    """Reads an OPEN payload. Raises ProtocolError."""
    if len(payload) < _OPENING.size:
        raise ProtocolError("an OPEN frame is too short")
    deadline_ms, size = _OPENING.unpack_from(payload)
    end = _OPENING.size + size
    name = payload[_OPENING.size : end]
    if not 0 < size <= PROTOCOL_BYTES_MAX or len(name) != size or not name.isascii():
        raise ProtocolError("an OPEN frame names no protocol")
    return Opening(name.decode("ascii"), deadline_ms, payload[end:])


def encode_u32(kind: int, flags: int, stream: int, value: int) -> bytes:
    """A WINDOW or RESET frame."""
    return HEADER.pack(_U32.size, stream, kind, flags) + _U32.pack(value)


def decode_u32(payload: bytes) -> int:
    """The value of a WINDOW or RESET frame. Raises ProtocolError."""
    if len(payload) != _U32.size:
        raise ProtocolError("a WINDOW or RESET frame has the wrong size")
    return int.from_bytes(payload, "big")


def encode_ping(kind: int, number: int) -> bytes:
    """A PING or PONG frame."""
    return encode(kind, 0, 0, _U64.pack(number))


def decode_ping(payload: bytes) -> int:
    """The number of a PING or PONG frame. Raises ProtocolError."""
    if len(payload) != _U64.size:
        raise ProtocolError("a PING or PONG frame has the wrong size")
    return int.from_bytes(payload, "big")


class Goaway(NamedTuple):
    """A decoded GOAWAY payload: streams of ours above ``last_stream`` were never looked at."""

    code: int
    last_stream: int
    reason: str


def encode_goaway(code: int, last_stream: int, reason: str) -> bytes:
    """A GOAWAY frame."""
    text = reason.encode()[:REASON_BYTES_MAX]
    return encode(GOAWAY, 0, 0, _GOAWAY.pack(code, last_stream) + text)


def decode_goaway(payload: bytes) -> Goaway:
    """Reads a GOAWAY payload. Raises ProtocolError."""
    if not _GOAWAY.size <= len(payload) <= _GOAWAY.size + REASON_BYTES_MAX:
        raise ProtocolError("a GOAWAY frame has the wrong size")
    code, last_stream = _GOAWAY.unpack_from(payload)
    text = payload[_GOAWAY.size :].decode(errors="replace")
    return Goaway(code, last_stream, "".join(c if c.isprintable() else "?" for c in text))
