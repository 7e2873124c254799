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
from types import MappingProxyType

from inference.events import BlockHash, CacheEvent
from inference.request import Namespace
from overlay.errors import ProtocolError
from overlay.gossip.antientropy import Allowance, lacks, repair_of
from overlay.gossip.blocktree import BlockForest
from overlay.gossip.effects import (
    Effect,
    EpochLearned,
    EpochLost,
    Equivocated,
    LoadLearned,
    NewGeneration,
    Persist,
    RecordForgotten,
    RecordLearned,
    Send,
)
from overlay.gossip.epochs import Epochs, place_of
from overlay.gossip.equivocation import PROOFS, Quarantine, TwoHeads, shown
from overlay.gossip.messages import (
    MESSAGE_BYTES_MAX,
    ORIGINS_MAX,
    Bundle,
    Heads,
    LoadHint,
    Repair,
    decode_message,
    encode,
    padded,
)
from overlay.gossip.origins import Origins
from overlay.gossip.publisher import Publisher
from overlay.gossip.reader import Reader
from overlay.identity import Identity
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.trust import Trust

ASK_AGAIN_S = 0.5
"""A peer that tells of more than is here is asked at most so often."""

FANOUT = 8
"""Connected peers that are told of a new EPOCH object by who has it from another one, and that are
shown a new proof."""

HEADS_BYTES_MAX = MESSAGE_BYTES_MAX - 4096
"""A thousand origins with all their streams and tenants are more than one message."""

