"""Runs a schedule on the product's cores and an event heap: many times faster than whole peers.

What is left out: sockets, TLS, handshakes, HTTP, tasks and their cancellation. What is the
product's: gossip with its signatures and envelopes, routing with all it learns, tenants, storage
of floors and epochs, the prefix cache and the engine's scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chaos.cold import cold_times
from chaos.errors import ChaosError, ScenarioError
from chaos.history import Event, History, What
from chaos.modes.asked import twin_requests
from chaos.modes.core.cluster import CoreCluster, make_cluster
from chaos.modes.core.heap import Heap
from chaos.modes.core.storm import CoreStorm
from chaos.modes.core.witness import Witness
from chaos.modes.toy import toy_of
from chaos.run import Run, Totals
from chaos.scenario.schedule import Schedule
from chaos.signatures import checked_once
from chaos.stopwatch import Stopwatch
from chaos.twin import twin_of
from inference.core import EngineCore

SUPERVISE_S = 1.0
LOOK_S = 0.5


class Plant(Protocol):
    """A planted bug; core mode can switch on those of the engine."""

    @property
    def name(self) -> str: ...

    @property
    def in_engine(self) -> bool: ...

    def engine(self, core: EngineCore) -> EngineCore: ...


def run_core(
    schedule: Schedule,
    *,
    plant: Plant | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run:
    """Runs a schedule to its end.

    Args:
        schedule: What to do.
        plant: A planted bug to switch on.
        on_event: Called with each event of the history as it happens.

    Raises:
        ScenarioError: For a planted bug that is in a part that this mode leaves out.
    """
    watch, heap = Stopwatch(), Heap()
    history, notes = History(lambda: heap.now_s), list[str]()
    if on_event is not None:
        history.watchers.append(on_event)
    cluster = make_cluster(schedule, history, heap)
    if plant is not None:
        if not plant.in_engine:
            raise ScenarioError(f"the planted bug {plant.name} needs mode node")
        for host in cluster.hosts.values():
            host.wrap_core = plant.engine
    try:
        with checked_once():
            _phases(cluster, CoreStorm(cluster, notes), Witness(cluster))
    except ChaosError as error:
        history.add(What.STUCK, "run", why=str(error), for_s=0.0)
        notes.append(str(error))
    return Run(
        schedule=schedule,
        events=tuple(history.events),
        twin=twin_of(
            twin_requests(cluster.sent, history.events, schedule.cluster),
            lambda name: toy_of(schedule, name),
            cold_times(schedule, history.events),
        ),
        totals=Totals(
            simulated_s=heap.now_s,
            wall_s=watch.read_s(),
            deliveries=cluster.network.deliveries,
            trace=history.digest(),
        ),
        plant=None if plant is None else plant.name,
        notes=tuple(notes),
    )


def _phases(cluster: CoreCluster, storm: CoreStorm, witness: Witness) -> None:
    schedule, heap, history = cluster.schedule, cluster.heap, cluster.history
    history.add(What.PHASE, name="warm_up")
    for name in schedule.cluster.late:
        cluster.hold(name, "late")
    for name in schedule.cluster.names:
        cluster.start(name, "first start")
    heap.after(SUPERVISE_S, lambda: _supervise(cluster))
    heap.run_until(schedule.warm_up_s)
    history.add(What.PHASE, name="storm")
    witness.storm_begins()
    storm.begin()
    for name, after_s in schedule.cluster.late.items():
        heap.after(after_s, lambda name=name: _come_late(cluster, name))  # type: ignore[misc]
    for request in schedule.requests:
        heap.after(request.at_s, lambda request=request: cluster.send(request))  # type: ignore[misc]
    heap.run_until(schedule.warm_up_s + schedule.duration_s)
    storm.heal()
    healed_s = heap.now_s
    history.add(What.PHASE, name="healed")
    converged = False
    while heap.now_s < healed_s + schedule.settle_s:
        heap.run_until(min(healed_s + schedule.settle_s, heap.now_s + LOOK_S))
        if not converged and _quiet(cluster) and witness.converged():
            converged = True
            history.add(What.CONVERGED, after_s=round(heap.now_s - healed_s, 6))
    witness.settled()
    history.add(What.PHASE, name="settled")
    cluster.closing = True
    storm.end()
    ends_s = heap.now_s + schedule.limits.grace_s
    while cluster.open and heap.now_s < ends_s:
        heap.run_until(min(ends_s, heap.now_s + LOOK_S))
    for name in schedule.cluster.names:
        cluster.leave(name)
    history.add(What.PHASE, name="stopped")


def _quiet(cluster: CoreCluster) -> bool:
    """Whether no request is under way but those that wait at an ingress that stands still."""
    return all(cluster.hosts[call.request.ingress].frozen for call in cluster.open.values())


def _supervise(cluster: CoreCluster) -> None:
    """Starts again what has ended and is not held down, as a service manager does."""
    cluster.heap.after(SUPERVISE_S, lambda: _supervise(cluster))
    for name in cluster.hosts:
        cluster.start(name, "supervised")


def _come_late(cluster: CoreCluster, name: str) -> None:
    cluster.let(name, "late")
    cluster.start(name, "late")
