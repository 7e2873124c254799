"""What this peer knows of the others and tells them: drives the gossip core over connections.

The core is sans-IO (``overlay/gossip``); here are its clock, its streams, its storage and the
engine whose cache it tells of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec
import trio

from inference.events import BlockHash
from inference.request import Capabilities, EngineLoad, Namespace, ServedModel
from overlay.address import Address
from overlay.discovery.interfaces import beyond_link
from overlay.errors import ConfigError, OverlayError, PeerGone, ProtocolError, StorageError
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
from overlay.gossip.equivocation import PROOFS
from overlay.gossip.gossip import EPOCHS, FLOORS, Gossip, GossipConfig
from overlay.gossip.messages import LoadHint
from overlay.identity import Identity
from overlay.peers import Peers, first_addresses
from overlay.ports import PeerHint, Ports
from overlay.served import Advertised, advertised, line_of, read_line
from overlay.tenants import TenantBook
from overlay.transport.connection import Connection
from overlay.transport.frame import GoawayCode
from overlay.transport.stream import Stream
from overlay.trust.keeper import TrustKeeper
from security.epoch import TenantEpoch
from security.errors import LimitExceeded
from security.peer_id import PeerId
from security.record import ADDRESSES_MAX, MODELS_MAX, Record
from security.revocation import RevocationSet

log = logging.getLogger(__name__)

PROTOCOL = "/rhizome/gossip/1"

OUTBOX_MESSAGES = 32
"""Messages waiting for a slow peer; more are dropped, and anti-entropy makes up for them."""

REOPEN_FIRST_S = 1.0
REOPEN_MAX_S = 30.0
"""A peer that gives our stream up is offered another one after pauses between these."""

PASSED_S = 600.0
"""How long a server that is away counts as one that comes back."""

PASSED_MAX = 1024
"""Models of which it is known when a server of theirs was last there."""

UNLIKE_MAX = 4096
"""Pairs of peer and model of which it was said that they differ from ours."""

TOKENS_ROUNDED_TO = 64
"""Load hints are coarse, so that they tell less of single requests: members of other tenants read
them. See :func:`hint_of`."""


class LoadPicture(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A peer's load as it was at ``taken_s`` by our clock. Rates of 0 are unknown.

    A struct and no dataclass because one is made for each peer and request.
    """

    taken_s: float
    slots: int = 1
    running: int = 0
    queued: int = 0
    queued_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_s_per_token: float = 0.0

    @classmethod
    def of(cls, hint: LoadHint, taken_s: float) -> LoadPicture:
        """What a hint says that was true at ``taken_s``."""
        return cls(
            taken_s=taken_s,
            slots=hint.slots,
            running=hint.running,
            queued=hint.queued,
            queued_tokens=hint.queued_tokens,
            prefill_tokens_per_s=hint.prefill_tokens_per_s,
            decode_s_per_token=hint.decode_s_per_token,
        )


