"""What this host can read of what it carries: replicas of its tenants' streams, and their index.

A frame counts only where its origin is on the tenant's roster. What was reached once is a floor:
it is stored, and nothing older is believed after a restart.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference.events import BlockHash
from overlay.errors import ProtocolError
from overlay.gossip.index import Index
from overlay.gossip.messages import Head, decode_content, decode_frame
from overlay.gossip.origins import Origins, TakenFrame
from overlay.gossip.relay import Origin
from overlay.gossip.replica import Replica
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
from overlay.gossip.tenants import Epochs
from security.envelope import Opener
from security.epoch import TenantEpoch
from security.errors import SecurityError
from security.peer_id import PeerId
from security.signed import Kind, verify_peer
from security.tags import Tagger
from security.tenant import TenantId

_FLOOR = struct.Struct(">QQQ")
"""Generation, epoch and number: each epoch's stream is numbered anew."""

Place = tuple[PeerId, TenantId]


@dataclass(slots=True)
class _Read:
    generation: int
    epoch: int
    stream: bytes
    opener: Opener
    replica: Replica


@dataclass(slots=True)
class Reader:
    """Replicas by origin and tenant. ``rows`` are the floors as they were stored."""

    rows: Mapping[bytes, bytes]
    index: Index = field(default_factory=Index)
    unreadable: int = 0
    _floors: dict[Place, tuple[int, int, int]] = field(init=False)
    _generations: dict[PeerId, int] = field(init=False)
    _reads: dict[Place, _Read] = field(default_factory=dict)
    _moved: dict[Place, None] = field(default_factory=dict)
    _taggers: dict[bytes, Tagger] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._floors = {}
        self._generations = {}
        for key, value in self.rows.items():
            origin, _, tenant = key.decode("ascii", "replace").partition("|")
            if len(value) == _FLOOR.size:
                generation, epoch, seq = _FLOOR.unpack(value)
                self._floors[PeerId(origin), TenantId(tenant)] = (generation, epoch, seq)
                before = self._generations.get(PeerId(origin), 0)
                self._generations[PeerId(origin)] = max(before, generation)

    def generation_floors(self) -> Mapping[PeerId, int]:
        """For each origin the generation below which nothing is believed."""
        return self._generations

    def take_floors(self) -> dict[bytes, bytes | None]:
        """Rows that have changed since the last call."""
        rows: dict[bytes, bytes | None] = {}
        for place in self._moved:
            origin, tenant = place
            rows[f"{origin}|{tenant}".encode()] = _FLOOR.pack(*self._floors[place])
        self._moved.clear()
        return rows

    def lookup(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> dict[PeerId, int]:
        """Blocks of a chain that each origin says it holds."""
        key = tenant.keys.tag_key
        tagger = self._taggers.get(key)
        if tagger is None:
            tagger = self._taggers[key] = Tagger(key)
        tags = tagger.tags_of(hashes)
        return self.index.claims(tenant.tenant_id, tags)

    def tags_known(self, peer_id: PeerId, tenant_id: TenantId | None = None) -> int:
        """Published prefixes of a peer that this host knows: of all tenants, or of one."""
        return sum(
            len(read.replica.tags)
            for (origin, tenant), read in self._reads.items()
            if origin == peer_id and tenant_id in (None, tenant)
        )

    def on_generation(self, peer_id: PeerId, generation: int) -> None:
        """An origin has begun again: what it held before counts no more."""
        self._generations[peer_id] = max(generation, self._generations.get(peer_id, 0))
        for place in [place for place in self._reads if place[0] == peer_id]:
            if self._reads[place].generation < generation:
                self._drop(place)

    def on_ended(self, peer_id: PeerId, names: Sequence[bytes]) -> None:
        """Streams of an origin have ended: it publishes nothing more for those tenants."""
        for place in [place for place in self._reads if place[0] == peer_id]:
            if self._reads[place].stream in names:
                self._drop(place)

    def forget(self, peer_id: PeerId) -> None:
        """An origin has been silent for long. Its floors stay."""
        for place in [place for place in self._reads if place[0] == peer_id]:
            self._drop(place)
        self.index.forget(peer_id)

    def is_current(self, epochs: Epochs, peer_id: PeerId, head: Head) -> bool:
        """Whether everything has come of which a head tells and which this host can read."""
        seqs = {stream.stream: stream.seq for stream in head.streams if stream.seq}
        if not seqs:
            return True
        for tenant in epochs.of_origin(peer_id):
            read = self._reads.get((peer_id, tenant.tenant_id))
            if read is None or read.generation != head.generation:
                name, seq = tenant.keys.stream_id(peer_id, head.generation), 0
            else:
                name, seq = read.stream, read.replica.seq if read.replica.visible else 0
            if seqs.get(name, 0) > seq:
                return False
        return True

    def sync(self, epochs: Epochs, origins: Origins) -> None:
        """Rosters have changed: drops what may no longer be read, reads what now may."""
        self._taggers.clear()
        for place, read in list(self._reads.items()):
            tenant = epochs.mine.get(place[1])
            if tenant is None or tenant.epoch != read.epoch or place[0] not in tenant.members:
                self._drop(place)
        for peer_id, origin in origins:
            for name in sorted(origin.streams):
                self.catch_up(epochs, origins, peer_id, name)

    def catch_up(
        self,
        epochs: Epochs,
        origins: Origins,
        peer_id: PeerId,
        name: bytes,
        taken: TakenFrame | None = None,
    ) -> None:
        """Applies the frames of a stream that are carried and not yet read.

        ``taken`` is the one that was just verified, and is not verified again.
        """
        origin = origins.known[peer_id]
        found = self._read_of(epochs, origin, peer_id, name)
        if found is None:
            return
        place, read = found
        for seq, checkpoint, data in origin.streams[name].after(read.replica.seq):
            if read.replica.takes(seq, checkpoint=checkpoint) and not self._apply(
                place, read, origins, data, taken
            ):
                return

    def _read_of(
        self, epochs: Epochs, origin: Origin, peer_id: PeerId, name: bytes
    ) -> tuple[Place, _Read] | None:
        """The replica that a stream belongs to; None where it is no tenant's of ours."""
        generation = origin.record.generation
        for tenant in epochs.of_origin(peer_id):
            place = (peer_id, tenant.tenant_id)
            read = self._reads.get(place)
            if read is not None and (read.generation, read.epoch) == (generation, tenant.epoch):
                if read.stream == name:
                    return place, read
                continue
            if tenant.keys.stream_id(peer_id, generation) == name:
                floor = self._floors.get(place, (0, 0, 0))
                read = _Read(
                    generation=generation,
                    epoch=tenant.epoch,
                    stream=name,
                    opener=Opener(tenant.keys, peer_id, generation, origin.record.boot_salt),
                    replica=Replica(
                        floor=floor[2] if floor[:2] == (generation, tenant.epoch) else 0
                    ),
                )
                self._reads[place] = read
                return place, read
        return None

    def _apply(
        self, place: Place, read: _Read, origins: Origins, data: bytes, taken: TakenFrame | None
    ) -> bool:
        peer_id, tenant_id = place
        try:
            if taken is not None and taken.data is data:
                frame = taken.frame
            else:
                frame = decode_frame(verify_peer(data, Kind.FRAME, origins.overlay_id).value)
            kind = CHECKPOINT if frame.checkpoint else DELTA
            header = frame_header(frame.stream, frame.generation, frame.seq)
            content = decode_content(read.opener.open(kind, header, frame.envelope))
            change = read.replica.apply(frame.seq, content, checkpoint=frame.checkpoint)
        except (SecurityError, ProtocolError):
            self.unreadable += 1
            return False
        self.index.remove(tenant_id, peer_id, change.removed)
        strided = not read.replica.truncated
        self.index.add(tenant_id, peer_id, change.added, strided=strided)
        if read.replica.visible:
            self._floors[place] = (read.generation, read.epoch, read.replica.seq)
            self._moved[place] = None
        return True

    def _drop(self, place: Place) -> None:
        read = self._reads.pop(place)
        self.index.remove(place[1], place[0], sorted(read.replica.tags))
