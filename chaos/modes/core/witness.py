"""Watches a cluster of core mode: the taps and comparisons of ``chaos/observe``, without tasks."""

from __future__ import annotations

from typing import Any

from chaos.history import Event, What
from chaos.modes.core.cluster import CoreCluster
from chaos.modes.core.host import CoreHost
from chaos.modes.core.peer import CorePeer
from chaos.modes.core.served import ServedTap
from chaos.observe.agreement import Agreement
from chaos.observe.gauges import Gauge, gossip_gauges, is_over, router_gauges
from chaos.observe.hearing import Hearing
from chaos.observe.routes import Routes
from chaos.observe.truth import CacheTruth, TruthCore
from chaos.observe.watching import Watching
from inference.core import EngineCore

LOOK_S = 1.0
GAUGE_EVERY = 5
"""Looks from one look at the gauges to the next."""


class Witness:
    """Writes facts to the history of a cluster. Made before the first boot."""

    def __init__(self, cluster: CoreCluster) -> None:
        self._cluster = cluster
        stand_in: Any = cluster  # of a SimCluster: the taps ask for no more than is here
        self._watching = Watching(stand_in)
        self._agreement = Agreement(self._watching)
        self._agreed: tuple[int, int] | None = None
        self._baselines: dict[tuple[str, str], float] = {}
        self._shown: dict[tuple[str, str], float] = {}
        self._looks = 0
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
        publisher = peer.gossip.publisher
        frames = publisher.frames

        def publish() -> list[bytes]:
            made = frames()
            if made:
                landmark("digest_published", name)
            return made

        publisher.frames = publish  # type: ignore[method-assign]  # the tap

    # -- looking

    def _look(self) -> None:
        self._cluster.heap.after(LOOK_S, self._look)
        self._look_at_agreement()
        self._looks += 1
        if self._looks % GAUGE_EVERY == 0:
            self._look_at_gauges(last=False)

    def _look_at_agreement(self) -> None:
        agree = [self._agreement.agree(pair) for pair in self._agreement.pairs()]
        agreed = (len(agree), sum(agree))
        if agreed != self._agreed:
            self._agreed = agreed
            self._watching.add(What.AGREEMENT, "", pairs=agreed[0], agreeing=agreed[1])

    def storm_begins(self) -> None:
        """What gauges must return to is what they are now."""
        self._baselines = {
            (host.name, gauge.name): gauge.value
            for host in self._cluster.running()
            for gauge in _gauges(host)
            if gauge.returns
        }

    def _look_at_gauges(self, *, last: bool) -> None:
        """Writes the gauges that have changed, and all of them the last time."""
        for host in self._cluster.running():
            for gauge in _gauges(host):
                key = (host.name, gauge.name)
                if last or is_over(gauge) or self._shown.get(key) != gauge.value:
                    self._shown[key] = gauge.value
                    self._watching.add(
                        What.GAUGE,
                        host.name,
                        name=gauge.name,
                        value=gauge.value,
                        cap=gauge.cap,
                        baseline=self._baselines.get(key, 0.0) if gauge.returns else None,
                    )

    # -- the end

    def converged(self) -> bool:
        """Whether everybody knows what everybody holds, of the core."""
        return self._agreement.converged()

    def settled(self) -> None:
        """Writes what is not as it should be, and what was compared."""
        self._look_at_agreement()
        for pair in self._agreement.pairs():
            missing, extra = self._agreement.difference(pair)
            if missing or extra:
                self._watching.add(
                    What.DIVERGED,
                    pair.observer.name,
                    origin=pair.origin.name,
                    tenant=self._watching.tenants[pair.tenant],
                    missing=missing,
                    extra=extra,
                )
        for host, tenant, claims in self._agreement.all_claims():
            if not claims.hold:
                self._watching.add(What.MARK, "claims_differ", node=host.name)
            self._watching.add(
                What.CLAIMS,
                host.name,
                tenant=tenant,
                phantom=claims.phantom,
                unpublished=claims.unpublished,
                truncated=claims.truncated,
            )
        self._look_at_gauges(last=True)


def _gauges(host: CoreHost) -> list[Gauge]:
    if host.peer is None:
        return []
    node = _as_node(host.peer)
    return [*router_gauges(node), *gossip_gauges(node)]


def _as_node(peer: CorePeer) -> Any:  # a Node to the taps, which ask for no more than is here
    return peer
