"""A peer with a valid identity that does not keep to the rules: what it makes to be sent.

What a node has heard is kept by :class:`Ear`; :func:`forgeries` changes it under the old
signatures, :func:`rolled_back` signs news of the node itself under numbers that were used before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import msgspec

from overlay.errors import ProtocolError
from overlay.gossip.effects import Effect, Send
from overlay.gossip.gossip import Gossip
from overlay.gossip.messages import (
    MESSAGE_BYTES_MAX,
    VERSION,
    Bundle,
    Content,
    Frame,
    Head,
    LoadHint,
    Message,
    Repair,
    StreamHead,
    decode_message,
    encode,
)
from overlay.gossip.stream import CHECKPOINT, DELTA, OriginStream, frame_header
from overlay.gossip.tagset import pack_tags
from overlay.node import Node
from security.peer_id import PeerId
from security.record import RecordBody, sign_record
from security.signed import Kind, SignedObject, sign_as_peer

HEARD_MAX = 64
"""Messages that an ear remembers."""

REPEATED = 4
"""Messages of those heard that are sent again at a time."""

FORGED = 4
"""Messages of those heard that are forged at a time."""

FORGED_MAX = 16
"""Objects of each kind in one forged message."""

JUNK_TAGS = 32

_signed = msgspec.msgpack.Decoder(SignedObject)
_encode = msgspec.msgpack.Encoder().encode


@dataclass(eq=False)
class Ear:
    """The last messages that a node was told, whoever told them."""

    heard: deque[tuple[PeerId, bytes]] = field(default_factory=lambda: deque(maxlen=HEARD_MAX))
    on: bool = True

    def listen_at(self, node: Node) -> None:
        """Remembers what this node is told from now on."""

        def hear(sender: PeerId, data: bytes) -> None:
            if self.on:
                self.heard.append((sender, data))

        listen(node, hear)

    def take(self, node: Node) -> None:
        """Remembers what this node carries of the others, as if it had just been told."""
        for peer_id, origin in node.knowledge.gossip.origins:
            frames = [
                data
                for stream in origin.streams.values()
                for _, _, data in stream.after(0)[:FORGED_MAX]
            ]
            heads = [origin.head_bytes] if origin.head_bytes else []
            repair = Repair(epochs=[], records=[origin.record_bytes], heads=heads, frames=frames)
            data = encode(repair)
            if len(data) <= MESSAGE_BYTES_MAX:
                self.heard.append((peer_id, data))

    def repeats(self, rng: Random) -> list[bytes]:
        """Some of the messages heard, to be sent again."""
        heard = [data for _, data in self.heard]
        return rng.sample(heard, min(REPEATED, len(heard)))

    def forgeries(self, rng: Random) -> list[bytes]:
        """Some of the messages heard, changed under the old signatures."""
        heard = [data for _, data in self.heard]
        chosen = rng.sample(heard, min(FORGED, len(heard)))
        forged = [forgeries(data, rng) for data in chosen]
        return [data for data in forged if data is not None]


def listen(node: Node, hear: Callable[[PeerId, bytes], None]) -> None:
    """Has ``hear`` told each gossip message that comes to a node, before that reads it."""
    gossip = node.knowledge.gossip
    deliver = gossip.on_message

    def tap(sender: PeerId, data: bytes, now_s: float, now_unix_s: float) -> list[Effect]:
        hear(sender, data)
        return deliver(sender, data, now_s, now_unix_s)

    gossip.on_message = tap  # type: ignore[method-assign]  # the tap


def tell(node: Node, data: bytes, *, to: PeerId | None = None) -> int:
    """Puts a message on the node's own gossip streams, to everybody that is up or to one.

    Returns:
        How many peers it goes to.
    """
    knowledge = node.knowledge
    told = 0
    for peer_id in node.peers.up() if to is None else [to]:
        if peer_id not in knowledge._outboxes:
            continue
        dropped = knowledge.dropped
        knowledge._send(Send(peer_id, data))
        told += knowledge.dropped == dropped
    return told


# -- forgeries


def forgeries(data: bytes, rng: Random) -> bytes | None:
    """The signed objects of a message with other bodies under their old signatures, as a repair.

    None where it carries none.
    """
    try:
        message = decode_message(data)
    except ProtocolError:
        return None
    records, heads, frames = _parts(message)
    forged = Repair(
        epochs=[],
        records=[_forged(each, rng) for each in records[:FORGED_MAX]],
        heads=[_forged(each, rng) for each in heads[:FORGED_MAX]],
        frames=[_forged(each, rng) for each in frames[:FORGED_MAX]],
    )
    if not (forged.records or forged.heads or forged.frames):
        return None
    return encode(forged)


def _parts(message: Message) -> tuple[list[bytes], list[bytes], list[bytes]]:
    match message:
        case Bundle(record=record, head=head, frames=frames):
            return [] if record is None else [record], [head], frames
        case Repair(records=records, heads=heads, frames=frames):
            return records, heads, frames
        case _:
            return [], [], []


def _forged(data: bytes, rng: Random) -> bytes:
    """A signed object with another body: newer by its numbers, or with a byte changed."""
    signed = _signed.decode(data)
    body = _flipped(signed.body, rng)
    if rng.random() < 0.75:
        # One that was changed before may be no such object any more.
        with suppress(msgspec.MsgspecError, UnicodeError):
            body = _newer(signed, rng)
    return _encode(msgspec.structs.replace(signed, body=body))


def _newer(signed: SignedObject, rng: Random) -> bytes:
    ahead = rng.randrange(1, 1000)
    match signed.kind:
        case Kind.HEAD.value:
            head = msgspec.msgpack.decode(signed.body, type=Head)
            idle = LoadHint(slots=64, prefill_tokens_per_s=1e9)
            return encode(msgspec.structs.replace(head, hseq=head.hseq + ahead, load=idle))
        case Kind.FRAME.value:
            frame = msgspec.msgpack.decode(signed.body, type=Frame)
            return encode(msgspec.structs.replace(frame, seq=frame.seq + 1))
        case Kind.RECORD.value:
            record = msgspec.msgpack.decode(signed.body, type=RecordBody)
            return _encode(
                msgspec.structs.replace(
                    record, seq=record.seq + ahead, addresses=["10.66.0.66:7401"]
                )
            )
        case _:
            return _flipped(signed.body, rng)


def _flipped(body: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body))
    return body[:at] + bytes([body[at] ^ (1 << rng.randrange(8))]) + body[at + 1 :]


# -- numbers that were used before


def rolled_back(node: Node, back: int, now_unix_s: float, rng: Random) -> bytes:
    """News of the node itself, properly signed, under numbers that it has used before."""
    gossip: Gossip = node.knowledge.gossip
    publisher = gossip.publisher
    identity = publisher._identity
    overlay_id = identity.trust.overlay_id
    streams = [stream for _, stream in sorted(publisher._streams.items())]
    head = Head(
        v=VERSION,
        generation=publisher.generation,
        hseq=max(0, publisher._hseq - back),
        unix_ms=max(0, int(now_unix_s * 1000)),
        load=LoadHint(slots=64),
        streams=[
            StreamHead(stream=each.stream, seq=max(0, each.seq - back), checkpoint=0)
            for each in streams
        ],
    )
    record = sign_record(
        identity.keys,
        overlay_id,
        leaf=identity.leaf,
        issuer=identity.issuer,
        addresses=("10.66.0.66:7401",),
        generation=publisher.generation,
        boot_salt=publisher._boot_salt,
        seq=max(0, publisher._record_seq - back),
    )
    frames = [frame for each in streams if each.seq for frame in _old_frames(node, each, back, rng)]
    signed_head = sign_as_peer(identity.keys, overlay_id, Kind.HEAD, encode(head))
    return encode(Repair(epochs=[], records=[record], heads=[signed_head], frames=frames))


def _old_frames(node: Node, stream: OriginStream, back: int, rng: Random) -> Iterator[bytes]:
    """A delta and a checkpoint of made-up tags, with a number that the stream has behind it."""
    publisher = node.knowledge.gossip.publisher
    identity = publisher._identity
    seq = max(1, stream.seq - back)
    junk = pack_tags(rng.getrandbits(48) for _ in range(JUNK_TAGS))
    for kind in (DELTA, CHECKPOINT):
        content = encode(Content(junk, b"", False))
        header = frame_header(stream.stream, publisher.generation, seq)
        envelope = publisher._sealers.of(stream.tenant.keys).seal(kind, header, content)
        frame = Frame(
            v=VERSION,
            stream=stream.stream,
            generation=publisher.generation,
            seq=seq,
            checkpoint=kind == CHECKPOINT,
            envelope=envelope,
        )
        yield sign_as_peer(identity.keys, identity.trust.overlay_id, Kind.FRAME, encode(frame))


def tell_anew(node: Node) -> None:
    """The node's next frames are checkpoints of all that it publishes."""
    for stream in node.knowledge.gossip.publisher._streams.values():
        stream._pending_checkpoint = True


def own_news(node: Node, now_unix_s: float) -> bytes:
    """The node's own record, a new head, and its last frames, for somebody else to pass on."""
    publisher = node.knowledge.gossip.publisher
    frames = [
        data
        for _, stream in sorted(publisher._carried.items())
        for _, _, data in stream.after(0)[-FORGED_MAX:]
    ]
    head = publisher.head(now_unix_s)
    return encode(Repair(epochs=[], records=[publisher.record()], heads=[head], frames=frames))
