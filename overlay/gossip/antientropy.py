"""Anti-entropy: what the far side lacks of what is known here, and the other way round.

Both sides tell how far they know every origin; what is sent is what the other one lacks, as its
origin signed it, checkpoint first where the deltas alone would leave a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from overlay.gossip.epochs import Epochs
from overlay.gossip.messages import (
    FRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Heads,
    Known,
    Repair,
)
from overlay.gossip.origins import Origins
from overlay.gossip.relay import Origin
from security.peer_id import PeerId

REPAIR_BYTES_MAX = MESSAGE_BYTES_MAX - FRAME_BYTES_MAX - 4096
"""A repair message is closed when it has grown beyond this; the rest comes with the next round."""

PART_OVERHEAD_BYTES = 5
"""What msgpack puts before each part of a repair."""

ALLOWANCE_BYTES = 8 << 20
ALLOWANCE_BYTES_PER_S = 1 << 20
"""A question of some bytes is answered by up to a megabyte: so much of that one peer may cause."""


@dataclass(slots=True)
class Allowance:
    """Bytes of repairs that each peer may still cause; they come back with time."""

    _spent: dict[PeerId, tuple[float, float]] = field(default_factory=dict)

    def is_left(self, peer_id: PeerId, now_s: float) -> bool:
        """Whether the peer may be sent one more repair."""
        return self._debt(peer_id, now_s) < ALLOWANCE_BYTES

    def spend(self, peer_id: PeerId, size_bytes: int, now_s: float) -> None:
        """A repair of this size goes to the peer."""
        self._spent[peer_id] = (self._debt(peer_id, now_s) + size_bytes, now_s)

    def forget(self, peer_id: PeerId) -> None:
        """The peer is down."""
        self._spent.pop(peer_id, None)

    def _debt(self, peer_id: PeerId, now_s: float) -> float:
        spent, at_s = self._spent.get(peer_id, (0.0, now_s))
        return max(0.0, spent - (now_s - at_s) * ALLOWANCE_BYTES_PER_S)


def repair_of(
    sender: PeerId,
    heads: Heads,
    epochs: Epochs,
    me: PeerId,
    origins: Iterable[tuple[PeerId, Origin]],
) -> Repair | None:
    """One message of what the sender of ``heads`` lacks; None when it lacks nothing.

    Args:
        sender: Who asks.
        heads: How far it knows everything.
        epochs: The EPOCH objects known here.
        me: This host, whose own head travels in its bundles only.
        origins: All origins known here, this host among them.
    """
    repair, size = Repair(epochs=[], records=[], heads=[], frames=[]), 0

    def put(place: list[bytes], data: bytes) -> None:
        nonlocal size
        if size <= REPAIR_BYTES_MAX:
            place.append(data)
            size += len(data) + PART_OVERHEAD_BYTES

    theirs = {PeerId(known.origin): known for known in heads.known}
    for epoch in epochs.newer_than(heads.epochs):
        put(repair.epochs, epoch)
    for peer_id, origin in origins:
        known = theirs.get(peer_id)
        have = (known.record_generation, known.record_seq) if known else (0, -1)
        if origin.record.generation < have[0]:
            continue
        if peer_id == sender:
            # Its own record of a later generation tells it that it has fallen behind itself.
            if origin.record.generation > have[0]:
                put(repair.records, origin.record_bytes)
            continue
        if (origin.record.generation, origin.record.seq) > have:
            put(repair.records, origin.record_bytes)
        same = known is not None and known.record_generation == origin.record.generation
        hseq = known.hseq if known is not None and same else -1
        if origin.head is not None and origin.head.hseq > hseq and peer_id != me:
            put(repair.heads, origin.head_bytes)
        seqs = dict(known.streams) if known is not None and same else {}
        for name, stream in sorted(origin.streams.items()):
            for _, _, data in stream.after(seqs.get(name, 0)):
                put(repair.frames, data)
    return repair if size else None


def lacks(heads: Heads, epochs: Epochs, me: PeerId, origins: Origins) -> bool:
    """Whether the sender of ``heads`` knows something that is not known here."""
    if epochs.lacks(heads.epochs):
        return True
    return any(
        known.origin != me
        and known.origin not in origins.quarantine
        and _is_ahead(known, origins.known_of(PeerId(known.origin)))
        for known in heads.known
    )


def _is_ahead(theirs: Known, mine: Known | None) -> bool:
    if mine is None:
        return True
    if (theirs.record_generation, theirs.record_seq) > (mine.record_generation, mine.record_seq):
        return True
    if theirs.streams == mine.streams:
        return False
    seqs: Mapping[bytes, int] = dict(mine.streams)
    return any(seq > seqs.get(name, 0) for name, seq in theirs.streams)
