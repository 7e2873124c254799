"""Watches a simulated cluster: puts the taps on each boot, and looks at everything now and then."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import trio

from chaos.history import Event, What
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.observe.gauges import Gauge, gauges
from chaos.observe.hearing import Hearing
from chaos.observe.leaks import Leaks, LogTap, Marks, StorageTap, TransportTap, node_of_task
from chaos.observe.looking import LOOK_S, Looking
from chaos.observe.routes import Routes
from chaos.observe.serving import EngineTap
from chaos.observe.truth import TruthCore
from chaos.observe.watching import Watching
from inference.core import EngineCore
from overlay.decisions import Outcome
from overlay.node import Node
from overlay.ports import Engine, Ports
from overlay.transport.connection import Connection
from security.peer_id import PeerId

GAUGE_EVERY = 2
"""Looks from one look at the gauges to the next."""

ANSWERED = frozenset({"stop", "length"})
"""States of requests that ended well."""


class ClusterObserver:
    """``chaos.modes.node.observer.Observer`` of one cluster."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self.watching = Watching(cluster)
        self._looking = Looking(self.watching, self._gauges, gauge_every=GAUGE_EVERY)
        self._leaks = Leaks(self.watching)
        self._transports: dict[str, TransportTap] = {}
        # The first one around an engine's core, and so the innermost.
        cluster.wrap_engine.append(self._wrap_core)
        cluster.history.watchers.append(self._on_event)

    # -- the taps

    def _wrap_core(self, host: SimHost, core: EngineCore) -> EngineCore:
        truth = self.watching.truth(host.name)
        return TruthCore(core, truth, lambda: self.watching.landmark("evicted", host.name))

    def wrap_ports(self, host: SimHost, ports: Ports) -> Ports:
        """Taps on the engine, and on what comes in and is kept of tenants that are not its own."""
        foreign = {
            tenant_id: name
            for tenant_id, name in self.watching.tenants.items()
            if name not in host.tenants
        }
        marks, found = Marks(foreign), self._leaks.found(host.name)
        transport = self._transports[host.name] = TransportTap(ports.transport, marks, found)
        several, history = len(self.watching.tenants) > 1, self._cluster.history
        engine = EngineTap(
            ports.engine,
            self.watching,
            host.name,
            self._leaks.on_text(host.name) if several else None,
            history.now if self._cluster.schedule.tells_answers else None,
        )
        storage = StorageTap(ports.storage, marks, found) if marks else ports.storage
        return replace(ports, transport=transport, storage=storage, engine=cast("Engine", engine))

    def on_boot(self, host: SimHost, node: Node) -> None:
        """Taps on a new node, before it runs."""
        Hearing(self.watching, host.name, node).install()
        Routes(self.watching, host.name, node).install()
        self._tap_landmarks(host.name, node)

    def _tap_landmarks(self, name: str, node: Node) -> None:
        landmark = self.watching.landmark
        self.watching.tap_publishing(name, node.knowledge.gossip.publisher)
        peers, ended = node.peers, node.decisions.ended
        on_up, on_down = peers._on_up, peers._on_down

        def up(connection: Connection) -> None:
            landmark("peer_up", name)
            on_up(connection)

        def down(peer_id: PeerId) -> None:
            landmark("peer_down", name)
            on_down(peer_id)

        def end(request_id: str, outcome: Outcome) -> None:
            if outcome.state in ANSWERED:
                landmark("answered", name)
            ended(request_id, outcome)

        peers._on_up, peers._on_down = up, down
        node.decisions.ended = end  # type: ignore[method-assign]  # the tap

    # -- looking

    def _on_event(self, event: Event) -> None:
        if event.what is What.NODE_DOWN:
            self.watching.truth(event.subject).lose_all()
        if event.what is What.FAIL and event.subject in self._cluster.sent:
            tenant = self._cluster.sent[event.subject].request.tenant
            self._leaks.on_failure(event, tenant)
        if event.what is What.PHASE and event.data["name"] == "storm":
            self._looking.storm_begins()

    async def watch(self) -> None:
        """Looks at agreement and gauges, and hears what is logged, until cancelled."""
        tenants = tuple(self.watching.tenants.values())
        logs = LogTap(tenants, lambda: node_of_task(self._cluster), self._leaks.found)
        with logs.listening():
            while True:
                await trio.sleep(LOOK_S)
                self._looking.look()

    def _gauges(self, host: SimHost) -> list[Gauge]:
        if host.node is None or host.engine is None:
            return []
        return list(gauges(host.node, host.engine, self._transports[host.name].accepted))

    # -- the end

    def converged(self) -> bool:
        """Whether everybody knows what everybody holds, of the core."""
        return self._looking.converged()

    def settled(self) -> None:
        """Writes what is not as it should be, and how many pairs and nodes were compared."""
        self._looking.settled()


def observer(cluster: SimCluster) -> ClusterObserver:
    """The observer of a cluster; made before its first boot."""
    return ClusterObserver(cluster)
