"""Process faults: peers that end, stand still, are slow, or come back as something else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from chaos.faults import process
from chaos.faults.fault import Fault
from chaos.impairments import SerialDelay
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.link import impaired
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault

CAP_LOOK_S = 0.05


def alive(cluster: SimCluster, planned: PlannedFault) -> list[SimHost]:
    """The fault's nodes that run; raises ``Missed`` where none does."""
    found = [cluster.host(name) for name in planned.nodes]
    running = [host for host in found if host.boot is not None]
    if not running:
        raise Missed("down already: " + ", ".join(planned.nodes))
    return running


def _down(end: Callable[[SimCluster, str, str], Awaitable[bool]]) -> Action:
    """Ends the peers and keeps them down until the block is left."""

    @asynccontextmanager
    async def action(
        cluster: SimCluster, planned: PlannedFault, effects: Effects
    ) -> AsyncIterator[None]:
        alive(cluster, planned)
        try:
            for name in planned.nodes:
                cluster.hold(name, planned.id)
                effects.add(await end(cluster, name, planned.fault.kind))
            yield
        finally:
            for name in planned.nodes:
                cluster.let(name, planned.id)
            for name in planned.nodes:
                await cluster.start(name, planned.fault.kind)

    return action


async def _kill(cluster: SimCluster, name: str, why: str) -> bool:
    await trio.lowlevel.checkpoint()
    return cluster.kill(name, why)


def restarting(between: Callable[[SimCluster, SimHost, Fault], None]) -> Action:
    """Kills each peer, does something to its host, and starts it again."""

    @asynccontextmanager
    async def action(
        cluster: SimCluster, planned: PlannedFault, effects: Effects
    ) -> AsyncIterator[None]:
        for host in alive(cluster, planned):
            cluster.kill(host.name, planned.fault.kind)
            between(cluster, host, planned.fault)
            effects.add()
            await cluster.start(host.name, planned.fault.kind)
        yield

    return action


def _same(cluster: SimCluster, host: SimHost, fault: Fault) -> None:
    """Nothing has changed."""


def _wiped(_cluster: SimCluster, host: SimHost, _fault: Fault) -> None:
    host.storage.wipe()


def _rolled_back(_cluster: SimCluster, host: SimHost, fault: Fault) -> None:
    assert isinstance(fault, process.RestartRolledBack)
    host.storage.roll_back(trio.current_time() - fault.back_s)


def _renewed(cluster: SimCluster, host: SimHost, _fault: Fault) -> None:
    cluster.renew(host.name)


@asynccontextmanager
async def _restart_new_identity(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """An issuer that has revoked a host does not admit it again."""
    admitted = tuple(name for name in planned.nodes if name not in cluster.revoked)
    if not admitted:
        raise Missed("revoked: " + ", ".join(planned.nodes))
    async with restarting(_renewed)(cluster, replace(planned, nodes=admitted), effects):
        yield


@asynccontextmanager
async def _stop_cont(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    alive(cluster, planned)
    try:
        for name in planned.nodes:
            effects.add(cluster.stop_process(name, planned.id))
        yield
    finally:
        for name in planned.nodes:
            cluster.continue_process(name, planned.id)


@asynccontextmanager
async def _slow_cpu(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, process.SlowCpu)
    names = cluster.schedule.cluster.names
    links = tuple((a, b) for b in planned.nodes for a in names if a != b)
    slow = SerialDelay(fault.delay_ms / 1000, effects.add)
    async with impaired(cluster, planned, links, slow):
        yield


@asynccontextmanager
async def _fd_exhausted(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    hosts = [cluster.network.host(cluster.host(name).address) for name in planned.nodes]
    try:
        for host in hosts:
            host.no_files[planned.id] = effects.add
        yield
    finally:
        for host in hosts:
            host.no_files.pop(planned.id, None)


@asynccontextmanager
async def _memory_cap(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """The cluster's supervisor starts again what was ended."""
    fault = planned.fault
    assert isinstance(fault, process.MemoryCap)
    cap_bytes = fault.cap_kbytes * 1000

    async def look() -> None:
        while True:
            await trio.sleep(CAP_LOOK_S)
            for name in planned.nodes:
                address = cluster.host(name).address
                over = cluster.network.buffered_bytes(address) > cap_bytes
                if over and cluster.kill(name, fault.kind):
                    effects.add()

    async with beside(look):
        yield


ACTIONS: dict[type[Fault], Action] = {
    process.Crash: _down(SimCluster.stop),
    process.Kill9: _down(_kill),
    process.StopCont: _stop_cont,
    process.SlowCpu: _slow_cpu,
    process.RestartSame: restarting(_same),
    process.RestartWiped: restarting(_wiped),
    process.RestartRolledBack: restarting(_rolled_back),
    process.RestartNewIdentity: _restart_new_identity,
    process.FdExhausted: _fd_exhausted,
    process.MemoryCap: _memory_cap,
}
