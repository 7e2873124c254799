"""Watches a cluster of core mode: the taps and comparisons of ``chaos/observe``, without tasks."""

from __future__ import annotations

from typing import Any

from chaos.history import Event, What
from chaos.modes.core.cluster import CoreCluster
from chaos.modes.core.host import CoreHost
from chaos.modes.core.peer import CorePeer
from chaos.modes.core.served import ServedTap
from chaos.observe.gauges import Gauge, gossip_gauges, router_gauges
from chaos.observe.hearing import Hearing
from chaos.observe.looking import LOOK_S, Looking
from chaos.observe.routes import Routes
from chaos.observe.truth import CacheTruth, TruthCore
from chaos.observe.watching import Watching
from inference.core import EngineCore

GAUGE_EVERY = 5
"""Looks from one look at the gauges to the next."""


class Witness:
    """Writes facts to the history of a cluster. Made before the first boot."""

    def __init__(self, cluster: CoreCluster) -> None:
        self._cluster = cluster
        stand_in: Any = cluster  # of a SimCluster: the taps ask for no more than is here
        self._watching = Watching(stand_in)
        gauges_of: Any = _gauges
        self._looking = Looking(self._watching, gauges_of, gauge_every=GAUGE_EVERY)
        for host in cluster.hosts.values():
            self._wrap(host)
        cluster.history.watchers.append(self._on_event)
        cluster.heap.after(LOOK_S, self._look)

    def _on_event(self, event: Event) -> None:
        if event.what is What.NODE_DOWN:
            self.truth(event.subject).lose_all()

    def truth(self, name: str) -> CacheTruth:
        """What a node's engine holds, and has held in all its boots."""
        return self._watching.truth(name)

    def _wrap(self, host: CoreHost) -> None:
        planted, name = host.wrap_core, host.name

        def wrap(core: EngineCore) -> EngineCore:
            truth = self.truth(name)
            heard = TruthCore(core, truth, lambda: self._watching.landmark("evicted", name))
            return planted(heard)

        host.wrap_core = wrap
        host.on_boot.append(self._on_boot)

    def _on_boot(self, host: CoreHost, peer: CorePeer) -> None:
        name, node, landmark = host.name, _as_node(peer), self._watching.landmark
        Hearing(self._watching, name, node).install()
        Routes(self._watching, name, node).install()
        ServedTap(self._watching, name, peer.engine).install()
        peer.on_up_down.append(lambda event: landmark(f"peer_{event}", name))
        self._watching.tap_publishing(name, peer.gossip.publisher)

    def _look(self) -> None:
        self._cluster.heap.after(LOOK_S, self._look)
        self._looking.look()

    def storm_begins(self) -> None:
        """What gauges must return to is what they are now."""
        self._looking.storm_begins()

    def converged(self) -> bool:
        """Whether everybody knows what everybody holds, of the core."""
        return self._looking.converged()

    def settled(self) -> None:
        """Writes what is not as it should be, and what was compared."""
        self._looking.settled()


def _gauges(host: CoreHost) -> list[Gauge]:
    if host.peer is None:
        return []
    node = _as_node(host.peer)
    return [*router_gauges(node), *gossip_gauges(node)]


def _as_node(peer: CorePeer) -> Any:  # a Node to the taps, which ask for no more than is here
    return peer
