"""What stays of a peer that has been silent for long: how far it was known, and nothing else.

Its record, frames and tags are let go; whoever still carries them could bring them back for ever,
so that what is not newer than the grave is not taken in again. Only a head that its origin has
signed since opens a grave: nobody else's word makes a peer alive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from overlay.errors import ProtocolError
from overlay.gossip.messages import Head, Known, decode_head
from security.certificate import OverlayId
from security.errors import SecurityError
from security.peer_id import PeerId
from security.record import Record
from security.signed import Kind, claimed_signer, verify_peer

GRAVES_MAX = 256
KEPT_S = 86_400.0


@dataclass(slots=True)
class _Grave:
    known: Known
    dug_s: float
    open: bool = False

    def is_below(self, generation: int, hseq: int) -> bool:
        return (generation, hseq) > (self.known.record_generation, self.known.hseq)


@dataclass(slots=True)
class Graves:
    """The silent peers by name, oldest first; bounded, each for a day."""

    overlay_id: OverlayId
    _graves: dict[PeerId, _Grave] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._graves)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._graves

    def dig(self, peer_id: PeerId, known: Known, now_s: float) -> None:
        """A peer is forgotten as of what was known of it."""
        self._graves.pop(peer_id, None)
        self._graves[peer_id] = _Grave(known, now_s)
        while len(self._graves) > GRAVES_MAX:
            del self._graves[next(iter(self._graves))]

    def expire(self, now_s: float) -> None:
        """Lets go what is a day old."""
        for peer_id, grave in list(self._graves.items()):
            if now_s - grave.dug_s >= KEPT_S:
                del self._graves[peer_id]

    def known(self) -> list[Known]:
        """How far the silent peers were known, so that nobody sends all of it again."""
        return [grave.known for _, grave in sorted(self._graves.items()) if not grave.open]

    def known_of(self, peer_id: PeerId) -> Known | None:
        """How far a silent peer was known."""
        grave = self._graves.get(peer_id)
        return None if grave is None or grave.open else grave.known

    def open_for(self, heads: Iterable[bytes]) -> None:
        """Opens the graves of the peers that have signed a newer head."""
        for data in heads if self._graves else ():
            try:
                grave = self._graves.get(claimed_signer(data))
                if grave is None:
                    continue
                head = decode_head(verify_peer(data, Kind.HEAD, self.overlay_id).value)
            except (SecurityError, ProtocolError):
                continue
            grave.open = grave.open or grave.is_below(head.generation, head.hseq)

    def bars(self, record: Record) -> bool:
        """Whether a record is one of those that were let go."""
        grave = self._graves.get(record.peer_id)
        if grave is None or grave.open:
            return False
        return record.generation <= grave.known.record_generation

    def bars_head(self, peer_id: PeerId, head: Head) -> bool:
        """Whether a head is not newer than the one that was known."""
        grave = self._graves.get(peer_id)
        return grave is not None and not grave.is_below(head.generation, head.hseq)

    def close(self, peer_id: PeerId) -> None:
        """The peer is known again."""
        self._graves.pop(peer_id, None)
