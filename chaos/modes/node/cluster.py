"""An overlay of whole simulated peers: hosts that outlive their peers, and how those come and go.

Each host runs ``overlay.node.Node`` with simulated ports; nothing of the product is replaced above
them. What belongs to a host (address, identity, disk, wall clock) is in :class:`SimHost` and stays;
its node and engine are made anew by each start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from chaos.clock import VirtualClock
from chaos.engine import FaultyEngine
from chaos.entropy import SeededEntropy
from chaos.errors import innermost, leaves
from chaos.founding import enrol
from chaos.history import History, What
from chaos.issuing import ENROL_PORT, EnrolmentFace, SimEnrolment
from chaos.modes.asked import Sent
from chaos.modes.node.face import Face
from chaos.modes.node.host import Boot, SimHost
from chaos.modes.node.messages import MessageFaults
from chaos.modes.toy import SimToy
from chaos.network import Network, SimDiscovery, SimTransport
from chaos.remote_toy import core_of
from chaos.rotation import take_roots
from chaos.scenario.schedule import Schedule
from chaos.simulation import hold_tasks, release_tasks
from chaos.storage import Session
from inference.core import EngineCore
from overlay.address import Address
from overlay.clones import ClonedHost
from overlay.errors import StorageError
from overlay.node import Node, NodeConfig
from overlay.ports import Ports
from security.authority import Authority
from security.certificate import LEAF_LIFETIME_S_MAX
from security.keys import HostKeys
from security.peer_id import PeerId

if TYPE_CHECKING:
    from chaos.modes.node.clients import Clients

PORT = 7401
CLONED = "cloned host"
"""Why a peer is down that has seen another process with its identity, and what holds it down."""

TOLD_OF_S = 10.0
"""For so long others may still tell a peer of a process that has been killed."""

STOP_S = 10.0
"""For a peer whose tasks are cancelled to have unwound."""


OnBoot = Callable[[SimHost, Node], None]
WrapPorts = Callable[[SimHost, Ports], Ports]
WrapNode = Callable[[SimHost, Node], Node]
WrapEngine = Callable[[SimHost, EngineCore], EngineCore]


@dataclass(eq=False)
class SimCluster:
    """Hosts by name in order, the network between them, and what happens to both.

    Attributes:
        wrap_engine: Applied to the engine core of each boot.
        wrap_ports: Applied in order to the ports of each boot.
        wrap_node: Applied to the node of each boot.
        on_boot: Called at each boot with the host and its new node, before the node runs. ``host``
            has its new engine then, and ``host.node`` is the new node.
        identities: Node names of all peer ids that hosts have ever had.
        revoked: Names of nodes that a fault has revoked.
        copies: Copies of hosts that a fault has started beside them; none is in ``hosts``.
        copied: How many of them were made.
        messages: What happens to gossip messages on their way.
        clients: Who sends requests, from the storm's begin on.
        sent: Every request that a client has sent.
        request_ids: The planned id of each request id of the product.
        broken: Peers and requests that ended by an error that nothing here explains: findings.
        moves: Nodes whose address has changed, in order.
        closing: The run is over: nothing is started any more.
    """

    schedule: Schedule
    history: History
    network: Network
    nursery: trio.Nursery
    authority: Authority
    hosts: dict[str, SimHost] = field(default_factory=dict)
    wrap_engine: list[WrapEngine] = field(default_factory=list)
    wrap_ports: list[WrapPorts] = field(default_factory=list)
    wrap_node: list[WrapNode] = field(default_factory=list)
    on_boot: list[OnBoot] = field(default_factory=list)
    identities: dict[PeerId, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    copies: list[SimHost] = field(default_factory=list)
    copied: int = 0
    messages: MessageFaults = field(default_factory=MessageFaults)
    clients: Clients | None = None
    sent: dict[str, Sent] = field(default_factory=dict)
    request_ids: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    closing: bool = False

    # -- who is who

    def host(self, name: str) -> SimHost:
        """A host; raises ``KeyError`` where there is none of that name."""
        return self.hosts[name]

    def name_of(self, peer_id: PeerId) -> str:
        """The node that has or had this identity; the peer id itself where none had."""
        return self.identities.get(peer_id, peer_id)

    def identity_of(self, peer_id: PeerId) -> int:
        """Which of its node's identities this is, from 1; 0 where no node ever had it."""
        name = self.identities.get(peer_id)
        mine = [known for known, owner in self.identities.items() if owner == name]
        return mine.index(peer_id) + 1 if name is not None else 0

    def peer_id_of(self, name: str) -> PeerId:
        """The present identity of a node."""
        return self.hosts[name].identity.peer_id

    def running(self) -> list[SimHost]:
        """Hosts whose node runs, in order (stopped ones included)."""
        return [host for host in self.hosts.values() if host.boot is not None]

    def core(self) -> list[SimHost]:
        """Hosts that healing makes whole."""
        names = self.schedule.core or self.schedule.cluster.names
        return [self.hosts[name] for name in names]

    def entropy(self, purpose: str) -> SeededEntropy:
        """A stream of its own for every purpose, so that one more draw moves no other."""
        return SeededEntropy(self.schedule.seed, purpose)

    # -- coming and going

    async def start(self, name: str, why: str) -> bool:
        """Boots a host and writes NODE_UP; one that runs or is held down is left as it is.

        Returns:
            Whether it runs. A host whose disk refuses its peer stays down (NODE_DOWN says why).
        """
        host = self.hosts[name]
        idle = host.starting is None
        if idle and (host.boot is not None or host.holds or self.closing):
            return host.boot is not None
        if host.starting is None:
            host.starting = trio.Event()
            self.nursery.start_soon(self._run, host, why, host.starting)
        await host.starting.wait()
        return host.boot is not None

    async def _run(self, host: SimHost, why: str, ready: trio.Event) -> None:
        host.starts += 1
        try:
            boot = host.boot = self._make(host)
        except StorageError as error:
            host.down = "disk"
            self.history.add(What.NODE_DOWN, host.name, why=f"cannot start: {error}")
            host.start_ended(ready)
            return
        for tap in self.on_boot:
            tap(host, boot.node)
        self.messages.install(self, host, boot.node)
        boot.task = trio.lowlevel.current_task()
        ended = "left"
        try:
            with boot.scope:
                faces = (boot.face.serve, boot.enrolment.serve)
                await boot.node.run(faces, task_status=_Up(self, host, why, ready))
            if boot.scope.cancelled_caught:
                ended = "crashed"
        except Exception as error:  # noqa: BLE001 - a peer that breaks is what is looked for
            ended = f"error: {innermost(error)}"
            if isinstance(next(leaves(error)), ClonedHost) and (others := self._twins(host)):
                ended = CLONED
                if any(other.boot is not None for other in others):
                    # Who keeps a peer running does not start this one again.
                    host.holds.add(CLONED)
        finally:
            host.start_ended(ready)
            boot.gone.set()
        if boot.killed or host.boot is not boot:
            return
        if ended.startswith("error"):
            self.broken.append(f"{host.name}: {ended}")
            self.history.add(What.STUCK, host.name, why=f"the peer ended by an {ended}", for_s=0.0)
        self._gone(host, boot, host.down or ended)

    def _make(self, host: SimHost) -> Boot:
        core = core_of(host.toy, lambda toy: SimToy(toy, host.other))
        for wrap_core in self.wrap_engine:
            core = wrap_core(host, core)
        engine = FaultyEngine(core, in_thread=False)
        session = Session(host.storage)
        identity = host.identity
        transport = SimTransport(self.network, host.address, *identity.shown)
        ports = Ports(
            clock=host.clock,
            entropy=self.entropy(f"entropy {host.name} {host.starts}"),
            transport=transport,
            enrolment=SimEnrolment(self.network, host.address),
            discovery=SimDiscovery(self.network, host.address),
            storage=session,
            engine=engine,
        )
        for wrap in self.wrap_ports:
            ports = wrap(host, ports)
        config = NodeConfig(
            identity=identity,
            epochs=host.epochs,
            listen=(Address(host.address, PORT),),
            policy=self.schedule.cluster.policy,
            engine_tenant=self.schedule.cluster.engine_tenant(host.name),
            issuer=host.files,
            leaf_s=self.schedule.cluster.certificate_s or LEAF_LIFETIME_S_MAX,
            enrolment=self._enrolment(),
            keep=lambda renewed, _: setattr(host, "identity", renewed),
            keep_roots=partial(take_roots, host),
        )
        node = Node(config, ports)
        for wrap_node in self.wrap_node:
            node = wrap_node(host, node)
        return Boot(node, engine, Face(), session, EnrolmentFace(transport))

    def _enrolment(self) -> tuple[Address, ...]:
        return tuple(Address(h.address, ENROL_PORT) for h in self.hosts.values() if h.files)

    def _gone(self, host: SimHost, boot: Boot, why: str) -> None:
        if host.boot is boot:
            host.boot = None
            host.down, host.down_s = why, trio.current_time()
            self.history.add(What.NODE_DOWN, host.name, why=why)

    def kill(self, name: str, why: str) -> bool:
        """The process is gone at once (writes NODE_DOWN); the disk keeps what was written.

        Returns:
            Whether there was one.
        """
        return self.kill_host(self.hosts[name], why)

    def kill_host(self, host: SimHost, why: str) -> bool:
        """As :meth:`kill`, also for a copy of a host."""
        boot = host.boot
        if boot is None:
            return False
        boot.killed = boot.session.dead = True
        if host.starting is not None:
            host.start_ended(host.starting)
        self.network.kill(host.address)
        if boot.task is not None:
            release_tasks(boot.task)
        host.stopped.clear()
        self.network.thaw(host.address)
        boot.scope.cancel()
        self._gone(host, boot, why)
        return True

    async def start_copy(self, copy: SimHost) -> bool:
        """Boots a copy of a host at its own address. Returns whether it runs."""
        self.copies.append(copy)
        ready = copy.starting = trio.Event()
        self.nursery.start_soon(self._run, copy, "copied", ready)
        await ready.wait()
        return copy.boot is not None

    def _twins(self, host: SimHost) -> list[SimHost]:
        """Where another process with a host's identity runs, or did until just now.

        One that has ended as a clone itself does not count: exactly one of two ends.
        """
        since_s = trio.current_time() - TOLD_OF_S
        return [
            other
            for other in (*self.hosts.values(), *self.copies)
            if other is not host
            and other.identity.peer_id == host.identity.peer_id
            and (other.boot is not None or (other.down != CLONED and other.down_s > since_s))
        ]

    async def stop(self, name: str, why: str) -> bool:
        """The process ends by an error of its own: its sockets close in order.

        Returns:
            Whether there was one.
        """
        host = self.hosts[name]
        boot = host.boot
        if boot is None or host.stopped:
            # A process that stands still closes nothing.
            return self.kill(name, why)
        host.down = why
        boot.scope.cancel()
        with trio.move_on_after(STOP_S):
            await boot.gone.wait()
            return True
        self.history.add(What.STUCK, name, why="cancelled and not gone", for_s=STOP_S)
        self.kill(name, why)
        return True

    async def leave(self, name: str, grace_s: float) -> None:
        """Asks a peer to end in order; writes STOPPED, or STUCK where it does not in time."""
        host = self.hosts[name]
        boot = host.boot
        if boot is None:
            return
        host.down = "left"
        began_s = trio.current_time()
        boot.node.leaving.set()
        with trio.move_on_after(grace_s):
            await boot.gone.wait()
            took_s = round(trio.current_time() - began_s, 6)
            self.history.add(What.STOPPED, name, took_s=took_s)
            return
        self.history.add(What.STUCK, name, why="asked to leave and not gone", for_s=grace_s)
        self.kill(name, "stuck")

    async def restart(self, name: str, why: str) -> bool:
        """Killed and started again. Returns whether there was a process to kill."""
        killed = self.kill(name, why)
        if killed:
            await self.start(name, why)
        return killed

    def hold(self, name: str, key: str) -> None:
        """Keeps a host down from its next end on, until :meth:`let` is called with the key."""
        self.hosts[name].holds.add(key)

    def let(self, name: str, key: str) -> None:
        """Takes a hold away. Unknown: no effect."""
        self.hosts[name].holds.discard(key)

    def stop_process(self, name: str, key: str) -> bool:
        """SIGSTOP: nothing of the process runs until every key has been taken back.

        Returns:
            Whether there was a process.
        """
        host = self.hosts[name]
        if host.boot is None or host.boot.task is None:
            return False
        host.stopped.add(key)
        if self.clients is not None:
            self.clients.note_silence(name)
        self.network.freeze(host.address)
        hold_tasks(host.boot.task)
        return True

    def continue_process(self, name: str, key: str) -> None:
        """SIGCONT. A process that was started meanwhile was not stopped: no effect on it."""
        host = self.hosts[name]
        host.stopped.discard(key)
        if not host.stopped:
            self.network.thaw(host.address)
            if host.boot is not None and host.boot.task is not None:
                release_tasks(host.boot.task)

    def renew(self, name: str) -> None:
        """A host that is down is installed anew: other keys, empty disk."""
        host = self.hosts[name]
        host.identities += 1
        purpose = f"keys {host.address} {host.identities}"
        self.authority, host.identity = enrol(
            self.authority,
            host.tenants,
            keys=HostKeys.generate(self.entropy(purpose).secret),
            entropy=self.entropy(f"authority {purpose}"),
            now_unix_s=VirtualClock().unix_s(),
            leaf_s=LEAF_LIFETIME_S_MAX,
        )
        host.storage.wipe()
        host.epochs = self.authority.epochs
        self.identities[host.identity.peer_id] = name

    @contextmanager
    def each_boot(self, names: Sequence[str], apply: OnBoot) -> Iterator[None]:
        """Applies something to the nodes that run now and to every later boot of theirs."""

        def on_boot(host: SimHost, node: Node) -> None:
            if host.name in names:
                apply(host, node)

        self.on_boot.append(on_boot)
        try:
            for name in names:
                host = self.hosts[name]
                if host.node is not None:
                    apply(host, host.node)
            yield
        finally:
            self.on_boot.remove(on_boot)


class _Up:
    """``task_status`` of a node: it listens now."""

    def __init__(self, cluster: SimCluster, host: SimHost, why: str, ready: trio.Event) -> None:
        self._cluster = cluster
        self._host = host
        self._why = why
        self._ready = ready

    def started(self, node: Node | None = None) -> None:
        host = self._host
        if node is not None and host.node is node:
            host.down = None
            self._cluster.history.add(
                What.NODE_UP, host.name, generation=node.generation, why=self._why
            )
        host.start_ended(self._ready)


__all__ = ["CLONED", "PORT", "Boot", "OnBoot", "SimCluster", "SimHost", "WrapPorts"]
