"""What a peer carries for others: of each origin its record, its head, and its streams' frames.

Everything in here has been verified to be its origin's, and may be unreadable to this host. Of a
stream there is at most one checkpoint and the deltas behind it, without gaps and bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.gossip.lateness import Lateness
from overlay.gossip.messages import STREAMS_MAX, Head, Known
from security.peer_id import PeerId
from security.record import Record

TAIL_FRAMES_MAX = 128
STREAM_BYTES_MAX = 2 << 20
"""A checkpoint of a full budget, and a tail as large."""

ORIGIN_BYTES_MAX = 32 << 20
"""The streams of an honest host with the most tenants and full budgets; others have far less."""

CARRIED_BYTES_MAX = 256 << 20
"""All origins together."""

ENDED_MAX = 256
"""Names of streams of an origin that have ended, and are remembered so that none comes back."""


@dataclass(slots=True)
class CarriedStream:
    """Sealed frames of one stream, as they were signed."""

    checkpoint_seq: int = 0
    checkpoint: bytes | None = None
    tail: dict[int, bytes] = field(default_factory=dict)
    size_bytes: int = 0
    let_go: bool = False

    @property
    def seq(self) -> int:
        """The last number up to which nothing is missing; 0 when nothing is there."""
        if self.let_go:
            return 0
        return self.checkpoint_seq + len(self.tail)

    def add(self, seq: int, data: bytes, *, checkpoint: bool) -> bool:
        """Takes a frame in; False where it is old, leaves a gap, or is over the bounds.

        A tail at its bounds lacks a checkpoint: all is let go, so that the next repair brings one;
        nothing else is taken before, so that the old deltas cannot be played again.
        """
        if checkpoint:
            if seq <= self.checkpoint_seq or len(data) > STREAM_BYTES_MAX:
                return False
            if self.seq > seq:
                self.tail = {number: kept for number, kept in self.tail.items() if number > seq}
            else:
                self.tail = {}
            self.checkpoint_seq, self.checkpoint, self.let_go = seq, data, False
            self.size_bytes = len(data) + sum(map(len, self.tail.values()))
            return True
        if self.let_go or seq != self.seq + 1:
            return False
        if len(self.tail) >= TAIL_FRAMES_MAX or self.size_bytes + len(data) > STREAM_BYTES_MAX:
            self.checkpoint, self.tail, self.size_bytes, self.let_go = None, {}, 0, True
            return False
        self.tail[seq] = data
        self.size_bytes += len(data)
        return True

    def after(self, seq: int) -> list[tuple[int, bool, bytes]]:
        """(number, is a checkpoint, frame) for somebody who has everything up to ``seq``."""
        found = []
        if self.checkpoint is not None and seq < self.checkpoint_seq:
            found.append((self.checkpoint_seq, True, self.checkpoint))
        found += [(number, False, data) for number, data in self.tail.items() if number > seq]
        return found


@dataclass(slots=True)
class Origin:
    """One peer as this one knows it from gossip.

    By our clock, ``taken_s`` is when its head was made, and ``current_s`` when the last head was
    made of which everything that can be read here had come.
    """

    record: Record
    record_bytes: bytes
    head: Head | None = None
    head_bytes: bytes = b""
    taken_s: float = 0.0
    current_s: float = float("-inf")
    lateness: Lateness = field(default_factory=Lateness)
    streams: dict[bytes, CarriedStream] = field(default_factory=dict)
    ended: dict[bytes, None] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum([stream.size_bytes for stream in self.streams.values()])

    def drop_ended(self) -> list[bytes]:
        """Lets go the streams that its head tells of no more, and names them.

        Who has not heard that head yet would bring them back: their first frames once more.
        """
        if self.head is None:
            return []
        going_on = {head.stream for head in self.head.streams}
        for name in going_on:
            self.ended.pop(name, None)
        ended = sorted([name for name in self.streams if name not in going_on])
        for name in ended:
            del self.streams[name]
            self.ended[name] = None
        while len(self.ended) > ENDED_MAX:
            del self.ended[next(iter(self.ended))]
        return ended

    def stream(self, name: bytes) -> CarriedStream | None:
        """The stream of that name, made where it has not ended and there is room for one more."""
        found = self.streams.get(name)
        if found is None and name not in self.ended and len(self.streams) < STREAMS_MAX:
            found = self.streams[name] = CarriedStream()
        return found

    def known(self, peer_id: PeerId) -> Known:
        """How far this host knows the origin."""
        return Known(
            peer_id,
            self.record.generation,
            self.record.seq,
            0 if self.head is None else self.head.generation,
            0 if self.head is None else self.head.hseq,
            [(name, stream.seq) for name, stream in sorted(self.streams.items())],
        )

    def lacking(self) -> bool:
        """Whether its head tells of frames that are not here."""
        if self.head is None or self.head.generation != self.record.generation:
            return False
        for head in self.head.streams:
            stream = self.streams.get(head.stream)
            if head.seq > (0 if stream is None else stream.seq):
                return True
        return False
