"""Runs a schedule on real processes: TLS, SQLite, mDNS, sockets, signals and the system's clock.

Nodes are on loopback, each with a relay in front of it, or in namespaces that a switch joins. What
is left of a run, however it ends, is known by the run's tag (``heal.py``).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from chaos.cold import cold_times
from chaos.errors import ChaosError, ScenarioError, Unsupported
from chaos.faults.fault import Network
from chaos.history import Event, History, What
from chaos.modes.asked import Sent, prompt_text, twin_requests
from chaos.modes.live import homes
from chaos.modes.live.actions import action_of
from chaos.modes.live.clients import LiveClients
from chaos.modes.live.cluster import (
    SNAPSHOT_EVERY_S,
    VAIN_STARTS_MAX,
    LiveCluster,
    make_cluster,
)
from chaos.modes.live.ground import Ground
from chaos.modes.live.heal import processes_of, remove
from chaos.modes.live.loopback import Loopback
from chaos.modes.live.namespaces import namespaces
from chaos.modes.live.network import LiveNetwork
from chaos.modes.live.tag import NODES_MAX, RunTag, free_block, new_tag
from chaos.modes.live.witness import LiveWitness
from chaos.modes.storm import Storm
from chaos.modes.toy import toy_of
from chaos.plants.plant import Plant
from chaos.run import Run, Totals, Twin
from chaos.scenario.scenario import Cluster
from chaos.scenario.schedule import Schedule
from chaos.stopwatch import Stopwatch
from chaos.twin import twin_of
from overlay.home import Home

SUPERVISE_S = 0.5
LOOK_S = 0.25
KEEP = "RHIZOME_CHAOS_KEEP"
"""Environment variable: where it is set, a run's folder with its logs is left."""


