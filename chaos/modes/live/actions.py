"""What live mode does for each fault: an async block that undoes the fault when it is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from random import Random
from typing import cast

import trio

from chaos.entropy import stream_seed
from chaos.faults import client, clock, disk, metadata, process, security, worker
from chaos.faults.fault import Fault, Mode
from chaos.modes.effects import Effects, Missed
from chaos.modes.live.clients import Manner
from chaos.modes.live.cluster import LiveCluster, LiveHost
from chaos.modes.live.ground import Ground, LiveAction
from chaos.modes.live.links import LINK_ACTIONS
from chaos.modes.live.orders import (
    AnyOrder,
    CrashEngine,
    FillDisk,
    HoldDigest,
    SetClock,
    SlowEngine,
)
from chaos.modes.live.process import NodeEnded, NodeProcess
from chaos.scenario.scenario import Cluster
from chaos.scenario.schedule import PlannedFault

ORDER_AGAIN_S = 0.2
FLOOD_AT_ONCE = 512
GARBAGE_WAIT_S = 2.0


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
    network, numbers = ground.cluster.network, count()
    limiter = trio.CapacityLimiter(FLOOD_AT_ONCE)

    async def one(name: str) -> None:
        async with limiter:
            try:
                stream = await network.dial(next(numbers), name)
                effects.add()
                async with stream:
                    await say(stream)
            except (OSError, trio.BrokenResourceError):
                return  # refused or broken off: what a node does to strangers

    async def come(name: str, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(1 / per_s)
            if limiter.available_tokens > 0:
                nursery.start_soon(one, name)

    async with trio.open_nursery() as nursery:
        for name in planned.nodes:
            nursery.start_soon(come, name, nursery)
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
    **LINK_ACTIONS,
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


def action_of(planned: PlannedFault, cluster: Cluster) -> LiveAction | str:
    """What this mode does for a fault in such a cluster, or why it does nothing."""
    kind = type(planned.fault)
    if kind in ACTIONS and not kind.works_in(Mode.LIVE, cluster.network):
        return f'not possible with network = "{cluster.network.value}"'
    if cluster.plain_peers and kind in NEED_ORDERS:
        return "a plain peer takes no orders"
    return ACTIONS.get(kind, "live mode has no action for it")
