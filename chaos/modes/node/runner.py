"""Runs a schedule on whole simulated peers: warm-up, storm, healing, settling, an orderly end."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from chaos.cold import cold_times
from chaos.errors import ChaosError, innermost
from chaos.history import Event, History, What
from chaos.modes.asked import Sent, twin_requests
from chaos.modes.node.actions.registry import ACTIONS
from chaos.modes.node.clients import Clients
from chaos.modes.node.cluster import SimCluster
from chaos.modes.node.make import make_cluster
from chaos.modes.node.observer import Observer
from chaos.modes.storm import Storm
from chaos.modes.toy import toy_of
from chaos.observe.observer import observer as make_observer
from chaos.plants.plant import Plant
from chaos.run import Run, Totals
from chaos.scenario.schedule import Schedule
from chaos.signatures import checked_once
from chaos.simulation import SimulationStuck, run_simulation
from chaos.stopwatch import Stopwatch
from chaos.twin import twin_of

NO_ACTION = "this mode has no action for it"

SUPERVISE_S = 1.0
"""How often a host is looked at whose peer should run and does not, as a service manager does."""

LOOK_S = 0.5
"""How often after healing the replicas are compared."""

SPARE_S = 600.0
"""Virtual seconds beyond the phases after which a run is a deadlock."""


def run_node(
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
        ChaosError: When the harness itself breaks.
    """
    watch = Stopwatch()
    running = _Running(schedule, plant, on_event)
    phases_s = schedule.warm_up_s + schedule.duration_s + schedule.settle_s
    ends_s = schedule.cluster.nodes * schedule.limits.grace_s
    limit_s = phases_s + ends_s + SPARE_S
    with _hushed(), checked_once():
        try:
            run_simulation(schedule.seed & 0xFFFF_FFFF, running.main, limit_s=limit_s)
        except SimulationStuck as stuck:
            running.stuck(str(stuck))
        except Exception as error:
            raise ChaosError(f"the harness broke: {innermost(error)}") from error
    asked = twin_requests(running.sent(), running.history.events, schedule.cluster)
    cold_s = cold_times(schedule, running.history.events)
    twin = twin_of(asked, lambda name: toy_of(schedule, name), cold_s)
    return Run(
        schedule=schedule,
        events=tuple(running.history.events),
        twin=twin,
        totals=Totals(
            simulated_s=running.ended_s,
            wall_s=watch.read_s(),
            deliveries=running.deliveries,
            trace=running.digest(),
        ),
        plant=None if plant is None else plant.name,
        notes=tuple(running.notes),
    )


