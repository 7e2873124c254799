"""What core mode does for each fault: a block that undoes the fault when it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from random import Random
from typing import TypeVar, cast

from chaos.bursts import Bursts
from chaos.cuts import cut_links
from chaos.delays import Delays
from chaos.entropy import stream_seed
from chaos.faults import link, process, topology
from chaos.faults.fault import Fault
from chaos.modes.core.cluster import CoreCluster
from chaos.modes.core.lies import LIES, CoreAction
from chaos.modes.core.network import Link, Weather
from chaos.modes.effects import Effects, Missed
from chaos.scenario.schedule import PlannedFault

T = TypeVar("T")
Shape = Callable[[Fault, Random, Effects, Weather], Callable[[], None]]
"""Puts a fault's part on one link, and returns what takes it off."""


def _shaped(shape: Shape) -> CoreAction:
    """A fault that shapes the messages of each of its links, with a random stream for each."""

    @contextmanager
    def act(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
        with ExitStack() as undo:
            for each in planned.links:
                subject = f"{planned.id} {each[0]}-{each[1]}"
                rng = Random(stream_seed(cluster.schedule.seed, "fault", subject))
                weather = cluster.network.weather(each)
                undo.callback(shape(planned.fault, rng, effects, weather))
            yield

    return act


def _latency(fault: Fault, rng: Random, effects: Effects, weather: Weather) -> Callable[[], None]:
    del rng
    latency = cast("link.Latency", fault)

    def draw() -> float:
        effects.add()
        return latency.delay_ms / 1000

    return _put(weather.delays, draw)


def _jitter(fault: Fault, rng: Random, effects: Effects, weather: Weather) -> Callable[[], None]:
    jitter = cast("link.Jitter", fault)
    delays = Delays(jitter.delay_ms / 1000, jitter.spread_ms / 1000, jitter.correlation, rng)

    def draw() -> float:
        effects.add()
        return delays.draw()

    return _put(weather.delays, draw)


def _loss(fault: Fault, rng: Random, effects: Effects, weather: Weather) -> Callable[[], None]:
    loss = cast("link.Loss", fault)
    bursts = Bursts(loss.fraction, loss.burst, rng)

    def draw() -> bool:
        lost = bursts.loses()
        effects.add(int(lost))
        return lost

    return _put(weather.losses, draw)


def _duplicate(fault: Fault, rng: Random, effects: Effects, weather: Weather) -> Callable[[], None]:
    fraction = cast("link.Duplicate", fault).fraction

    def draw() -> bool:
        twice = rng.random() < fraction
        effects.add(int(twice))
        return twice

    return _put(weather.doubles, draw)


def _reorder(fault: Fault, rng: Random, effects: Effects, weather: Weather) -> Callable[[], None]:
    reorder = cast("link.Reorder", fault)

    def draw() -> float:
        late = rng.random() < reorder.fraction
        effects.add(int(late))
        return reorder.gap_ms / 1000 if late else 0.0

    return _put(weather.late, draw)


def _put(table: dict[object, T], value: T) -> Callable[[], None]:
    key = object()
    table[key] = value

    def take_off() -> None:
        del table[key]

    return take_off


@contextmanager
def _jam(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    with cluster.network.jam(planned.id, planned.links, effects.add):
        yield


@contextmanager
def _cut(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    links = cut_links(planned, cluster.schedule.cluster.names)
    if not links:
        raise Missed("no two nodes are apart")
    with cluster.network.cut(planned.id, links, effects.add):
        yield


@contextmanager
def _blackhole(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    with cluster.network.cut(planned.id, planned.links, effects.add):
        yield
    for pair in _pairs(planned.links):
        cluster.network.reset(pair)


@contextmanager
def _reset(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    broken = sum(cluster.network.reset(pair) for pair in _pairs(planned.links))
    if not broken:
        raise Missed("there was no connection over these links")
    effects.add(broken)
    yield


def _pairs(links: tuple[Link, ...]) -> list[Link]:
    return list(dict.fromkeys((min(a, b), max(a, b)) for a, b in links))


@contextmanager
def _kill9(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    with ExitStack() as undo:
        for name in planned.nodes:
            undo.callback(_come_back, cluster, name, planned.id)
            cluster.hold(name, planned.id)
            effects.add(int(cluster.kill(name, planned.fault.kind)))
        if not effects.count:
            raise Missed("it did not run")
        yield


def _come_back(cluster: CoreCluster, name: str, key: str) -> None:
    cluster.let(name, key)
    cluster.start(name, "after kill9")


@contextmanager
def _stop_cont(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    with ExitStack() as undo:
        for name in planned.nodes:
            host = cluster.hosts[name]
            if host.peer is not None:
                undo.callback(host.thaw, planned.id)
                host.freeze(planned.id)
                effects.add()
        if not effects.count:
            raise Missed("it did not run")
        yield


def _restarted(before: Callable[[CoreCluster, PlannedFault, str], None]) -> CoreAction:
    """Killed, something done to its disk, and started again."""

    @contextmanager
    def act(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
        for name in planned.nodes:
            if cluster.kill(name, planned.fault.kind):
                before(cluster, planned, name)
                cluster.start(name, planned.fault.kind)
                effects.add()
        if not effects.count:
            raise Missed("it did not run")
        yield

    return act


def _leave_disk(cluster: CoreCluster, planned: PlannedFault, name: str) -> None:
    del cluster, planned, name


def _wipe(cluster: CoreCluster, planned: PlannedFault, name: str) -> None:
    del planned
    cluster.hosts[name].storage.wipe()


def _roll_back(cluster: CoreCluster, planned: PlannedFault, name: str) -> None:
    back_s = cast("process.RestartRolledBack", planned.fault).back_s
    cluster.hosts[name].storage.roll_back(cluster.heap.now_s - back_s)


ACTIONS: Mapping[type[Fault], CoreAction] = {
    link.Latency: _shaped(_latency),
    link.Jitter: _shaped(_jitter),
    link.Loss: _shaped(_loss),
    link.Duplicate: _shaped(_duplicate),
    link.Reorder: _shaped(_reorder),
    link.Jam: _jam,
    link.Blackhole: _blackhole,
    link.Reset: _reset,
    topology.Partition: _cut,
    topology.OneWay: _cut,
    topology.Bridge: _cut,
    topology.RingMajorities: _cut,
    topology.Isolate: _cut,
    process.Kill9: _kill9,
    process.StopCont: _stop_cont,
    process.RestartSame: _restarted(_leave_disk),
    process.RestartWiped: _restarted(_wipe),
    process.RestartRolledBack: _restarted(_roll_back),
    **LIES,
}
