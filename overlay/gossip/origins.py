"""Every other peer that this one knows from gossip; verifies what comes before it is kept.

A record, head or frame is believed for its origin's signature, whoever brought it. Nothing moves an
origin backwards: not its generation, nor its record's or head's number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from overlay.errors import ProtocolError
from overlay.gossip.messages import ORIGINS_MAX, Frame, Head, decode_frame, decode_head
from overlay.gossip.relay import Origin
from security.certificate import OverlayId
from security.errors import SecurityError
from security.peer_id import PeerId
from security.record import Record, open_record
from security.revocation import RevocationSet
from security.signed import Kind, verify_peer
from security.trust import Trust


@dataclass(slots=True)
class GossipCounters:
    """What became of what came in."""

    accepted: int = 0
    old: int = 0
    refused: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class Origins:
    """Records, heads and frames of the other peers. ``floors`` are generations known once."""

    me: PeerId
    trust: Trust
    floors: Mapping[PeerId, int]
    counters: GossipCounters = field(default_factory=GossipCounters)
    known: dict[PeerId, Origin] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[PeerId, Origin]]:
        return iter(sorted(self.known.items()))

    @property
    def overlay_id(self) -> OverlayId:
        return self.trust.overlay_id

    def take_record(
        self, data: bytes, now_unix_s: float, revocations: RevocationSet
    ) -> Record | None:
        """A record that is newer than what was known; this host's own is returned too."""
        if any(data == origin.record_bytes for origin in self.known.values()):
            return None
        try:
            record = open_record(data, self.trust, now_unix_s, revocations).value
        except SecurityError:
            self.counters.refused += 1
            return None
        if record.peer_id == self.me:
            return record
        before = self.known.get(record.peer_id)
        if record.generation < self.floors.get(record.peer_id, 0):
            self.counters.refused += 1
            return None
        if before is not None and not record.supersedes(before.record):
            self.counters.old += 1
            return None
        if before is None and len(self.known) >= ORIGINS_MAX:
            self.counters.refused += 1
            return None
        self.counters.accepted += 1
        if before is not None and before.record.generation == record.generation:
            before.record, before.record_bytes = record, data
        else:
            self.known[record.peer_id] = Origin(record, data)
        return record

    def take_head(self, data: bytes) -> tuple[PeerId, Head] | None:
        """A head that is newer than what was known of an origin whose record is known."""
        try:
            signed = verify_peer(data, Kind.HEAD, self.overlay_id)
            head = decode_head(signed.value)
        except (SecurityError, ProtocolError):
            self.counters.refused += 1
            return None
        peer_id = PeerId(signed.signer)
        origin = self.known.get(peer_id)
        if origin is None or head.generation != origin.record.generation:
            self.counters.old += 1
            return None
        before = origin.head
        if before is not None and (head.generation, head.hseq) <= (before.generation, before.hseq):
            self.counters.old += 1
            return None
        self.counters.accepted += 1
        origin.head, origin.head_bytes = head, data
        return peer_id, head

    def take_frame(self, data: bytes) -> tuple[PeerId, Frame] | None:
        """A frame that goes on where its stream has ended here."""
        try:
            signed = verify_peer(data, Kind.FRAME, self.overlay_id)
            frame = decode_frame(signed.value)
        except (SecurityError, ProtocolError):
            self.counters.refused += 1
            return None
        peer_id = PeerId(signed.signer)
        origin = self.known.get(peer_id)
        if origin is None or frame.generation != origin.record.generation:
            self.counters.old += 1
            return None
        stream = origin.stream(frame.stream)
        if stream is None or not stream.add(frame.seq, data, checkpoint=frame.checkpoint):
            self.counters.old += 1
            return None
        self.counters.accepted += 1
        return peer_id, frame
