"""Hosts of core mode, which outlive their peers, and how those come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from chaos.entropy import SeededEntropy
from chaos.modes.core.heap import Heap, HeapClock
from chaos.modes.core.network import CoreNetwork, End
from chaos.modes.core.peer import CorePeer
from chaos.modes.toy import SimToy
from chaos.storage import Session as Disk
from chaos.storage import SimStorage
from inference.core import EngineCore
from inference.toy import ToyConfig
from overlay.identity import Identity
from security.peer_id import PeerId

Call = Callable[[], None]
OnBoot = Callable[["CoreHost", CorePeer], None]


@dataclass(eq=False)
class CoreHost:
    """One host. ``peer`` is that of the present boot, None while it is down.

    ``wrap_core`` is applied to the engine core of each boot; ``on_boot`` are called with each new
    peer before anything reaches it. ``tenants`` are names of those that it is a member of.
    """

    name: str
    address: str
    tenants: tuple[str, ...]
    identity: Identity
    epochs: tuple[bytes, ...]
    toy: ToyConfig
    policy: str
    seed: int
    heap: Heap
    network: CoreNetwork | None = None
    by_id: dict[PeerId, CoreHost] = field(default_factory=dict)
    by_name: dict[str, CoreHost] = field(default_factory=dict)
    wrap_core: Callable[[EngineCore], EngineCore] = lambda core: core
    on_boot: list[OnBoot] = field(default_factory=list)
    peer: CorePeer | None = None
    starts: int = 0
    down: str = "not started"
    disk: Disk | None = None
    peer_id: PeerId = field(init=False)
    storage: SimStorage = field(init=False)
    clock: HeapClock = field(init=False)
    _held: list[tuple[int, Call]] = field(default_factory=list)
    _stopped: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.peer_id = self.identity.peer_id
        self.storage = SimStorage(lambda: self.heap.now_s)
        self.clock = HeapClock(self.heap)

    @property
    def node(self) -> CorePeer | None:
        """What the taps of ``chaos/observe`` look at."""
        return self.peer

    @property
    def running(self) -> CorePeer:
        """Its peer. Raises ``RuntimeError`` where it is down."""
        if self.peer is None:
            raise RuntimeError(f"{self.name} is not running: {self.down}")
        return self.peer

    # -- boots

    def start(self) -> CorePeer:
        """Starts a peer."""
        assert self.peer is None
        assert self.network is not None
        self.starts += 1
        boot = self.starts
        self.disk = Disk(self.storage)
        self.peer = CorePeer(
            identity=self.identity,
            epochs=self.epochs,
            address=self.address,
            policy=self.policy,
            clock=self.clock,
            entropy=SeededEntropy(self.seed, f"entropy {self.name} {boot}"),
            disk=self.disk,
            core=self.wrap_core(SimToy(self.toy)),
            later=lambda delay_s, call: self.heap.after(delay_s, partial(self.enter, boot, call)),
            network=self.network,
        )
        for hook in self.on_boot:
            hook(self, self.peer)
        return self.peer

    def kill(self, why: str) -> None:
        """The process is gone at once; the disk keeps what was written."""
        if self.peer is None:
            return
        assert self.network is not None
        assert self.disk is not None
        self.disk.dead = True
        self.peer, self.down = None, why
        self._stopped.clear()
        self._held.clear()
        self.network.process_gone(self.name)

    @property
    def frozen(self) -> bool:
        """Whether its process is stopped."""
        return bool(self._stopped)

    def freeze(self, key: str) -> None:
        """Nothing moves, as under SIGSTOP; what comes waits until every key was taken back."""
        self._stopped.add(key)

    def thaw(self, key: str) -> None:
        """It goes on. A process that was started meanwhile was not stopped: no effect on it."""
        self._stopped.discard(key)
        if self._stopped:
            return
        held, self._held = self._held, []
        for boot, call in held:
            self.heap.after(0.0, partial(self.enter, boot, call))

    # -- the network's view

    def running_now(self) -> bool:
        return self.peer is not None

    def enter(self, boot: int, call: Call) -> None:
        if self.peer is None or boot != self.starts:
            return
        if self._stopped:
            self._held.append((boot, call))
        else:
            call()

    def session_up(self, end: End) -> None:
        other = self.by_name[end.other]
        self.running.session_up(other.peer_id, end, other.running.generation)

    def session_down(self, end: End) -> None:
        self.running.session_down(self.by_name[end.other].peer_id, end)

    def hear(self, end: End, data: bytes) -> None:
        self.running.hear(self.by_name[end.other].peer_id, data, end)

    def reach(self, end: End, call: Callable[[CorePeer, End], None]) -> None:
        """Runs a call at the other end's peer, in order with what was told it before."""
        assert self.network is not None
        far_host = self.by_name[end.other]
        far = self.network.far(end)
        if far is not None:
            self.network.tell(end, lambda: call(far_host.running, far))