class _Running:
    """One run under way, and what is left of it."""

    def __init__(
        self,
        schedule: Schedule,
        plant: Plant | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.schedule = schedule
        self.history = History(now=self._now_s)
        if on_event is not None:
            self.history.watchers.append(on_event)
        self.notes: list[str] = []
        self.ended_s = 0.0
        self._plant = plant
        self._cluster: SimCluster | None = None

    def _now_s(self) -> float:
        self.ended_s = trio.current_time()
        return self.ended_s

    @property
    def deliveries(self) -> int:
        return 0 if self._cluster is None else self._cluster.network.trace.chunks

    def digest(self) -> str:
        """Of the history and of every chunk on the network."""
        state = hashlib.blake2b(self.history.digest().encode(), digest_size=16)
        if self._cluster is not None:
            state.update(self._cluster.network.trace.digest().encode())
        return state.hexdigest()

    def stuck(self, why: str) -> None:
        """The simulation itself came to no end."""
        event = Event(round(self.ended_s, 6), What.STUCK, "run", {"why": why, "for_s": SPARE_S})
        self.history.events.append(event)
        self.notes.append(why)

    def sent(self) -> list[Sent]:
        """Every request that a client has sent."""
        return [] if self._cluster is None else list(self._cluster.sent.values())

    # -- the phases

    async def main(self) -> None:
        async with trio.open_nursery() as nursery:
            cluster = self._cluster = make_cluster(self.schedule, self.history, nursery)
            observer: Observer = make_observer(cluster)
            self._wire(cluster, observer)
            self.history.add(What.PHASE, name="warm_up")
            nursery.start_soon(observer.watch)
            storm = Storm(
                ground=cluster,
                schedule=self.schedule,
                history=self.history,
                find=lambda planned: ACTIONS.get(type(planned.fault), NO_ACTION),
                noted=Exception,
                notes=self.notes,
            )
            await self._warm_up(cluster, nursery)
            await self._storm(cluster, storm, nursery)
            await self._settle(cluster, storm, observer)
            await self._stop(cluster, storm)
            nursery.cancel_scope.cancel()

    def _wire(self, cluster: SimCluster, observer: Observer) -> None:
        """Doubles of a planted bug first, then the taps, so that these see what it does."""
        plant = self._plant
        if plant is not None:
            cluster.wrap_engine.append(lambda _, core: plant.engine(core))
            cluster.wrap_ports.append(lambda host, ports: plant.ports(ports, host))
            cluster.wrap_node.append(lambda _, node: plant.node(node))
        cluster.wrap_ports.append(observer.wrap_ports)
        cluster.on_boot.append(observer.on_boot)

    async def _warm_up(self, cluster: SimCluster, nursery: trio.Nursery) -> None:
        for name in self.schedule.cluster.late:
            cluster.hold(name, "late")
        for name in self.schedule.cluster.names:
            await cluster.start(name, "first start")
        nursery.start_soon(_supervise, cluster)
        await trio.sleep_until(self.schedule.warm_up_s)

    async def _storm(
        self, cluster: SimCluster, storm: Storm[SimCluster], nursery: trio.Nursery
    ) -> None:
        self.history.add(What.PHASE, name="storm")
        storm.begin()
        clients = cluster.clients = Clients(cluster, nursery)
        for planned in self.schedule.faults:
            nursery.start_soon(storm.live, planned)
        for name, after_s in self.schedule.cluster.late.items():
            nursery.start_soon(_come_late, cluster, name, after_s)
        nursery.start_soon(clients.send_all)
        await trio.sleep_until(storm.began_s + self.schedule.duration_s)

    async def _settle(
        self, cluster: SimCluster, storm: Storm[SimCluster], observer: Observer
    ) -> None:
        healed_s = trio.current_time()
        storm.healed.set()
        await storm.mended()
        self.history.add(What.PHASE, name="healed")
        converged = False
        ends_s = healed_s + self.schedule.settle_s
        while trio.current_time() < ends_s:
            await trio.sleep_until(min(ends_s, trio.current_time() + LOOK_S))
            if not converged and _quiet(cluster) and observer.converged():
                converged = True
                after_s = round(trio.current_time() - healed_s, 6)
                self.history.add(What.CONVERGED, after_s=after_s)
        observer.settled()
        self.history.add(What.PHASE, name="settled")

    async def _stop(self, cluster: SimCluster, storm: Storm[SimCluster]) -> None:
        cluster.closing = True
        storm.over.set()
        await storm.ended()
        for name in self.schedule.cluster.names:
            await cluster.leave(name, self.schedule.limits.grace_s)
        self.history.add(What.PHASE, name="stopped")
        self.notes += cluster.broken


@contextmanager
def _hushed() -> Iterator[None]:
    """What peers log goes to handlers that somebody has set, and not to the terminal."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    try:
        yield
    finally:
        root.removeHandler(nowhere)


def _quiet(cluster: SimCluster) -> bool:
    """Whether no engine of the core computes anything, so that nothing new is cached there."""
    loads = [host.engine.load() for host in cluster.core() if host.engine is not None]
    return not any(load.running or load.queued for load in loads)


async def _supervise(cluster: SimCluster) -> None:
    """Starts again what has ended and is not held down."""
    while True:
        await trio.sleep(SUPERVISE_S)
        for host in cluster.hosts.values():
            if host.boot is None and not host.holds:
                await cluster.start(host.name, "supervised")


async def _come_late(cluster: SimCluster, name: str, after_s: float) -> None:
    await trio.sleep(after_s)
    cluster.let(name, "late")
    await cluster.start(name, "late")