FLOORS = "floors"
EPOCHS = "epochs"


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """Seconds. ``period_s`` between bundles, ``anti_entropy_s`` between rounds of comparing.

    A peer that is not connected and of which nothing new was heard for ``forget_s`` is forgotten.
    """

    period_s: float = 2.0
    anti_entropy_s: float = 4.0
    forget_s: float = 900.0


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
        proofs: Mapping[bytes, bytes] = MappingProxyType({}),
        trust: Callable[[], Trust],
        revocations: Callable[[], RevocationSet],
        now_s: float,
    ) -> None:
        self._config = config
        self._me = identity.peer_id
        self._rng = rng
        self._revocations = revocations
        self.forest = BlockForest()
        self.reader = Reader(floors)
        self.epochs = Epochs(trust=trust, keys=identity.keys)
        self.origins = Origins(
            me=self._me,
            trust=trust,
            overlay_id=identity.trust.overlay_id,
            floors=self.reader.generation_floors(),
            is_ours=self.epochs.names,
            quarantine=Quarantine(proofs),
        )
        self.publisher = Publisher(identity, generation, boot_salt)
        self._connected: dict[PeerId, None] = {}
        self._allowance = Allowance()
        self._timer = _Timer(
            period_s=now_s + config.period_s, anti_entropy_s=now_s + config.anti_entropy_s
        )

    # -- what this host says of itself

    def describe(
        self, *, addresses: Sequence[str], zone: str | None, models: Sequence[str]
    ) -> None:
        """Where this host can be reached and what it serves; a new record goes out with it."""
        self.publisher.describe(addresses, zone, models)

    def adopt(self, identity: Identity) -> None:
        """This host has another certificate; a new record goes out with it."""
        self.publisher.adopt(identity.leaf, identity.issuer)

    def leaf_of(self, peer_id: PeerId) -> bytes | None:
        """The certificate in a peer's newest record."""
        origin = self.origins.known.get(peer_id)
        return None if origin is None else origin.record.leaf.der

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
        return self.reader.lookup(tenant, hashes, self.epochs.before.get(tenant.tenant_id))

    def load_of(self, peer_id: PeerId) -> tuple[LoadHint, float] | None:
        """A peer's last load hint, and when it was true by our clock."""
        origin = self.origins.known.get(peer_id)
        if origin is None or origin.head is None:
            return None
        return origin.head.load, origin.taken_s

    def digest_as_of(self, peer_id: PeerId) -> float | None:
        """When, by our clock, all that a peer published had come; None where it never had.

        It stands still while something is lacking, and moves on with every head once that has come.
        """
        origin = self.origins.known.get(peer_id)
        if origin is None or origin.current_s == float("-inf"):
            return None
        return origin.current_s

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
        self._allowance.forget(peer_id)

    def next_deadline_s(self) -> float:
        """When :meth:`on_timer` has something to do."""
        return min(self._timer.period_s, self._timer.anti_entropy_s)

    def on_timer(self, now_s: float, now_unix_s: float) -> list[Effect]:
        """Does what is due."""
        self._expire(now_s)
        effects: list[Effect] = []
        if now_s >= self._timer.period_s:
            self._timer.period_s = now_s + self._config.period_s
            effects += self._tell(now_unix_s)
            silent_s = self._config.forget_s
            ended = self.origins.quarantine.expire(now_unix_s)
            if ended:
                effects.append(Persist(PROOFS, ended))
            for peer_id in self.origins.forget_silent(now_s, self._connected, silent_s):
                self.reader.forget(peer_id)
                effects.append(RecordForgotten(peer_id))
        if now_s >= self._timer.anti_entropy_s:
            pause_s = self._config.anti_entropy_s * (0.75 + self._rng.random() / 2)
            self._timer.anti_entropy_s = now_s + pause_s
            if self._connected:
                peer_id = self._rng.choice(sorted(self._connected))
                effects.append(Send(peer_id, self._heads(answer=False)))
        return effects

    def _tell(self, now_unix_s: float) -> list[Effect]:
        self.publisher.sync(self.epochs.mine, self.forest)
        changed = self.publisher.record_changed()
        bundle = self._bundle(now_unix_s, frames=self.publisher.frames(), with_record=changed)
        effects: list[Effect] = [Send(peer_id, bundle) for peer_id in sorted(self._connected)]
        floors = self.reader.take_floors()
        if floors:
            effects.append(Persist(FLOORS, floors))
        return effects

    def _bundle(self, now_unix_s: float, *, frames: list[bytes], with_record: bool) -> bytes:
        record = self.publisher.record() if with_record else None
        return padded(record, self.publisher.head(now_unix_s), frames)

    def _heads(self, *, answer: bool) -> bytes:
        mine = self.publisher.known()
        known = [origin.known(peer_id) for peer_id, origin in self.origins]
        told = [mine, *known, *self.origins.graves.known()][:ORIGINS_MAX]
        data = encode(Heads(known=told, epochs=self.epochs.known(), answer=answer))
        if len(data) <= HEADS_BYTES_MAX:
            return data
        # What is left out is another part each time, so that everything is told in the end.
        over, first = len(data) - HEADS_BYTES_MAX, self._rng.randrange(len(told))
        told = told[first:] + told[:first]
        while over > 0:
            over -= len(encode(told.pop()))
        return encode(Heads(known=told, epochs=self.epochs.known(), answer=answer))

    # -- what comes in

    def learn_epoch(
        self, data: bytes, now_s: float, now_unix_s: float, sender: PeerId | None = None
    ) -> list[Effect]:
        """An EPOCH object from anywhere; verified here, and passed on where it is new.

        Nobody waits for anti-entropy to learn who is on a roster no longer: who has it from this
        host itself (no ``sender``) tells everybody, others tell some, so that a change costs a
        large overlay no message for every pair.
        """
        taken = self.epochs.take(data, now_s, now_unix_s, self._revocations())
        if taken is None:
            return []
        effects: list[Effect] = [Persist(EPOCHS, {place_of(taken.header): data})]
        others = sorted(peer_id for peer_id in self._connected if peer_id != sender)
        if sender is not None:
            others = self._some_of(others)
        told = encode(Repair(epochs=[data], records=[], heads=[], frames=[])) if others else b""
        effects += [Send(peer_id, told) for peer_id in others]
        if taken.epoch is not None:
            effects.append(EpochLearned(taken.epoch))
        if taken.lost is not None:
            effects.append(EpochLost(taken.lost))
        if taken.epoch is not None or taken.lost is not None:
            self.reader.sync(self.epochs, self.origins)
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
        self._expire(now_s)
        match decode_message(data):
            case Bundle() as bundle:
                self.origins.graves.open_for([bundle.head])
                records = [] if bundle.record is None else [bundle.record]
                effects = self._take_records(records, now_unix_s)
                effects += self._tell_of_another(sender, records, now_s)
                effects += self._take_heads([bundle.head], sender, now_s, now_unix_s)
                self._take_frames(bundle.frames)
                return effects + self._ask_if_lacking(sender, now_s)
            case Heads() as heads:
                self.epochs.hear(heads.epochs)
                return self._answer(sender, heads, now_s)
            case Repair() as repair:
                self.origins.graves.open_for(repair.heads)
                effects = []
                for epoch in repair.epochs:
                    effects += self.learn_epoch(epoch, now_s, now_unix_s, sender)
                self.epochs.heard = True
                effects += self._take_records(repair.records, now_unix_s)
                effects += self._take_heads(repair.heads, sender, now_s, now_unix_s)
                self._take_frames(repair.frames)
                return effects

    def _expire(self, now_s: float) -> None:
        if self.epochs.expire(now_s):
            self.reader.sync(self.epochs, self.origins)

    def on_revoked(self, now_s: float) -> list[Effect]:
        """More is revoked: what a peer that is revoked had told counts no more.

        Neither do rosters whose steward is revoked.
        """
        effects: list[Effect] = []
        for taken in self.epochs.forget_revoked(self._revocations()):
            effects.append(Persist(EPOCHS, {place_of(taken.header): None}))
            if taken.lost is not None:
                effects.append(EpochLost(taken.lost))
        if effects:
            self.reader.sync(self.epochs, self.origins)
        for peer_id in self.origins.forget_revoked(now_s, self._revocations()):
            self.reader.forget(peer_id)
            effects.append(RecordForgotten(peer_id))
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
                effects.append(NewGeneration(record.generation, record.boot_salt))
        return effects

    def _tell_of_another(
        self, sender: PeerId, records: Sequence[bytes], now_s: float
    ) -> list[Effect]:
        """A sender whose record was not taken learns which one of its name is known here."""
        origin = self.origins.known.get(sender)
        if origin is None or all(data == origin.record_bytes for data in records):
            return []
        if not self._allowance.is_left(sender, now_s):
            return []
        data = encode(Repair(epochs=[], records=[origin.record_bytes], heads=[], frames=[]))
        self._allowance.spend(sender, len(data), now_s)
        return [Send(sender, data)]

    def _take_heads(
        self, heads: Sequence[bytes], sender: PeerId, now_s: float, now_unix_s: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for data in heads:
            taken = self.origins.take_head(data)
            if taken is None:
                continue
            peer_id, head = taken
            origin = self.origins.known[peer_id]
            if peer_id == sender:
                age_s = origin.lateness.of_direct(now_s, head.unix_ms)
            else:
                age_s = origin.lateness.of_relayed(now_s, now_unix_s, head.unix_ms)
            origin.taken_s = now_s - age_s
            ended = origin.drop_ended()
            if ended:
                self.reader.on_ended(self.epochs, peer_id, ended, head)
            self._note_current(peer_id)
            effects.append(LoadLearned(peer_id, now_s - age_s))
        doubled, self.origins.doubled = self.origins.doubled, []
        for two in [*doubled, *shown(heads, self.origins.overlay_id)]:
            # Who has shown both heads has the proof.
            has_it = {two.first, two.second} <= set(heads)
            effects += self._quarantine(two, sender if has_it else None, now_s, now_unix_s)
        return effects

    def _quarantine(
        self, two: TwoHeads, prover: PeerId | None, now_s: float, now_unix_s: float
    ) -> list[Effect]:
        """Two heads with one number: the proof is kept, and shown to some who are up.

        Only against a host that is known here: whoever is admitted can make up any number of keys
        and sign two heads with each. ``prover`` has shown it, and is not shown it again.
        """
        peer_id = two.peer_id
        if peer_id == self._me or peer_id in self.origins.quarantine:
            return []
        if not self.origins.is_host(peer_id):
            self.origins.counters.refused += 1
            return []
        rows = self.origins.quarantine.begin(two, now_unix_s)
        self.origins.bury(peer_id, now_s)
        self.reader.forget(peer_id)
        repair = Repair(epochs=[], records=[], heads=[two.first, two.second], frames=[])
        others = sorted(peer for peer in self._connected if peer not in {peer_id, prover})
        return [
            Persist(PROOFS, rows),
            RecordForgotten(peer_id),
            Equivocated(peer_id),
            *[Send(other, encode(repair)) for other in self._some_of(others)],
        ]

    def _some_of(self, others: list[PeerId]) -> list[PeerId]:
        if len(others) <= FANOUT:
            return others
        return self._rng.sample(others, FANOUT)

    def _take_frames(self, frames: Sequence[bytes]) -> None:
        for data in frames:
            taken = self.origins.take_frame(data)
            if taken is not None:
                peer_id, name = taken.peer_id, taken.frame.stream
                self.reader.catch_up(self.epochs, self.origins, peer_id, name, taken)
                self._note_current(peer_id)

    def _note_current(self, peer_id: PeerId) -> None:
        origin = self.origins.known[peer_id]
        if origin.head is not None and self.reader.is_current(self.epochs, peer_id, origin.head):
            origin.current_s = origin.taken_s

    def _ask_if_lacking(self, sender: PeerId, now_s: float) -> list[Effect]:
        origin = self.origins.known.get(sender)
        if origin is None or not origin.lacking():
            return []
        return self._ask(sender, now_s)

    def _ask(self, peer_id: PeerId, now_s: float) -> list[Effect]:
        """Our Heads for a peer that tells of more than is here.

        Within its allowance: a made-up name or head asks for them as well.
        """
        recently = now_s - self._timer.asked_s.get(peer_id, float("-inf")) < ASK_AGAIN_S
        if recently or not self._allowance.is_left(peer_id, now_s):
            return []
        self._timer.asked_s[peer_id] = now_s
        data = self._heads(answer=True)
        self._allowance.spend(peer_id, len(data), now_s)
        return [Send(peer_id, data)]

    def _answer(self, sender: PeerId, heads: Heads, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._allowance.is_left(sender, now_s):
            origins = [(self._me, self.publisher.as_origin()), *self.origins]
            repair = repair_of(sender, heads, self.epochs, self._me, origins)
            if repair is not None:
                data = encode(repair)
                self._allowance.spend(sender, len(data), now_s)
                effects.append(Send(sender, data))
        if not heads.answer and lacks(heads, self.epochs, self._me, self.origins):
            effects += self._ask(sender, now_s)
        return effects
