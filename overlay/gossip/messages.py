"""What peers say on ``/rhizome/gossip/1``, and the signed things inside.

Messages: :class:`Bundle` (one per period, the same for everybody, padded), :class:`Heads` (an
anti-entropy question: this is what I have) and :class:`Repair` (what you lack). Heads and frames
are signed by their origin and carried as they were signed, so that any peer may pass them on.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.errors import ProtocolError
from overlay.wire import read
from security.envelope import ENVELOPE_BYTES_MAX
from security.epoch import EPOCH_BYTES_MAX
from security.record import RECORD_BYTES_MAX

VERSION = 1
MESSAGE_BYTES_MAX = 1 << 20
STREAMS_MAX = 64
"""Tenants that one peer publishes for."""

ORIGINS_MAX = 1024
HEAD_BYTES_MAX = 4096
FRAME_BYTES_MAX = ENVELOPE_BYTES_MAX + 512

Uint = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Small = Annotated[int, Meta(ge=0, le=1 << 20)]
Rate = Annotated[float, Meta(ge=0, le=1e12)]
StreamId = Annotated[bytes, Meta(min_length=8, max_length=8)]
Name = Annotated[str, Meta(max_length=64)]
HeadBytes = Annotated[bytes, Meta(max_length=HEAD_BYTES_MAX)]
FrameBytes = Annotated[bytes, Meta(max_length=FRAME_BYTES_MAX)]
RecordBytes = Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
EpochBytes = Annotated[bytes, Meta(max_length=EPOCH_BYTES_MAX)]


class LoadHint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How busy a peer is, rounded; no count of free blocks.

    Tokens per second, seconds per token; 0 means not measured.
    """

    slots: Small = 1
    running: Small = 0
    queued: Small = 0
    queued_tokens: Uint = 0
    prefill_tokens_per_s: Rate = 0.0
    decode_s_per_token: Rate = 0.0


class StreamHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far a stream is: ``seq`` deltas, of which a checkpoint holds the first ``checkpoint``."""

    stream: StreamId
    seq: Uint
    checkpoint: Uint


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="head"):
    """What an origin says of itself every period; signed by it."""

    v: Annotated[int, Meta(ge=1, le=255)]
    generation: Uint
    hseq: Uint
    unix_ms: Uint
    load: LoadHint
    streams: Annotated[list[StreamHead], Meta(max_length=STREAMS_MAX)]


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="frame"):
    """One delta or checkpoint, sealed for a tenant's members; signed by its origin."""

    v: Annotated[int, Meta(ge=1, le=255)]
    stream: StreamId
    generation: Uint
    seq: Uint
    checkpoint: bool
    envelope: Annotated[bytes, Meta(max_length=ENVELOPE_BYTES_MAX)]


class Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is sealed in a frame: tags, 6 bytes each. A checkpoint only adds."""

    added: bytes
    removed: bytes
    truncated: bool


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bundle"):
    """An origin's news of one period; ``pad`` makes its size a power of two from 512 bytes on."""

    record: RecordBytes | None
    head: HeadBytes
    frames: Annotated[list[FrameBytes], Meta(max_length=STREAMS_MAX)]
    pad: bytes


class Known(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far somebody knows one origin."""

    origin: Name
    record_generation: Uint
    record_seq: Uint
    generation: Uint
    hseq: Uint
    streams: Annotated[list[tuple[StreamId, Uint]], Meta(max_length=STREAMS_MAX)]


class KnownEpoch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far somebody knows one tenant's EPOCH objects, by its steward and its opaque name."""

    steward: Annotated[bytes, Meta(min_length=16, max_length=16)]
    object_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    epoch: Uint
    version: Uint


class Heads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="heads"):
    """Anti-entropy: everything that the sender knows. ``answer`` asks for no further Heads."""

    known: Annotated[list[Known], Meta(max_length=ORIGINS_MAX)]
    epochs: Annotated[list[KnownEpoch], Meta(max_length=ORIGINS_MAX)]
    answer: bool


class Repair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="repair"):
    """What the receiver was seen to lack, as its origins signed it."""

    epochs: Annotated[list[EpochBytes], Meta(max_length=ORIGINS_MAX)]
    records: Annotated[list[RecordBytes], Meta(max_length=ORIGINS_MAX)]
    heads: Annotated[list[HeadBytes], Meta(max_length=ORIGINS_MAX)]
    frames: Annotated[list[FrameBytes], Meta(max_length=4096)]


Message = Bundle | Heads | Repair

_encoder = msgspec.msgpack.Encoder()
_message: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_head = msgspec.msgpack.Decoder(Head)
_frame = msgspec.msgpack.Decoder(Frame)
_content = msgspec.msgpack.Decoder(Content)


def encode(value: Message | Head | Frame | Content | Known) -> bytes:
    """The bytes of a message or a part of one, or of what is signed or sealed."""
    return _encoder.encode(value)


def decode_message(data: bytes) -> Message:
    """Reads a message. Raises ProtocolError, without the content."""
    return read(_message, data, "gossip message")


def decode_head(data: bytes) -> Head:
    """Reads the body of a signed head. Raises ProtocolError, also for another version."""
    head = read(_head, data, "head")
    if head.v != VERSION:
        raise ProtocolError(f"head version {head.v} is not {VERSION}")
    return head


def decode_frame(data: bytes) -> Frame:
    """Reads the body of a signed frame. Raises ProtocolError, also for another version."""
    frame = read(_frame, data, "frame")
    if frame.v != VERSION:
        raise ProtocolError(f"frame version {frame.v} is not {VERSION}")
    return frame


def decode_content(data: bytes) -> Content:
    """Reads what was sealed in a frame. Raises ProtocolError."""
    return read(_content, data, "sealed content")


PADDED_MIN_BYTES = 512


def padded(record: bytes | None, head: bytes, frames: list[bytes]) -> bytes:
    """A bundle whose size says only its power of two."""
    bare = encode(Bundle(record=record, head=head, frames=frames, pad=b""))
    size = PADDED_MIN_BYTES
    while True:
        # msgpack's own length field grows with the pad, so a few pads have no exact size.
        for overhead in (0, 1, 3):
            pad = bytes(max(0, size - len(bare) - overhead))
            data = encode(Bundle(record=record, head=head, frames=frames, pad=pad))
            if len(data) == size:
                return data
        size *= 2