class Knowledge:
    """The metadata plane of one peer."""

    def __init__(
        self,
        *,
        identity: Identity,
        generation: int,
        boot_salt: bytes,
        ports: Ports,
        peers: Peers,
        tenants: TenantBook,
        trust: TrustKeeper,
        revocations: Callable[[], RevocationSet],
        settings: GossipConfig,
        zone: str | None,
        on_load: Callable[[PeerId, float], None],
        confirmed: trio.Event,
        on_generation: Callable[[int, bytes], None],
        on_forgotten: Callable[[PeerId], None],
    ) -> None:
        self._ports = ports
        self._peers = peers
        self._tenants = tenants
        self._trust = trust
        self._zone = zone
        self._on_load = on_load
        self._confirmed = confirmed
        self._on_generation = on_generation
        self._on_forgotten = on_forgotten
        self._me = identity.peer_id
        self._outboxes: dict[PeerId, trio.MemorySendChannel[bytes]] = {}
        self._heard: set[Connection] = set()
        self._models: dict[PeerId, tuple[Advertised, ...]] = {}
        self._nursery: trio.Nursery | None = None
        self._described: Capabilities | None = None
        self._passed_s: dict[str, float] = {}
        self._unlike: set[tuple[PeerId, str]] = set()
        self._unstored: dict[str, dict[bytes, bytes | None]] = {}
        self.sent_bytes = 0
        self.dropped = 0
        self.gossip = Gossip(
            settings,
            identity,
            generation=generation,
            boot_salt=boot_salt,
            rng=ports.entropy.rng,
            floors=ports.storage.read(FLOORS),
            proofs=ports.storage.read(PROOFS),
            trust=lambda: trust.now,
            revocations=revocations,
            now_s=ports.clock.now_s(),
        )
        for epoch in ports.storage.read(EPOCHS).values():
            learned = self.gossip.learn_epoch(epoch, self._now_s(), self._now_unix_s())
            self._do([effect for effect in learned if not isinstance(effect, Persist)])

    async def run(
        self,
        addresses: Sequence[Address],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Tells and asks until cancelled; ``addresses`` are where this peer can be reached."""
        addresses = beyond_link(addresses)
        self._describe(addresses)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.meet_all()
            task_status.started()
            while True:
                await trio.sleep_until(self.gossip.next_deadline_s())
                self.fold()
                if self._ports.engine.capabilities() is not self._described:
                    self._describe(addresses)  # a remote engine has come or gone
                self.gossip.set_load(self._load_here())
                self._do(self.gossip.on_timer(self._now_s(), self._now_unix_s()))
                for table in list(self._unstored):
                    self._persist(Persist(table, {}))

    def meet_all(self) -> None:
        """Peers that came up before this host could tell them anything get their streams."""
        for peer_id in self._peers.up():
            connection = self._peers.connection(peer_id)
            if connection is not None:
                self.on_up(connection)

    def _describe(self, addresses: Sequence[Address]) -> None:
        if self._described is not None:
            self._note_passed(self._described.models)
        self._described = self._ports.engine.capabilities()
        models = self._described.models
        told = [str(address) for address in first_addresses(addresses, ADDRESSES_MAX)]
        lines = [line_of(model) for model in models[:MODELS_MAX]]
        for model, line in zip(models, lines, strict=False):
            if not line.startswith(f"{model.name}\t"):
                log.warning("others cannot ask for %s: its name is too long", model.name)
        if len(told) < len(addresses):
            log.warning("others are told of %d of %d addresses", len(told), len(addresses))
        if len(lines) < len(models):
            log.warning("others are told of %d of %d models", len(lines), len(models))
        self.gossip.describe(addresses=told, zone=self._zone, models=lines)
        for peer_id in self._models:
            self._warn_of_others(peer_id)

    # -- what is known

    def record_of(self, peer_id: PeerId) -> bytes | None:
        """A peer's record as it has signed it."""
        origin = self.gossip.origins.known.get(peer_id)
        return None if origin is None else origin.record_bytes

    def fold(self) -> None:
        """Takes in what has happened in this host's cache."""
        events = self._ports.engine.cache_events()
        if events:
            self.gossip.fold(events)

    def match_here(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> int:
        """Blocks of a chain that this host's cache holds now."""
        self.fold()
        return self.gossip.match_here(tenant, hashes)

    def lookup(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> dict[PeerId, int]:
        """Blocks of a chain that other members say they hold."""
        return self.gossip.lookup(tenant, hashes)

    def load(self, peer_id: PeerId) -> LoadPicture | None:
        """A peer's last load hint."""
        found = self.gossip.load_of(peer_id)
        if found is None:
            return None
        return LoadPicture.of(*found)

    def digest_as_of(self, peer_id: PeerId) -> float | None:
        """When, by our clock, all that a peer published had come; None where it never had."""
        return self.gossip.digest_as_of(peer_id)

    def models(self, peer_id: PeerId) -> tuple[Advertised, ...]:
        """What a peer serves, by its record."""
        return self._models.get(peer_id, ())

    def passes_bodies(self, model: str) -> bool:
        """Whether an engine of that model is given whole bodies, here or at a peer that is up.

        Or was of late: one that is being started again is not there at present, which is no reason
        to tell a client that its body is wrong.
        """
        told = [each for peer_id in self._peers.up() for each in self.models(peer_id)]
        ours = self._ports.engine.capabilities().models
        served: list[Advertised | ServedModel] = [*told, *ours]
        if any(each.name == model and each.passes_bodies for each in served):
            return True
        return self._now_s() - self._passed_s.get(model, -PASSED_S) < PASSED_S

    def _note_passed(self, models: Iterable[Advertised | ServedModel]) -> None:
        """Engines may be gone from now on: those that were given whole bodies are remembered."""
        if len(self._passed_s) >= PASSED_MAX:
            self._passed_s.clear()
        for model in models:
            if model.passes_bodies:
                self._passed_s[model.name] = self._now_s()

    def prefixes(self, peer_id: PeerId, tenant: TenantEpoch | None = None) -> int:
        """Published prefixes of a peer that are known here: of all tenants, or of one."""
        tenant_id = None if tenant is None else tenant.tenant_id
        return self.gossip.reader.tags_known(peer_id, tenant_id)

    def oldest_age_s(self) -> float:
        """Age of the oldest news of a peer that is up; 0 where none is."""
        now_s = self._now_s()
        pictures = [self.load(peer_id) for peer_id in self._peers.up()]
        return max((now_s - picture.taken_s for picture in pictures if picture), default=0.0)

    # -- what happens

    def learn_epoch(self, epoch: bytes) -> None:
        """An EPOCH object of the home folder or of this host's own issuer."""
        self._do(self.gossip.learn_epoch(epoch, self._now_s(), self._now_unix_s()))

    def restart(self, generation: int) -> None:
        """This peer goes on under a new generation."""
        self.gossip.restart(generation)

    def on_revoked(self) -> None:
        """More is revoked: what a peer that is revoked had told counts no more."""
        self._do(self.gossip.on_revoked(self._now_s()))

    def on_up(self, connection: Connection) -> None:
        """A peer is up: it gets a stream of ours, unless this host is not confirmed yet."""
        peer_id = connection.remote.peer_id
        if peer_id is None or self._nursery is None or peer_id in self._outboxes:
            return
        if not self._confirmed.is_set():
            return
        outbox, messages = trio.open_memory_channel[bytes](OUTBOX_MESSAGES)
        self._outboxes[peer_id] = outbox
        self._nursery.start_soon(self._send_all, connection, messages)
        # What it is told first must not look like an engine that knows nothing of itself.
        self.gossip.set_load(self._load_here())
        self._do(self.gossip.on_connected(peer_id, self._now_s(), self._now_unix_s()))

    def on_down(self, peer_id: PeerId) -> None:
        """A peer is down."""
        self._note_passed(self.models(peer_id))
        outbox = self._outboxes.pop(peer_id, None)
        if outbox is not None:
            outbox.close()
        self.gossip.on_disconnected(peer_id)

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        """Takes a peer's messages in for as long as it is up.

        A malformed one ends the connection: were only the stream to end, the peer would look alive
        and nothing of it would be known.
        """
        sender = connection.remote.peer_id
        if sender is None:
            raise ProtocolError("a client does not gossip")
        try:
            if stream.body or connection in self._heard:
                raise ProtocolError("gossip is one stream each way, with an empty opening message")
            self._heard.add(connection)
            try:
                await self._hear(connection, sender, stream)
            finally:
                self._heard.discard(connection)
        except ProtocolError as error:
            if self._nursery is not None:
                # Not from here: the connection waits for its handlers when it ends.
                reason = f"gossip: {error}"
                self._nursery.start_soon(connection.aclose, GoawayCode.PROTOCOL, reason)
            raise

    async def _hear(self, connection: Connection, sender: PeerId, stream: Stream) -> None:
        # What comes before this host knows who is revoked waits within the stream's window.
        await self._confirmed.wait()
        while (message := await stream.receive()) is not None:
            if connection.closed is not None:
                return  # dropped while this waited: it may be admitted no more
            now_s, now_unix_s = self._now_s(), self._now_unix_s()
            self._do(self.gossip.on_message(sender, message, now_s, now_unix_s))

    async def _send_all(
        self, connection: Connection, messages: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        """Tells a peer for as long as it is up, on another stream where it gives one up."""
        pause_s = REOPEN_FIRST_S
        async with messages:
            while True:
                try:
                    async with connection.open(PROTOCOL, b"") as stream:
                        async for message in messages:
                            self.sent_bytes += len(message)
                            await stream.send(message)
                        return
                except PeerGone as error:
                    log.debug("gossip to a peer ended: %s", error)
                    return
                except OverlayError as error:
                    log.warning("gossip to %s broke: %s", connection.remote.peer_id, error)
                await trio.sleep(pause_s)
                pause_s = min(REOPEN_MAX_S, pause_s * 2)

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Persist():
                    self._persist(effect)
                case RecordLearned():
                    self._on_record(effect.record)
                case RecordForgotten():
                    for model in self._models.pop(effect.peer_id, ()):
                        self._unlike.discard((effect.peer_id, model.name))
                    self._on_forgotten(effect.peer_id)
                case Equivocated():
                    log.warning(
                        "peer %s has signed two heads with one number: nothing that it signs is "
                        "believed for an hour; see whether its keys were stolen",
                        effect.peer_id,
                    )
                case EpochLearned():
                    self._learnt(effect.epoch)
                case EpochLost():
                    self._tenants.forget(effect.tenant_id)
                case LoadLearned():
                    self._on_load(effect.peer_id, effect.taken_s)
                case NewGeneration():
                    self._on_generation(effect.above, effect.boot_salt)

    def _learnt(self, epoch: TenantEpoch) -> None:
        """Takes a tenant's epoch in; after a hard rotation what was cached before is let go."""
        void = self._tenants.voids(epoch)
        if self._tenants.learn(epoch) and void is not None:
            self._ports.engine.drop(Namespace(epoch.tenant_id), void)

    def _send(self, effect: Send) -> None:
        outbox = self._outboxes.get(effect.peer_id)
        try:
            if outbox is not None:
                outbox.send_nowait(effect.data)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.dropped += 1

    def _persist(self, effect: Persist) -> None:
        rows = {**self._unstored.pop(effect.table, {}), **effect.rows}
        try:
            self._ports.storage.write(effect.table, rows)
        except StorageError as error:
            self._unstored[effect.table] = rows
            log.warning("not stored, and tried again later: %s", error)

    def _on_record(self, record: Record) -> None:
        self._learn_issuer(record)
        self._note_passed(self.models(record.peer_id))
        self._models[record.peer_id] = models_of(record)
        self._warn_of_others(record.peer_id)
        addresses = []
        for text in record.addresses:
            try:
                addresses.append(Address.parse(text))
            except ConfigError:
                log.debug("a record of %s has an address that is none", record.peer_id)
        hint = PeerHint(peer_id=record.peer_id, addresses=tuple(addresses))
        self._peers.hint(hint, vouched=True)

    def _learn_issuer(self, record: Record) -> None:
        try:
            self._trust.learn(issuers=[record.issuer_der])
        except LimitExceeded as error:
            log.warning("the issuer of %s is not remembered: %s", record.peer_id, error)

    def posture(self) -> list[tuple[str, str]]:
        """Peers that have something else under the name of a model of this host."""
        named = sorted(f"{name} at {peer_id}" for peer_id, name in self._unlike)
        words = "another tokenizer or chat template, so no candidates: " + ", ".join(named[:8])
        return [("unlike", words)] if named else []

    def _warn_of_others(self, peer_id: PeerId) -> None:
        """Says once where a peer has another tokenizer or template under the name of our model."""
        ours = {model.name: advertised(model) for model in self._ports.engine.capabilities().models}
        for theirs in self._models[peer_id]:
            mine, key = ours.get(theirs.name), (peer_id, theirs.name)
            if mine is None or mine.prefix == theirs.prefix:
                self._unlike.discard(key)
                continue
            if key in self._unlike:
                continue
            if len(self._unlike) < UNLIKE_MAX:
                self._unlike.add(key)
            log.warning(
                "%s serves %s with another tokenizer or chat template than this host: "
                "neither will send the other requests for it",
                peer_id,
                theirs.name,
            )

    def _load_here(self) -> LoadHint:
        engine = self._ports.engine
        return hint_of(engine.load(), engine.capabilities())

    def _now_s(self) -> float:
        return self._ports.clock.now_s()

    def _now_unix_s(self) -> float:
        return self._ports.clock.unix_s()


def models_of(record: Record) -> tuple[Advertised, ...]:
    """What a peer serves, by its record; lines of another form are passed over."""
    lines = (read_line(line) for line in record.models)
    return tuple(model for model in lines if model is not None)


def hint_of(load: EngineLoad, capabilities: Capabilities) -> LoadHint:
    """A load as others are told of it: counts by :func:`coarse`, rates with two digits."""
    return LoadHint(
        max(1, capabilities.slots),
        load.running,
        coarse(load.queued),
        coarse(-(-load.queued_tokens // TOKENS_ROUNDED_TO)) * TOKENS_ROUNDED_TO,
        two_digits(load.prefill_tokens_per_s),
        two_digits(load.decode_s_per_token),
    )


def coarse(count: int) -> int:
    """Rounded up to one of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, …: at most half as much again."""
    unit = 1 << max(0, (count - 1).bit_length() - 2)
    return -(-count // unit) * unit


def two_digits(value: float) -> float:
    """A rate, rounded to two significant digits."""
    return float(f"{value:.2g}")
