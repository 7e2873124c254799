"""What live mode does for each fault: an async block that undoes the fault when it is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from itertools import count
from random import Random
from typing import cast

import trio

from chaos.cuts import cut_links
from chaos.entropy import stream_seed
from chaos.faults import client, clock, disk, link, metadata, process, security, topology, worker
from chaos.faults.fault import Fault
from chaos.modes.effects import Effects, Missed
from chaos.modes.live.clients import LiveClients, Manner
from chaos.modes.live.cluster import LiveCluster, LiveHost
from chaos.modes.live.orders import (
    AnyOrder,
    CrashEngine,
    FillDisk,
    HoldDigest,
    SetClock,
    SlowEngine,
)
from chaos.modes.live.process import NodeEnded, NodeProcess
from chaos.modes.live.tag import PORT, check_target
from chaos.modes.live.weather import Link, Shape
from chaos.scenario.schedule import PlannedFault

ORDER_AGAIN_S = 0.2
FLOOD_AT_ONCE = 512
GARBAGE_WAIT_S = 2.0


class Ground:
    """What actions act on."""

    def __init__(self, cluster: LiveCluster, clients: LiveClients) -> None:
        self.cluster = cluster
        self.clients = clients


LiveAction = Callable[[Ground, PlannedFault, Effects], AbstractAsyncContextManager[None]]


# -- links


def _links_of(ground: Ground, planned: PlannedFault) -> tuple[Link, ...]:
    return cut_links(planned, ground.cluster.schedule.cluster.names)


def _shaped(make: Callable[[PlannedFault, Effects, Random], Shape]) -> LiveAction:
    """A fault that puts a shape on each of its links."""

    @asynccontextmanager
    async def act(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
        links = _links_of(ground, planned)
        if not links:
            raise Missed("no two nodes are apart")
        async with AsyncExitStack() as undo:
            for each in links:
                subject = f"{planned.id} {each[0]}-{each[1]}"
                seed = stream_seed(ground.cluster.schedule.seed, "fault", subject)
                shape = make(planned, effects, Random(seed))
                undo.enter_context(ground.cluster.weather[each].under(planned.id, shape))
            yield

    return act


def _latency(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    delay_ms = cast("link.Latency", planned.fault).delay_ms
    return Shape(on_effect=effects.add, delay_s=lambda: delay_ms / 1000)


def _jitter(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    jitter = cast("link.Jitter", planned.fault)
    share, last = jitter.correlation, 0.0

    def draw() -> float:
        nonlocal last
        last = share * last + (1 - share * share) ** 0.5 * rng.gauss(0, 1)
        return float(max(0.0, jitter.delay_ms + jitter.spread_ms * last) / 1000)

    return Shape(on_effect=effects.add, delay_s=draw)


def _bandwidth(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    rate = cast("link.Bandwidth", planned.fault).kbytes_per_s * 1000
    return Shape(on_effect=effects.add, bytes_per_s=rate)


def _slice(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    fault = cast("link.Slice", planned.fault)
    return Shape(
        on_effect=effects.add,
        slice_bytes=int(fault.size_bytes),
        slice_gap_s=fault.gap_ms / 1000,
    )


def _held(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del planned, rng
    return Shape(on_effect=effects.add, holds=True)


@asynccontextmanager
async def _blackhole(
    ground: Ground, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    links = _links_of(ground, planned)
    try:
        async with AsyncExitStack() as undo:
            for each in links:
                shape = Shape(on_effect=effects.add, swallows=True)
                undo.enter_context(ground.cluster.weather[each].under(planned.id, shape))
            yield
    finally:
        _break(ground, links)


@asynccontextmanager
async def _reset(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    broken = _break(ground, planned.links)
    if not broken:
        raise Missed("there was no connection over these links")
    effects.add(broken)
    yield


def _break(ground: Ground, links: tuple[Link, ...]) -> int:
    hosts = ground.cluster.hosts
    pairs = dict.fromkeys((min(a, b), max(a, b)) for a, b in links)
    return sum(hosts[a].relay.reset(b) + hosts[b].relay.reset(a) for a, b in pairs)


@asynccontextmanager
async def _flap(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    flap = cast("topology.Flap", planned.fault)

    async def go_and_come() -> None:
        while True:
            async with AsyncExitStack() as down:
                for each in planned.links:
                    shape = Shape(on_effect=lambda: None, holds=True)
                    down.enter_context(ground.cluster.weather[each].under(planned.id, shape))
                effects.add()
                await trio.sleep(flap.period_s * flap.duty)
            await trio.sleep(flap.period_s * (1 - flap.duty))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_and_come)
        yield
        nursery.cancel_scope.cancel()


# -- processes and disks


@asynccontextmanager
async def _kill9(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    cluster = ground.cluster
    try:
        for name in planned.nodes:
            cluster.hosts[name].holds.add(planned.id)
            effects.add(int(await cluster.kill(name, planned.fault.kind)))
        if not effects.count:
            raise Missed("it did not run")
        yield
    finally:
        for name in planned.nodes:
            cluster.hosts[name].holds.discard(planned.id)
    # Not where the run is broken off: then nothing is started any more.
    for name in planned.nodes:
        await cluster.start(name, "after kill9")


@asynccontextmanager
async def _stop_cont(
    ground: Ground, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    cluster = ground.cluster
    try:
        for name in planned.nodes:
            effects.add(int(cluster.stop_process(name, planned.id)))
        if not effects.count:
            raise Missed("it did not run")
        yield
    finally:
        for name in planned.nodes:
            cluster.continue_process(name, planned.id)


def _restarted(before: Callable[[LiveCluster, PlannedFault, str], bool]) -> LiveAction:
    """Killed, something done to its disk, and started again."""

    @asynccontextmanager
    async def act(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
        cluster = ground.cluster
        why = "it did not run"
        for name in planned.nodes:
            holds = cluster.hosts[name].holds
            holds.add(planned.id)
            try:
                if await cluster.kill(name, planned.fault.kind):
                    why = "there is no copy of its disk that is so old"
                    effects.add(int(before(cluster, planned, name)))
            finally:
                holds.discard(planned.id)
            await cluster.start(name, planned.fault.kind)
        if not effects.count:
            raise Missed(why)
        yield

    return act


def _leave_disk(cluster: LiveCluster, planned: PlannedFault, name: str) -> bool:
    del cluster, planned, name
    return True


def _wipe(cluster: LiveCluster, planned: PlannedFault, name: str) -> bool:
    del planned
    cluster.wipe(cluster.hosts[name])
    return True


def _roll_back(cluster: LiveCluster, planned: PlannedFault, name: str) -> bool:
    back_s = cast("process.RestartRolledBack", planned.fault).back_s
    return cluster.roll_back(cluster.hosts[name], back_s)


# -- orders


Begin = Callable[[PlannedFault, int], AnyOrder]
End = Callable[[PlannedFault, int], AnyOrder]


def _ordered(begin: Begin, end: End) -> LiveAction:
    """A fault that the nodes themselves carry out, again after each restart while it lasts."""

    @asynccontextmanager
    async def act(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
        hosts = _that_take_orders(ground, planned)
        is_toy = ground.cluster.schedule.cluster.engine == "toy"
        under: dict[str, NodeProcess] = {}

        async def keep(host: LiveHost) -> None:
            while True:
                boot = host.process
                # Toy peers are ordered while they come up; loading a model takes longer than that.
                if boot is not None and (host.up or is_toy) and under.get(host.name) is not boot:
                    under[host.name] = boot
                    with suppress(NodeEnded):
                        await boot.order(lambda number: begin(planned, number))
                await trio.sleep(ORDER_AGAIN_S)

        async def undo(boot: NodeProcess) -> None:
            with suppress(NodeEnded):
                done = await boot.order(lambda number: end(planned, number))
                effects.add(done.effects)

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(keep, host)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            for boot in under.values():
                nursery.start_soon(undo, boot)

    return act


@asynccontextmanager
async def _engine_crash(
    ground: Ground, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    for host in _that_take_orders(ground, planned):
        if host.process is not None:
            with suppress(NodeEnded):
                done = await host.process.order(
                    lambda number: CrashEngine(number=number, fault=planned.id)
                )
                effects.add(done.effects)
    if not effects.count:
        raise Missed("it did not run")
    yield


def _that_take_orders(ground: Ground, planned: PlannedFault) -> list[LiveHost]:
    hosts = [ground.cluster.hosts[name] for name in planned.nodes]
    if not any(host.runs for host in hosts):
        raise Missed("it did not run")
    return hosts


def _clock(planned: PlannedFault, number: int) -> AnyOrder:
    ahead_s = cast("clock.Offset", planned.fault).offset_s
    return SetClock(number=number, fault=planned.id, ahead_s=ahead_s)


def _clock_right(planned: PlannedFault, number: int) -> AnyOrder:
    return SetClock(number=number, fault=planned.id, ahead_s=0.0)


def _fill(planned: PlannedFault, number: int) -> AnyOrder:
    return FillDisk(number=number, fault=planned.id, full=True)


def _empty(planned: PlannedFault, number: int) -> AnyOrder:
    return FillDisk(number=number, fault=planned.id, full=False)


def _hold(planned: PlannedFault, number: int) -> AnyOrder:
    return HoldDigest(number=number, fault=planned.id, stale=True)


def _let_go(planned: PlannedFault, number: int) -> AnyOrder:
    return HoldDigest(number=number, fault=planned.id, stale=False)


def _slow(planned: PlannedFault, number: int) -> AnyOrder:
    factor = cast("worker.SlowGpu", planned.fault).factor
    return SlowEngine(number=number, fault=planned.id, factor=factor)


def _as_fast(planned: PlannedFault, number: int) -> AnyOrder:
    return SlowEngine(number=number, fault=planned.id, factor=1)


# -- strangers


@asynccontextmanager
async def _garbage(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    fault = cast("security.GarbageBytes", planned.fault)
    size = int(fault.size_bytes)
    rng = Random(stream_seed(ground.cluster.schedule.seed, "fault", planned.id))

    async def say(stream: trio.SocketStream) -> None:
        await stream.send_all(rng.randbytes(size))
        with trio.move_on_after(GARBAGE_WAIT_S):
            await stream.receive_some()

    async with _strangers(ground, planned, effects, fault.connections_per_s, say):
        yield


@asynccontextmanager
async def _flood(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    fault = cast("security.Flood", planned.fault)

    async def say(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with _strangers(ground, planned, effects, fault.connections_per_s, say):
        yield


@asynccontextmanager
async def _strangers(
    ground: Ground,
    planned: PlannedFault,
    effects: Effects,
    per_s: float,
    say: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[None]:
    """Connections to each node from addresses of nobody's, one after another."""
    tag, numbers = ground.cluster.tag, count()
    limiter = trio.CapacityLimiter(FLOOD_AT_ONCE)

    async def one(address: str) -> None:
        async with limiter:
            try:
                source = tag.stranger(next(numbers))
                stream = await trio.open_tcp_stream(address, PORT, local_address=source)
                effects.add()
                async with stream:
                    await say(stream)
            except (OSError, trio.BrokenResourceError):
                return  # refused or broken off: what a node does to strangers

    async def come(address: str, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(1 / per_s)
            if limiter.available_tokens > 0:
                nursery.start_soon(one, address)

    async with trio.open_nursery() as nursery:
        for name in planned.nodes:
            address = ground.cluster.hosts[name].address
            check_target(address)
            nursery.start_soon(come, address, nursery)
        yield
        nursery.cancel_scope.cancel()


# -- clients


def _mannered(make: Callable[[PlannedFault], Manner]) -> LiveAction:
    """A fault that is in how clients behave."""

    @asynccontextmanager
    async def act(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
        manners = ground.clients.manners
        try:
            for name in planned.nodes:
                manners.setdefault(name, {})[planned.id] = make(planned)
            yield
        finally:
            for name in planned.nodes:
                manners[name].pop(planned.id, None)
            effects.add(ground.clients.effects.get(planned.id, 0))

    return act


def _disconnect(planned: PlannedFault) -> Manner:
    after = cast("client.DisconnectMidStream", planned.fault).after_tokens
    return Manner(fault_id=planned.id, hang_up_after_tokens=int(after))


def _slow_reader(planned: PlannedFault) -> Manner:
    gap_ms = cast("client.SlowReader", planned.fault).gap_ms
    return Manner(fault_id=planned.id, gap_s=gap_ms / 1000)


ACTIONS: Mapping[type[Fault], LiveAction] = {
    link.Latency: _shaped(_latency),
    link.Jitter: _shaped(_jitter),
    link.Bandwidth: _shaped(_bandwidth),
    link.Slice: _shaped(_slice),
    link.Jam: _shaped(_held),
    link.Blackhole: _blackhole,
    link.Reset: _reset,
    topology.Partition: _shaped(_held),
    topology.OneWay: _shaped(_held),
    topology.Bridge: _shaped(_held),
    topology.RingMajorities: _shaped(_held),
    topology.Isolate: _shaped(_held),
    topology.Flap: _flap,
    clock.Offset: _ordered(_clock, _clock_right),
    process.Kill9: _kill9,
    process.StopCont: _stop_cont,
    process.RestartSame: _restarted(_leave_disk),
    process.RestartWiped: _restarted(_wipe),
    process.RestartRolledBack: _restarted(_roll_back),
    disk.Full: _ordered(_fill, _empty),
    metadata.StaleDigest: _ordered(_hold, _let_go),
    worker.SlowGpu: _ordered(_slow, _as_fast),
    worker.EngineCrash: _engine_crash,
    security.GarbageBytes: _garbage,
    security.Flood: _flood,
    client.DisconnectMidStream: _mannered(_disconnect),
    client.SlowReader: _mannered(_slow_reader),
}

NEED_ORDERS: frozenset[type[Fault]] = frozenset(
    {clock.Offset, disk.Full, metadata.StaleDigest, worker.SlowGpu, worker.EngineCrash}
)
"""Faults that a plain peer cannot have, since it takes no orders."""


def action_of(planned: PlannedFault, *, plain: bool) -> LiveAction | str:
    """What this mode does for a fault, or why it does nothing; ``plain`` peers take no orders."""
    kind = type(planned.fault)
    if plain and kind in NEED_ORDERS:
        return "a plain peer takes no orders"
    return ACTIONS.get(kind, "live mode has no action for it")
