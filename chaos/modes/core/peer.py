"""One boot of a peer in core mode: the product's gossip core and router, driven by a heap.

It stands where ``overlay/knowledge.py`` and ``overlay/peers.py`` stand in a whole peer, and gives
the router the same answers. Sockets, tasks, HTTP and handshakes are what core mode leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chaos.entropy import SeededEntropy
from chaos.modes.core.engine import CoreEngine, Later
from chaos.modes.core.heap import HeapClock
from chaos.modes.core.network import CoreNetwork, End
from chaos.storage import Session as Disk
from inference.core import EngineCore
from inference.events import BlockHash
from inference.request import Namespace
from overlay.decisions import DecisionLog
from overlay.errors import ProtocolError, StorageError
from overlay.generation import next_generation
from overlay.gossip.effects import (
    Effect,
    EpochLearned,
    EpochLost,
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
from overlay.knowledge import LoadPicture, hint_of, models_of
from overlay.node import BOOT_SALT_BYTES
from overlay.retry import RetryBudget
from overlay.router import Router
from overlay.routing.policies import policy_named
from overlay.served import Advertised, line_of
from overlay.tenants import TenantBook
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.revocation import RevocationSet


class CorePeer:
    """One boot. ``on_up_down`` hear of sessions: ``up`` or ``down``."""

    def __init__(
        self,
        *,
        identity: Identity,
        epochs: Sequence[bytes],
        address: str,
        policy: str,
        clock: HeapClock,
        entropy: SeededEntropy,
        disk: Disk,
        core: EngineCore,
        later: Later,
        network: CoreNetwork,
    ) -> None:
        self.peer_id: PeerId = identity.peer_id
        self._clock = clock
        self._disk = disk
        self._later = later
        self._network = network
        self.generation = next_generation(disk, clock)
        self.boot_salt = entropy.secret(BOOT_SALT_BYTES)
        self.entropy = entropy
        self.engine = CoreEngine(core, later)
        self.tenants = TenantBook()
        self.retries = RetryBudget()
        self.decisions = DecisionLog()
        self.revocations = RevocationSet()
        self.ends: dict[PeerId, End] = {}
        self.sent = 0
        self.on_up_down: list[Callable[[str], None]] = []
        self._waiting: dict[object, tuple[End, Callable[[], None]]] = {}
        self._models: dict[PeerId, tuple[Advertised, ...]] = {}
        self._unstored: dict[str, dict[bytes, bytes | None]] = {}
        self.gossip = Gossip(
            GossipConfig(),
            identity,
            generation=self.generation,
            boot_salt=self.boot_salt,
            rng=entropy.rng,
            floors=disk.read(FLOORS),
            proofs=disk.read(PROOFS),
            trust=lambda: identity.trust,
            revocations=lambda: self.revocations,
            now_s=clock.now_s(),
        )
        stand_in: Any = self  # of Knowledge and Peers: the router asks for no more than is here
        engine: Any = self.engine
        self.router = Router(
            me=self.peer_id,
            clock=clock,
            entropy=entropy,
            engine=engine,
            tenants=self.tenants,
            knowledge=stand_in,
            peers=stand_in,
            policy=policy_named(policy),
            zone=None,
            zone_rules=(),
            serves=lambda _: True,  # the toy engine hashes by tenant
        )
        models = self.engine.capabilities().models
        self.gossip.describe(addresses=[address], zone=None, models=[line_of(m) for m in models])
        for epoch in (*disk.read(EPOCHS).values(), *epochs):
            self._do(self.gossip.learn_epoch(epoch, clock.now_s(), clock.unix_s()))
        self._wait()

    forwards = None
    """No stranger can forward in this mode, so that there is nothing to listen to."""

    @property
    def knowledge(self) -> CorePeer:
        """It stands for its own ``Knowledge`` to the taps of ``chaos/observe``."""
        return self

    # -- time

    def _wait(self) -> None:
        delay_s = self.gossip.next_deadline_s() - self._clock.now_s()
        self._later(max(0.0, delay_s), self._tick)

    def _tick(self) -> None:
        self.fold()
        self.gossip.set_load(self._load_here())
        self._do(self.gossip.on_timer(self._clock.now_s(), self._clock.unix_s()))
        for table in list(self._unstored):
            self._persist(Persist(table, {}))
        self._wait()

    # -- sessions and messages

    def session_up(self, peer_id: PeerId, end: End, generation: int) -> None:
        """A peer is connected."""
        self.ends[peer_id] = end
        self.router.on_up(peer_id, generation)
        for hook in self.on_up_down:
            hook("up")
        self.gossip.set_load(self._load_here())
        now_s, now_unix_s = self._clock.now_s(), self._clock.unix_s()
        self._do(self.gossip.on_connected(peer_id, now_s, now_unix_s))

    def session_down(self, peer_id: PeerId, end: End) -> None:
        """A session ended; what waited on it hears of that."""
        if self.ends.get(peer_id) is end:
            del self.ends[peer_id]
            self.router.on_down(peer_id)
            self.gossip.on_disconnected(peer_id)
            for hook in self.on_up_down:
                hook("down")
        for key, (waits_on, on_lost) in list(self._waiting.items()):
            if waits_on is end and self._waiting.pop(key, None) is not None:
                on_lost()

    def wait_on(self, key: object, end: End, on_lost: Callable[[], None]) -> None:
        """Calls once where the session ends before :meth:`wait_no_more`."""
        self._waiting[key] = (end, on_lost)

    def wait_no_more(self, key: object) -> None:
        """The session's end matters no more."""
        self._waiting.pop(key, None)

    def tell(self, end: End, call: Callable[[], None]) -> None:
        """Has something done at the other end, in order with what was told before."""
        self._network.tell(end, call)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Calls after so many seconds, if this boot still runs."""
        self._later(delay_s, call)

    def now_s(self) -> float:
        """Virtual time."""
        return self._clock.now_s()

    def hear(self, sender: PeerId, data: bytes, end: End) -> None:
        """A gossip message came over a session."""
        try:
            now_s, now_unix_s = self._clock.now_s(), self._clock.unix_s()
            self._do(self.gossip.on_message(sender, data, now_s, now_unix_s))
        except ProtocolError:
            self._network.hang_up(end)

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case LoadLearned():
                    self.router.on_load(effect.peer_id, effect.taken_s)
                case Send():
                    self.send(effect.peer_id, effect.data)
                case Persist():
                    self._persist(effect)
                case RecordLearned():
                    self._models[effect.record.peer_id] = models_of(effect.record)
                case RecordForgotten():
                    self._models.pop(effect.peer_id, None)
                    self.router.on_forgotten(effect.peer_id)
                case EpochLearned():
                    void = self.tenants.voids(effect.epoch)
                    if self.tenants.learn(effect.epoch) and void is not None:
                        self.engine.drop(Namespace(effect.epoch.tenant_id), void)
                case EpochLost():
                    self.tenants.forget(effect.tenant_id)
                case NewGeneration():
                    self._begin_again(effect.above)

    def send(self, peer_id: PeerId, data: bytes) -> None:
        """Sends a gossip message to a connected peer."""
        end = self.ends.get(peer_id)
        if end is not None:
            self.sent += 1
            self._network.gossip(end, data)

    def _persist(self, effect: Persist) -> None:
        rows = {**self._unstored.pop(effect.table, {}), **effect.rows}
        try:
            self._disk.write(effect.table, rows)
        except StorageError:
            self._unstored[effect.table] = rows

    def _begin_again(self, above: int) -> None:
        """Somebody uses our identity with a generation not below ours."""
        self.generation = next_generation(self._disk, self._clock, above=above)
        self.gossip.restart(self.generation)
        for end in list(self.ends.values()):
            self._network.hang_up(end)

    # -- what the router asks of ``Knowledge``

    def fold(self) -> None:
        """Takes in what has happened in this host's cache."""
        events = self.engine.cache_events()
        if events:
            self.gossip.fold(events)

    def match_here(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> int:
        self.fold()
        return self.gossip.match_here(tenant, hashes)

    def lookup(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> dict[PeerId, int]:
        return self.gossip.lookup(tenant, hashes)

    def load(self, peer_id: PeerId) -> LoadPicture | None:
        found = self.gossip.load_of(peer_id)
        if found is None:
            return None
        return LoadPicture.of(*found)

    def digest_as_of(self, peer_id: PeerId) -> float | None:
        return self.gossip.digest_as_of(peer_id)

    def models(self, peer_id: PeerId) -> tuple[Advertised, ...]:
        return self._models.get(peer_id, ())

    def _load_here(self) -> LoadHint:
        return hint_of(self.engine.load(), self.engine.capabilities())

    # -- what the router asks of ``Peers``

    def up(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self.ends))

    def connection(self, peer_id: PeerId) -> Any:  # an End, in place of a Connection
        return self.ends.get(peer_id)
