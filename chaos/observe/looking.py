"""What is looked at now and then, in simulation: agreement, gauges, and how a run has settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chaos.history import What
from chaos.modes.node.cluster import SimHost
from chaos.observe.agreement import Agreement
from chaos.observe.gauges import Gauge, is_over
from chaos.observe.watching import Watching

LOOK_S = 1.0
"""How often agreement is looked at."""

_PER_PEER = frozenset({"peers_up", "gossip_streams", "accepted_channels"})
"""Gauges that may be as many as there are other nodes."""


class Looking:
    """Writes AGREEMENT, GAUGE, DIVERGED and CLAIMS.

    Args:
        watching: The cluster.
        gauges_of: All gauges of a host; none where it does not run.
        gauge_every: Looks from one look at the gauges to the next.
    """

    def __init__(
        self,
        watching: Watching,
        gauges_of: Callable[[SimHost], Iterable[Gauge]],
        *,
        gauge_every: int,
    ) -> None:
        self._watching = watching
        self._gauges_of = gauges_of
        self._gauge_every = gauge_every
        self._agreement = Agreement(watching)
        self._agreed: tuple[int, int] | None = None
        self._baselines: dict[tuple[str, str], float] | None = None
        self._shown: dict[tuple[str, str], tuple[float, float | None]] = {}
        self._looks = 0

    def storm_begins(self) -> None:
        """What gauges must return to is what they are now."""
        self._baselines = {
            (host.name, gauge.name): gauge.value
            for host in self._watching.cluster.running()
            for gauge in self._gauges_of(host)
            if gauge.returns
        }

    def look(self) -> None:
        """Looks at agreement, and at the gauges when it is their turn."""
        self._look_at_agreement()
        self._looks += 1
        if self._looks % self._gauge_every == 0:
            self._look_at_gauges(last=False)

    def converged(self) -> bool:
        """Whether everybody knows what everybody holds, of the core."""
        return self._agreement.converged()

    def settled(self) -> None:
        """Writes what is not as it should be, and how many pairs and nodes were compared."""
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

    def _look_at_agreement(self) -> None:
        agreed = self._agreement.agreed()
        if agreed != self._agreed:
            self._agreed = agreed
            self._watching.add(What.AGREEMENT, "", pairs=agreed[0], agreeing=agreed[1])

    def _look_at_gauges(self, *, last: bool) -> None:
        """Writes the gauges that have changed, and all of them the last time."""
        for host in self._watching.cluster.running():
            for gauge in self._gauges_of(host):
                shown = (gauge.value, gauge.cap)
                key = (host.name, gauge.name)
                if last or is_over(gauge) or self._shown.get(key) != shown:
                    self._shown[key] = shown
                    self._watching.add(
                        What.GAUGE,
                        host.name,
                        name=gauge.name,
                        value=gauge.value,
                        cap=gauge.cap,
                        baseline=self._baseline(host, gauge),
                    )

    def _baseline(self, host: SimHost, gauge: Gauge) -> float | None:
        """What it was before the storm, or could be with every peer there."""
        if not gauge.returns or self._baselines is None:
            return None
        others = len(self._watching.cluster.hosts) - 1
        least = float(others) if gauge.name in _PER_PEER else 0.0
        return max(least, self._baselines.get((host.name, gauge.name), 0.0))
