"""Every other peer that this one knows from gossip; verifies what comes before it is kept.

A record, head or frame is believed for its origin's signature, whoever brought it. Nothing moves an
origin backwards: not its generation, nor its record's or head's number.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field

from overlay.errors import ProtocolError
from overlay.generation import is_plausible
from overlay.gossip.equivocation import Quarantine, TwoHeads
from overlay.gossip.graves import Graves
from overlay.gossip.messages import ORIGINS_MAX, Frame, Head, Known, decode_frame, decode_head
from overlay.gossip.relay import CARRIED_BYTES_MAX, ORIGIN_BYTES_MAX, Origin
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
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class TakenFrame:
    """A frame whose signature has been checked, and the bytes that it is kept as."""

    peer_id: PeerId
    frame: Frame
    data: bytes


@dataclass(slots=True)
class Origins:
    """Records, heads and frames of the other peers.

    ``trust`` is what is believed now, ``floors`` are generations known once; ``is_ours`` says
    whether a peer is a member of a tenant of this host.
    """

    me: PeerId
    trust: Callable[[], Trust]
    overlay_id: OverlayId
    floors: Mapping[PeerId, int]
    is_ours: Callable[[PeerId], bool]
    quarantine: Quarantine
    counters: GossipCounters = field(default_factory=GossipCounters)
    known: dict[PeerId, Origin] = field(default_factory=dict)
    graves: Graves = field(init=False)
    doubled: list[TwoHeads] = field(default_factory=list)
    """Heads that came beside another one of their number, until somebody looks."""

    carried_bytes: int = 0
    _moved: dict[PeerId, tuple[tuple[int, int], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graves = Graves(self.overlay_id)

    def __iter__(self) -> Iterator[tuple[PeerId, Origin]]:
        return iter(sorted(self.known.items()))

    def known_of(self, peer_id: PeerId) -> Known | None:
        """How far an origin is known here, or was before it fell silent."""
        origin = self.known.get(peer_id)
        return self.graves.known_of(peer_id) if origin is None else origin.known(peer_id)

    def is_host(self, peer_id: PeerId) -> bool:
        """Whether a record of that name was ever believed here, as far as this host remembers."""
        return any(peer_id in each for each in (self.known, self.graves, self.floors))

    def forget_silent(
        self, now_s: float, connected: Container[PeerId], silent_s: float
    ) -> list[PeerId]:
        """Forgets the origins that have signed nothing new for so long; returns which.

        A connected one is not silent: the transport knows better.
        """
        forgotten = []
        self.carried_bytes = 0
        for peer_id, origin in self:
            mark = (origin.record.generation, -1 if origin.head is None else origin.head.hseq)
            before = self._moved.get(peer_id)
            if before is None or before[0] != mark or peer_id in connected:
                self._moved[peer_id] = (mark, now_s)
            elif now_s - before[1] >= silent_s:
                self.graves.dig(peer_id, origin.known(peer_id), now_s)
                del self.known[peer_id], self._moved[peer_id]
                self.counters.forgotten += 1
                forgotten.append(peer_id)
                continue
            self.carried_bytes += origin.size_bytes
        self.graves.expire(now_s)
        return forgotten

    def forget_revoked(self, now_s: float, revocations: RevocationSet) -> list[PeerId]:
        """Forgets the origins that are revoked, or whose issuer is; returns which.

        Else what they sign would go on being believed when an admitted peer passes it on.
        """
        revoked = [
            peer_id
            for peer_id, origin in self
            if revocations.revokes(peer_id) or revocations.revokes(origin.record.issuer_id)
        ]
        for peer_id in revoked:
            self.bury(peer_id, now_s)
        return revoked

    def bury(self, peer_id: PeerId, now_s: float) -> None:
        """Forgets an origin at once. Unknown: no effect."""
        origin = self.known.pop(peer_id, None)
        if origin is not None:
            self.graves.dig(peer_id, origin.known(peer_id), now_s)
            self._moved.pop(peer_id, None)

    def take_record(
        self, data: bytes, now_unix_s: float, revocations: RevocationSet
    ) -> Record | None:
        """A record that is newer than what was known; this host's own is returned too.

        Of two processes with one generation, the one that was known first is believed. One of the
        far future is nobody's: whoever has stolen a key could otherwise use up all generations.
        """
        if any(data == origin.record_bytes for origin in self.known.values()):
            return None
        try:
            record = open_record(data, self.trust(), now_unix_s, revocations).value
        except SecurityError:
            self.counters.refused += 1
            return None
        if record.peer_id in self.quarantine or not is_plausible(record.generation, now_unix_s):
            self.counters.refused += 1
            return None
        if record.peer_id == self.me:
            return record
        before = self.known.get(record.peer_id)
        if record.generation < self.floors.get(record.peer_id, 0):
            self.counters.refused += 1
            return None
        if self.graves.bars(record) or (
            before is not None and not record.supersedes(before.record)
        ):
            self.counters.old += 1
            return None
        if before is not None and _is_clone(record, before.record):
            self.counters.refused += 1
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
        if (
            origin is None
            or head.generation != origin.record.generation
            or self.graves.bars_head(peer_id, head)
        ):
            self.counters.old += 1
            return None
        before = origin.head
        if before is not None and (head.generation, head.hseq) <= (before.generation, before.hseq):
            same = (head.generation, head.hseq) == (before.generation, before.hseq)
            if same and data != origin.head_bytes:
                self.doubled.append(TwoHeads(peer_id, origin.head_bytes, data))
            self.counters.old += 1
            return None
        self.counters.accepted += 1
        self.graves.close(peer_id)
        origin.head, origin.head_bytes = head, data
        return peer_id, head

    def take_frame(self, data: bytes) -> TakenFrame | None:
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
        if origin.size_bytes + len(data) > ORIGIN_BYTES_MAX or not self._has_room(
            peer_id, len(data)
        ):
            self.counters.refused += 1
            return None
        stream = origin.stream(frame.stream)
        if stream is None or not stream.add(frame.seq, data, checkpoint=frame.checkpoint):
            self.counters.old += 1
            return None
        self.counters.accepted += 1
        self.carried_bytes += len(data)
        return TakenFrame(peer_id, frame, data)

    def _has_room(self, peer_id: PeerId, size_bytes: int) -> bool:
        """Whether so much more can be carried of an origin.

        For a member of a tenant of ours others make room, the largest first: carrying for them is
        a kindness, and a handful of them could fill everything.
        """
        if self.carried_bytes + size_bytes <= CARRIED_BYTES_MAX:
            return True
        if not self.is_ours(peer_id):
            return False
        others = [(-origin.size_bytes, other) for other, origin in self if not self.is_ours(other)]
        for negative_bytes, other in sorted(others):
            if self.carried_bytes + size_bytes <= CARRIED_BYTES_MAX:
                break
            self.known[other].streams.clear()
            self.carried_bytes += negative_bytes
        return self.carried_bytes + size_bytes <= CARRIED_BYTES_MAX


def _is_clone(record: Record, known: Record) -> bool:
    return record.generation == known.generation and record.boot_salt != known.boot_salt
