"""The gossip core: a peer's side of ``/rhizome/gossip/1``, without sockets, tasks or clocks.

Messages, events and time go in, effects come out. Every period each connected peer gets the same
padded bundle of this host's news. Every few seconds one of them, drawn at random, is told how far
everything is known here, and answers with what is lacking, and this host the other way round: so a
lost message, a restart and a late joiner heal, and peers without a link to each other are served by
those between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from inference.events import BlockHash, CacheEvent
from inference.request import Namespace
from overlay.errors import ProtocolError
from overlay.gossip.blocktree import BlockForest
from overlay.gossip.effects import (
    Effect,
    EpochLearned,
    LoadLearned,
    NewGeneration,
    Persist,
    RecordLearned,
    Send,
)
from overlay.gossip.messages import (
    FRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    ORIGINS_MAX,
    Bundle,
    Heads,
    Known,
    LoadHint,
    Repair,
    decode_message,
    encode,
    padded,
)
from overlay.gossip.origins import Origins
from overlay.gossip.publisher import Publisher
from overlay.gossip.reader import Reader
from overlay.gossip.tenants import Epochs
from overlay.identity import Identity
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.record import Record
from security.revocation import RevocationSet

REPAIR_BYTES_MAX = MESSAGE_BYTES_MAX - FRAME_BYTES_MAX - 4096
"""A repair message is closed when it has grown beyond this; the rest comes with the next round."""

ASK_AGAIN_S = 0.5
"""A peer whose head tells of more than is here is asked at most so often."""

FLOORS = "floors"
EPOCHS = "epochs"


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """Seconds. ``period_s`` between bundles, ``anti_entropy_s`` between rounds of comparing."""

    period_s: float = 2.0
    anti_entropy_s: float = 4.0


@dataclass(slots=True)
class _Timer:
    period_s: float = 0.0
    anti_entropy_s: float = 0.0
    asked_s: dict[PeerId, float] = field(default_factory=dict)


class Gossip:
    """What this host tells, what it carries, and what it can read of it."""

    def __init__(
        self,
        config: GossipConfig,
        identity: Identity,
        *,
        generation: int,
        boot_salt: bytes,
        rng: random.Random,
        floors: Mapping[bytes, bytes],
        revocations: Callable[[], RevocationSet],
        now_s: float,
    ) -> None:
        self._config = config
        self._me = identity.peer_id
        self._rng = rng
        self._revocations = revocations
        self.forest = BlockForest()
        self.reader = Reader(floors)
        self.origins = Origins(
            me=self._me, trust=identity.trust, floors=self.reader.generation_floors()
        )
        self.epochs = Epochs(trust=identity.trust, keys=identity.keys)
        self.publisher = Publisher(identity, generation, boot_salt)
        self._connected: dict[PeerId, None] = {}
        self._timer = _Timer(
            period_s=now_s + config.period_s, anti_entropy_s=now_s + config.anti_entropy_s
        )

    # -- what this host says of itself

    def describe(
        self, *, addresses: Sequence[str], zone: str | None, models: Sequence[str]
    ) -> None:
        """Where this host can be reached and what it serves; a new record goes out with it."""
        self.publisher.describe(addresses, zone, models)

    def set_load(self, load: LoadHint) -> None:
        """How busy this host is."""
        self.publisher.load = load

    def fold(self, events: Sequence[CacheEvent]) -> None:
        """What happened in this host's cache; namespaces are tenant ids."""
        self.forest.fold(events)

    def restart(self, generation: int) -> None:
        """Begins again with a new generation: new streams, keys and record."""
        self.publisher.restart(generation)

    # -- what is asked of it

    def match_here(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> int:
        """Blocks of a chain that this host's cache holds."""
        return self.forest.match(Namespace(tenant.tenant_id), hashes)

    def lookup(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> dict[PeerId, int]:
        """Blocks of a chain that other members say they hold."""
        return self.reader.lookup(tenant, hashes)

    def load_of(self, peer_id: PeerId) -> tuple[LoadHint, float] | None:
        """A peer's last load hint, and when it was true by our clock."""
        origin = self.origins.known.get(peer_id)
        if origin is None or origin.head is None:
            return None
        return origin.head.load, origin.taken_s

    def record_of(self, peer_id: PeerId) -> Record | None:
        """A peer's record."""
        origin = self.origins.known.get(peer_id)
        return None if origin is None else origin.record

    # -- connections and time

    def on_connected(self, peer_id: PeerId, now_s: float, now_unix_s: float) -> list[Effect]:
        """A peer is up: it gets our record and head, and is asked what it knows."""
        self._connected[peer_id] = None
        bundle = self._bundle(now_unix_s, frames=[], with_record=True)
        self._timer.asked_s[peer_id] = now_s
        return [Send(peer_id, bundle), Send(peer_id, self._heads(answer=False))]

    def on_disconnected(self, peer_id: PeerId) -> None:
        """A peer is down; what it told stays known."""
        self._connected.pop(peer_id, None)
        self._timer.asked_s.pop(peer_id, None)

    def next_deadline_s(self) -> float:
        """When :meth:`on_timer` has something to do."""
        return min(self._timer.period_s, self._timer.anti_entropy_s)

    def on_timer(self, now_s: float, now_unix_s: float) -> list[Effect]:
        """Does what is due."""
        effects: list[Effect] = []
        if now_s >= self._timer.period_s:
            self._timer.period_s = now_s + self._config.period_s
            effects += self._tell(now_unix_s)
        if now_s >= self._timer.anti_entropy_s:
            pause_s = self._config.anti_entropy_s * (0.75 + self._rng.random() / 2)
            self._timer.anti_entropy_s = now_s + pause_s
            if self._connected:
                peer_id = self._rng.choice(sorted(self._connected))
                effects.append(Send(peer_id, self._heads(answer=False)))
        return effects

    def _tell(self, now_unix_s: float) -> list[Effect]:
        self.publisher.sync(self.epochs.mine, self.forest)
        bundle = self._bundle(now_unix_s, frames=self.publisher.frames())
        effects: list[Effect] = [Send(peer_id, bundle) for peer_id in sorted(self._connected)]
        floors = self.reader.take_floors()
        if floors:
            effects.append(Persist(FLOORS, floors))
        return effects

    def _bundle(
        self, now_unix_s: float, *, frames: list[bytes], with_record: bool = False
    ) -> bytes:
        changed = self.publisher.record_changed()
        record = self.publisher.record() if with_record or changed else None
        return padded(record, self.publisher.head(now_unix_s), frames)

    def _heads(self, *, answer: bool) -> bytes:
        known = [origin.known(peer_id) for peer_id, origin in self.origins]
        mine = self.publisher.known()
        return encode(
            Heads(known=[mine, *known][:ORIGINS_MAX], epochs=self.epochs.known(), answer=answer)
        )

    # -- what comes in

    def learn_epoch(self, data: bytes, now_unix_s: float) -> list[Effect]:
        """An EPOCH object from anywhere; verified here."""
        taken = self.epochs.take(data, now_unix_s, self._revocations())
        if taken is None:
            return []
        header, epoch = taken
        effects: list[Effect] = [Persist(EPOCHS, {header.object_id: data})]
        self.reader.sync(self.epochs, self.origins)
        if epoch is not None:
            effects.append(EpochLearned(epoch))
        return effects

    def on_message(
        self, sender: PeerId, data: bytes, now_s: float, now_unix_s: float
    ) -> list[Effect]:
        """A message of a connected peer.

        Raises:
            ProtocolError: When it is none; what is in it may be refused without that.
        """
        if len(data) > MESSAGE_BYTES_MAX:
            raise ProtocolError("a gossip message is too large")
        match decode_message(data):
            case Bundle() as bundle:
                records = [] if bundle.record is None else [bundle.record]
                effects = self._take_records(records, now_unix_s)
                effects += self._take_heads([bundle.head], sender, now_s, now_unix_s)
                self._take_frames(bundle.frames)
                return effects + self._ask_if_lacking(sender, now_s)
            case Heads() as heads:
                return self._answer(sender, heads)
            case Repair() as repair:
                effects = []
                for epoch in repair.epochs:
                    effects += self.learn_epoch(epoch, now_unix_s)
                effects += self._take_records(repair.records, now_unix_s)
                effects += self._take_heads(repair.heads, sender, now_s, now_unix_s)
                self._take_frames(repair.frames)
                return effects

    def _take_records(self, records: Sequence[bytes], now_unix_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for data in records:
            record = self.origins.take_record(data, now_unix_s, self._revocations())
            if record is None:
                continue
            if record.peer_id != self._me:
                self.reader.on_generation(record.peer_id, record.generation)
                effects.append(RecordLearned(record))
            elif self.publisher.is_other(record):
                effects.append(NewGeneration(record.generation))
        return effects

    def _take_heads(
        self, heads: Sequence[bytes], sender: PeerId, now_s: float, now_unix_s: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for data in heads:
            taken = self.origins.take_head(data)
            if taken is None:
                continue
            peer_id, head = taken
            age_s = 0.0 if peer_id == sender else max(0.0, now_unix_s - head.unix_ms / 1000)
            self.origins.known[peer_id].taken_s = now_s - age_s
            effects.append(LoadLearned(peer_id, now_s - age_s))
        return effects

    def _take_frames(self, frames: Sequence[bytes]) -> None:
        for data in frames:
            taken = self.origins.take_frame(data)
            if taken is not None:
                peer_id, frame = taken
                self.reader.catch_up(self.epochs, self.origins, peer_id, frame.stream)

    def _ask_if_lacking(self, sender: PeerId, now_s: float) -> list[Effect]:
        origin = self.origins.known.get(sender)
        recently = now_s - self._timer.asked_s.get(sender, float("-inf")) < ASK_AGAIN_S
        if origin is None or recently or not origin.lacking():
            return []
        self._timer.asked_s[sender] = now_s
        return [Send(sender, self._heads(answer=True))]

    def _answer(self, sender: PeerId, heads: Heads) -> list[Effect]:
        theirs = {PeerId(known.origin): known for known in heads.known}
        effects: list[Effect] = [
            Send(sender, encode(repair)) for repair in self._repairs(sender, theirs, heads)
        ]
        if not heads.answer and self._lacks(theirs, heads):
            effects.append(Send(sender, self._heads(answer=True)))
        return effects

    def _repairs(
        self, sender: PeerId, theirs: Mapping[PeerId, Known], heads: Heads
    ) -> list[Repair]:
        """One message of what the far side lacks; none when it lacks nothing."""
        epochs = self.epochs.newer_than(heads.epochs)
        records: list[bytes] = []
        newer_heads: list[bytes] = []
        frames: list[bytes] = []
        size = sum(map(len, epochs))
        carried = [(self._me, self.publisher.as_origin()), *self.origins]
        for peer_id, origin in carried:
            if peer_id == sender or size > REPAIR_BYTES_MAX:
                continue
            known = theirs.get(peer_id)
            have = (known.record_generation, known.record_seq) if known else (0, -1)
            if (origin.record.generation, origin.record.seq) > have:
                records.append(origin.record_bytes)
            same = known is not None and known.record_generation == origin.record.generation
            hseq = known.hseq if known is not None and same else -1
            if origin.head is not None and origin.head.hseq > hseq and peer_id != self._me:
                newer_heads.append(origin.head_bytes)
            seqs = dict(known.streams) if known is not None and same else {}
            for name, stream in sorted(origin.streams.items()):
                for _, _, data in stream.after(seqs.get(name, 0)):
                    if size <= REPAIR_BYTES_MAX:
                        frames.append(data)
                        size += len(data)
        if not (epochs or records or newer_heads or frames):
            return []
        return [Repair(epochs=epochs, records=records, heads=newer_heads, frames=frames)]

    def _lacks(self, theirs: Mapping[PeerId, Known], heads: Heads) -> bool:
        """Whether the far side knows something that is not known here."""
        if self.epochs.lacks(heads.epochs):
            return True
        for peer_id, known in theirs.items():
            origin = self.origins.known.get(peer_id)
            if peer_id == self._me:
                continue
            if origin is None:
                return True
            mine = origin.known(peer_id)
            if (known.record_generation, known.record_seq) > (
                mine.record_generation,
                mine.record_seq,
            ):
                return True
            seqs = dict(mine.streams)
            if any(seq > seqs.get(name, 0) for name, seq in known.streams):
                return True
        return False