async def run_live(
    schedule: Schedule,
    *,
    plant: Plant | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run:
    """Runs a schedule to its end.

    Args:
        schedule: What to do.
        plant: A planted bug of the harness's own; those of peers are of simulation.
        on_event: Called with each event of the history as it happens.

    Raises:
        Unsupported: On a system that is not Linux, or that cannot make the network asked for.
        ScenarioError: For a planted bug of a peer.
        ChaosError: Where the cluster cannot be brought up.
    """
    if sys.platform != "linux":
        raise Unsupported("live mode needs Linux")
    if plant is not None and not plant.live:
        raise ScenarioError(f"the planted bug {plant.name} needs mode node")
    watch = Stopwatch()
    began_s = trio.current_time()
    history, notes = History(lambda: trio.current_time() - began_s), list[str]()
    if on_event is not None:
        history.watchers.append(on_event)
    tag = new_tag()
    deliveries = 0
    with _network_of(schedule.cluster) as network, _folder_of(tag, notes):
        async with _cluster_of(schedule, history, tag, network) as (cluster, witness, clients):
            await _phases(cluster, witness, clients, notes)
            deliveries = network.carried
            notes += [*cluster.broken, *network.notes()]
        if plant is not None:
            plant.leave_behind([Home(host.home).control_path() for host in cluster.hosts.values()])
        _look_for_leftovers(cluster, history)
        witness.look_for_leaks()
    return Run(
        schedule=schedule,
        events=tuple(history.events),
        twin=_twin(schedule, clients, history),
        totals=Totals(
            simulated_s=history.now(), wall_s=watch.read_s(), deliveries=deliveries, trace=""
        ),
        plant=None if plant is None else plant.name,
        notes=tuple(notes),
    )


@contextmanager
def _network_of(plan: Cluster) -> Iterator[LiveNetwork]:
    """What joins the nodes. Raises ``Unsupported`` where it is not to be had on this machine."""
    if plan.nodes > NODES_MAX:
        raise ChaosError(f"live mode runs at most {NODES_MAX} nodes")
    if plan.network is Network.LOOPBACK:
        yield Loopback(plan, free_block())
        return
    with namespaces(plan) as network:
        yield network


class _folder_of:  # noqa: N801 - used as a context manager
    """The folder of a run, removed in the end unless it is asked for."""

    def __init__(self, tag: RunTag, notes: list[str]) -> None:
        self._path = tag.folder
        self._notes = notes

    def __enter__(self) -> None:
        self._path.mkdir(mode=0o700)

    def __exit__(self, *_: object) -> None:
        if os.environ.get(KEEP):
            self._notes.append(f"logs and homes are left in {self._path}")
        else:
            remove(self._path)


@asynccontextmanager
async def _cluster_of(
    schedule: Schedule, history: History, tag: RunTag, network: LiveNetwork
) -> AsyncIterator[tuple[LiveCluster, LiveWitness, LiveClients]]:
    """A cluster whose processes are gone when the block is left, however it is left."""
    founded = homes.found(schedule.cluster, tag.folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_sigterm)
        cluster = await make_cluster(schedule, history, tag, founded, network, nursery)
        try:
            witness = LiveWitness(cluster, founded.tenants)
            clients = LiveClients(cluster, nursery)
            yield cluster, witness, clients
        finally:
            cluster.closing = True
            with trio.CancelScope(shield=True):
                await cluster.end()
            nursery.cancel_scope.cancel()


async def _heed_sigterm() -> None:
    """SIGTERM ends the run in order, as Ctrl-C does. Raises ``KeyboardInterrupt``."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            raise KeyboardInterrupt


async def _phases(
    cluster: LiveCluster, witness: LiveWitness, clients: LiveClients, notes: list[str]
) -> None:
    schedule, history, nursery = cluster.schedule, cluster.history, cluster.nursery
    history.add(What.PHASE, name="warm_up")
    for name in schedule.cluster.late:
        cluster.hosts[name].holds.add("late")
    async with trio.open_nursery() as starting:
        for name in schedule.cluster.names:
            starting.start_soon(_come_first, cluster, name)
    began_s = trio.current_time()
    nursery.start_soon(witness.watch)
    nursery.start_soon(_supervise, cluster)
    nursery.start_soon(_take_snapshots, cluster)
    await trio.sleep_until(began_s + schedule.warm_up_s)
    history.add(What.PHASE, name="storm")
    storm = Storm(
        ground=Ground(cluster, clients),
        schedule=schedule,
        history=history,
        find=lambda planned: action_of(planned, schedule.cluster),
        noted=ChaosError,
        notes=notes,
    )
    storm.begin()
    witness.storm_begins()
    for planned in schedule.faults:
        nursery.start_soon(storm.live, planned)
    for name, after_s in schedule.cluster.late.items():
        nursery.start_soon(_come_late, cluster, name, after_s)
    nursery.start_soon(clients.send_all, storm.began_s)
    await trio.sleep_until(storm.began_s + schedule.duration_s)
    await _settle(cluster, witness, clients, storm)
    cluster.closing = True
    storm.over.set()
    await storm.ended()
    async with trio.open_nursery() as leaving:
        for name in schedule.cluster.names:
            leaving.start_soon(cluster.leave, name, schedule.limits.grace_s)
    history.add(What.PHASE, name="stopped")


async def _settle(
    cluster: LiveCluster, witness: LiveWitness, clients: LiveClients, storm: Storm[Ground]
) -> None:
    """Heals, and waits for agreement; the rest of the time is left to open requests."""
    schedule, history = cluster.schedule, cluster.history
    storm.healed.set()
    await storm.mended()
    history.add(What.PHASE, name="healed")
    healed_s = trio.current_time()
    converged = schedule.cluster.plain_peers
    while trio.current_time() < healed_s + schedule.settle_s:
        await trio.sleep(LOOK_S)
        writes_ended_s = max(healed_s, clients.last_end_s)
        if not converged and not clients.open and witness.converged(writes_ended_s):
            converged = True
            after_s = round(trio.current_time() - healed_s, 6)
            history.add(What.CONVERGED, after_s=after_s)
        if converged and not clients.open:
            break
    await witness.hear_all(trio.current_time())
    witness.settled()
    history.add(What.PHASE, name="settled")


async def _come_first(cluster: LiveCluster, name: str) -> None:
    """Raises ``ChaosError`` where a node does not come up before anything was done to it."""
    host = cluster.hosts[name]
    if not host.holds and not await cluster.start(name, "first start"):
        words = "; ".join(cluster.broken) or host.down
        raise ChaosError(f"the cluster did not come up: {words}")


async def _supervise(cluster: LiveCluster) -> None:
    """Starts again what has ended and is not held down, as a service manager does."""
    while True:
        await trio.sleep(SUPERVISE_S)
        for host in cluster.hosts.values():
            wanted = not host.holds and host.vain_starts < VAIN_STARTS_MAX
            if host.process is None and wanted:
                cluster.nursery.start_soon(cluster.start, host.name, "supervised")


async def _take_snapshots(cluster: LiveCluster) -> None:
    """Copies of databases, for nodes that will be rolled back."""
    wanted = {
        name
        for planned in cluster.schedule.faults
        if planned.fault.kind == "restart_rolled_back"
        for name in planned.nodes
    }
    while wanted:
        for name in sorted(wanted):
            cluster.snapshot(cluster.hosts[name])
        await trio.sleep(SNAPSHOT_EVERY_S)


async def _come_late(cluster: LiveCluster, name: str, after_s: float) -> None:
    await trio.sleep(after_s)
    cluster.hosts[name].holds.discard("late")
    await cluster.start(name, "late")


def _look_for_leftovers(cluster: LiveCluster, history: History) -> None:
    """Whatever of the run is there still, when all is over."""
    for pid, _ in processes_of(cluster.tag.text):
        history.add(What.LEFT, str(pid), kind="process")
    for address in cluster.network.listening():
        history.add(What.LEFT, address, kind="socket")
    for host in cluster.hosts.values():
        path = Home(host.home).control_path()
        if path.exists() and host.down == "left":
            history.add(What.LEFT, path.name, kind="file")
    history.add(What.PHASE, name="looked")


def _twin(schedule: Schedule, clients: LiveClients, history: History) -> Twin:
    """The twin of a run with toy engines; with a model there is none to compare with."""
    if schedule.cluster.engine != "toy":
        return Twin(tokens={}, ttft_s={})
    sent = [
        Sent(request, clients.sent_s[request.id], prompt_text(request))
        for request in schedule.requests
        if request.id in clients.sent_s
    ]
    requests = twin_requests(sent, history.events, schedule.cluster)
    cold_s = cold_times(schedule, history.events)
    return twin_of(requests, lambda name: toy_of(schedule, name), cold_s)
