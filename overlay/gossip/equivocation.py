"""Two heads that one origin has signed under one number: the proof, and its time in quarantine.

An honest program signs each number once (``publisher.py``). Who holds two different heads of one
(generation, hseq) can show them to anybody: both signatures are the origin's own. For an hour
nothing that the origin signs is taken in, whoever brings it; the proof is stored, so that neither a
restart ends the quarantine nor the operator is left without a reason to revoke. Heads of who is no
host prove nothing: keys cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from overlay.errors import ProtocolError
from overlay.gossip.messages import decode_head
from security.certificate import OverlayId
from security.errors import SecurityError
from security.peer_id import PeerId
from security.signed import Kind, claimed_signer, verify_peer

PROOFS = "proofs"
"""The table of the proofs."""

QUARANTINE_S = 3600.0
PROOFS_MAX = 256
"""Origins in quarantine at a time; the oldest goes first."""

_ROW = struct.Struct(">dI")
"""When the quarantine ends (unix), and the size of the first head; both heads follow."""


@dataclass(frozen=True, slots=True)
class TwoHeads:
    """Different heads, both signed by this peer under one number."""

    peer_id: PeerId
    first: bytes
    second: bytes


def shown(heads: Sequence[bytes], overlay_id: OverlayId) -> list[TwoHeads]:
    """The pairs in one message: so one peer shows another what it has caught."""
    by_signer: dict[PeerId, bytes] = {}
    found: list[TwoHeads] = []
    for data in heads if len(heads) > 1 else ():
        try:
            first = by_signer.setdefault(claimed_signer(data), data)
            if first != data:
                found += _pair(first, data, overlay_id)
        except (SecurityError, ProtocolError):
            continue
    return found


def _pair(first: bytes, second: bytes, overlay_id: OverlayId) -> list[TwoHeads]:
    signed = [verify_peer(data, Kind.HEAD, overlay_id) for data in (first, second)]
    one, other = (decode_head(each.value) for each in signed)
    if (one.generation, one.hseq) != (other.generation, other.hseq):
        return []
    return [TwoHeads(PeerId(signed[0].signer), first, second)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What an origin has signed. ``until_unix_s``: the end of its quarantine."""

    heads: TwoHeads
    until_unix_s: float

    @property
    def peer_id(self) -> PeerId:
        return self.heads.peer_id

    def row(self) -> dict[bytes, bytes]:
        """As it is stored."""
        first, second = self.heads.first, self.heads.second
        row = _ROW.pack(self.until_unix_s, len(first)) + first + second
        return {self.peer_id.encode(): row}


@dataclass(slots=True)
class Quarantine:
    """Origins of which nothing is taken in. ``rows`` are the proofs as they were stored."""

    rows: Mapping[bytes, bytes]
    _proofs: dict[PeerId, Proof] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, row in self.rows.items():
            if len(row) > _ROW.size:
                until_unix_s, size = _ROW.unpack_from(row)
                first, second = row[_ROW.size :][:size], row[_ROW.size :][size:]
                heads = TwoHeads(PeerId(key.decode("ascii", "replace")), first, second)
                self._put(Proof(heads=heads, until_unix_s=until_unix_s))

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._proofs

    def __iter__(self) -> Iterator[Proof]:
        return iter(self._proofs.values())

    def begin(self, heads: TwoHeads, now_unix_s: float) -> dict[bytes, bytes | None]:
        """From now on nothing of that origin is taken in; the rows to store."""
        proof = Proof(heads=heads, until_unix_s=now_unix_s + QUARANTINE_S)
        return {**dict.fromkeys(self._put(proof)), **proof.row()}

    def expire(self, now_unix_s: float) -> dict[bytes, bytes | None]:
        """Ends what is over, also where the clock was set back; the rows that go.

        The heads themselves are old by then, and prove nothing that still matters.
        """
        over = [
            proof.peer_id
            for proof in self
            if not 0 < proof.until_unix_s - now_unix_s <= QUARANTINE_S
        ]
        for peer_id in over:
            del self._proofs[peer_id]
        return {peer_id.encode(): None for peer_id in over}

    def _put(self, proof: Proof) -> list[bytes]:
        """Keeps one; the keys of those that made room."""
        self._proofs.pop(proof.peer_id, None)
        self._proofs[proof.peer_id] = proof
        gone = list(self._proofs)[: max(0, len(self._proofs) - PROOFS_MAX)]
        for peer_id in gone:
            del self._proofs[peer_id]
        return [peer_id.encode() for peer_id in gone]
