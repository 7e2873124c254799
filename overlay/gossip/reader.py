"""What this host can read of what it carries: replicas of its tenants' streams, and their index.

A frame counts only where its origin is on the tenant's roster. What was reached once is a floor:
it is stored, and nothing older is believed after a restart.

When a tenant's epoch changes, what was read under the old one stays in an index of its own, and
both are looked up, until the origin's stream of the new epoch has come or the old epoch's time is
over (``overlay/gossip/epochs.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inference.events import BlockHash
from overlay.errors import ProtocolError
from overlay.gossip.epochs import Epochs
from overlay.gossip.index import Index
from overlay.gossip.messages import Head, decode_content, decode_frame
from overlay.gossip.origins import Origins, TakenFrame
from overlay.gossip.relay import Origin
from overlay.gossip.replica import Replica
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
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
class _Shelf:
    """Replicas of one age of epochs, and their index."""

    reads: dict[Place, _Read] = field(default_factory=dict)
    index: Index = field(default_factory=Index)

    def put(self, place: Place, read: _Read) -> None:
        """A replica comes from another shelf."""
        self.reads[place] = read
        if read.replica.visible:
            tags, strided = sorted(read.replica.tags), not read.replica.truncated
            self.index.add(place[1], place[0], tags, strided=strided)

    def take(self, place: Place) -> _Read:
        """A replica goes, and its tags with it."""
        read = self.reads.pop(place)
        self.index.remove(place[1], place[0], sorted(read.replica.tags))
        return read


@dataclass(slots=True)
class Reader:
    """Replicas by origin and tenant. ``rows`` are the floors as they were stored."""

    rows: Mapping[bytes, bytes]
    unreadable: int = 0
    _floors: dict[Place, tuple[int, int, int]] = field(init=False)
    _generations: dict[PeerId, int] = field(init=False)
    _now: _Shelf = field(default_factory=_Shelf)
    _before: _Shelf = field(default_factory=_Shelf)
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

    @property
    def index(self) -> Index:
        """Of the present epochs."""
        return self._now.index

    @property
    def reads(self) -> Mapping[Place, _Read]:
        """Of the present epochs."""
        return self._now.reads

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

    def lookup(
        self,
        tenant: TenantEpoch,
        hashes: Sequence[BlockHash],
        before: TenantEpoch | None = None,
    ) -> dict[PeerId, int]:
        """Blocks of a chain that each origin says it holds, by its newest word.

        Args:
            tenant: Whose chain.
            hashes: The chain's blocks.
            before: What the tenant's epoch was, while that still counts.
        """
        found = self._now.index.claims(tenant.tenant_id, self._tags(tenant, hashes))
        if before is None or not self._before.reads:
            return found
        old = self._before.index.claims(tenant.tenant_id, self._tags(before, hashes))
        return {**old, **found}

    def _tags(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> list[int]:
        key = tenant.keys.tag_key
        tagger = self._taggers.get(key)
        if tagger is None:
            tagger = self._taggers[key] = Tagger(key)
        return tagger.tags_of(hashes)

    def tags_known(self, peer_id: PeerId, tenant_id: TenantId | None = None) -> int:
        """Published prefixes of a peer that this host knows: of all tenants, or of one."""
        return sum(
            len(read.replica.tags)
            for (origin, tenant), read in [*self._before.reads.items(), *self._now.reads.items()]
            if origin == peer_id and tenant_id in (None, tenant)
        )

    def on_generation(self, peer_id: PeerId, generation: int) -> None:
        """An origin has begun again: what it held before counts no more."""
        self._generations[peer_id] = max(generation, self._generations.get(peer_id, 0))
        self._drop(peer_id, lambda _, read: read.generation < generation)

    def on_ended(self, epochs: Epochs, peer_id: PeerId, names: Sequence[bytes], head: Head) -> None:
        """Streams of an origin have ended.

        It publishes nothing more for those tenants, or goes on in a new epoch: then what it said
        in the old one counts until its new stream has come.
        """
        going_on = {stream.stream for stream in head.streams if stream.seq}

        def is_over(place: Place, read: _Read) -> bool:
            tenant = epochs.mine.get(place[1])
            if read.stream not in names:
                return False
            if tenant is None or tenant.epoch == read.epoch:
                return True
            return tenant.keys.stream_id(peer_id, head.generation) not in going_on

        self._drop(peer_id, is_over)

    def forget(self, peer_id: PeerId) -> None:
        """An origin has been silent for long. Its floors stay."""
        self._drop(peer_id, lambda *_: True)
        for shelf in (self._now, self._before):
            shelf.index.forget(peer_id)

    def is_current(self, epochs: Epochs, peer_id: PeerId, head: Head) -> bool:
        """Whether everything has come of which a head tells and which this host can read."""
        seqs = {stream.stream: stream.seq for stream in head.streams if stream.seq}
        if not seqs:
            return True
        for shelf, tenant in self._readable(epochs, peer_id):
            read = shelf.reads.get((peer_id, tenant.tenant_id))
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
        for place, read in list(self._before.reads.items()):
            if not _may_read(epochs.before.get(place[1]), place, read, epochs):
                self._before.take(place)
        for place, read in list(self._now.reads.items()):
            if _may_read(epochs.mine.get(place[1]), place, read, epochs):
                continue
            self._now.take(place)
            if _may_read(epochs.before.get(place[1]), place, read, epochs):
                self._before.put(place, read)
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
        shelf, place = found
        replica = shelf.reads[place].replica
        for seq, checkpoint, data in origin.streams[name].after(replica.seq):
            if replica.takes(seq, checkpoint=checkpoint) and not self._apply(
                shelf, place, origins, data, taken
            ):
                return
        if shelf is self._now and replica.seq and replica.visible and place in self._before.reads:
            self._before.take(place)

    def _readable(self, epochs: Epochs, peer_id: PeerId) -> Iterator[tuple[_Shelf, TenantEpoch]]:
        """The epochs in which this host reads an origin now, and where."""
        for tenant in epochs.of_origin(peer_id):
            yield self._now, tenant
        for tenant in epochs.before_of_origin(peer_id):
            read = self._now.reads.get((peer_id, tenant.tenant_id))
            # Once it has said something in the new epoch it says nothing more in the old one.
            if read is None or not (read.replica.seq and read.replica.visible):
                yield self._before, tenant

    def _read_of(
        self, epochs: Epochs, origin: Origin, peer_id: PeerId, name: bytes
    ) -> tuple[_Shelf, Place] | None:
        """Where a stream is read; None where it is no tenant's of ours."""
        generation = origin.record.generation
        for shelf, tenant in self._readable(epochs, peer_id):
            place = (peer_id, tenant.tenant_id)
            read = shelf.reads.get(place)
            if read is not None and (read.generation, read.epoch) == (generation, tenant.epoch):
                if read.stream == name:
                    return shelf, place
                continue
            if tenant.keys.stream_id(peer_id, generation) == name:
                floor = self._floors.get(place, (0, 0, 0))
                shelf.reads[place] = _Read(
                    generation=generation,
                    epoch=tenant.epoch,
                    stream=name,
                    opener=Opener(tenant.keys, peer_id, generation, origin.record.boot_salt),
                    replica=Replica(
                        floor=floor[2] if floor[:2] == (generation, tenant.epoch) else 0
                    ),
                )
                return shelf, place
        return None

    def _apply(
        self,
        shelf: _Shelf,
        place: Place,
        origins: Origins,
        data: bytes,
        taken: TakenFrame | None,
    ) -> bool:
        (peer_id, tenant_id), read = place, shelf.reads[place]
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
        shelf.index.remove(tenant_id, peer_id, change.removed)
        strided = not read.replica.truncated
        shelf.index.add(tenant_id, peer_id, change.added, strided=strided)
        if read.replica.visible:
            reached = (read.generation, read.epoch, read.replica.seq)
            self._floors[place] = max(reached, self._floors.get(place, reached))
            self._moved[place] = None
        return True

    def _drop(self, peer_id: PeerId, over: Callable[[Place, _Read], bool]) -> None:
        """Takes an origin's replicas out for which ``over`` says so."""
        for shelf in (self._now, self._before):
            for place, read in list(shelf.reads.items()):
                if place[0] == peer_id and over(place, read):
                    shelf.take(place)


def _may_read(tenant: TenantEpoch | None, place: Place, read: _Read, epochs: Epochs) -> bool:
    """Whether a replica is of this epoch, and its origin on its roster and on today's."""
    return (
        tenant is not None
        and tenant.epoch == read.epoch
        and place[0] in tenant.members
        and place[0] in epochs.mine[place[1]].members
    )
