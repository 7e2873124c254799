"""Disk faults: no space, and power that is lost at the worst moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from chaos.faults import disk
from chaos.faults.fault import Fault
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.process import alive, restarting
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault

WRITE_WITHIN_S = 10.0
"""For a batch to come in which the power can be lost."""


@asynccontextmanager
async def _full(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    disks = [cluster.host(name).storage for name in planned.nodes]
    try:
        for each in disks:
            each.fill(planned.id, effects.add)
        yield
    finally:
        for each in disks:
            each.free(planned.id)


@asynccontextmanager
async def _torn_write(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """The next batch finds no power: nothing of it is there, nor what was not durable."""
    hosts = alive(cluster, planned)
    torn: list[SimHost] = []

    def lose_power(host: SimHost) -> bool:
        host.storage.on_write = None
        host.storage.crash_machine()
        cluster.kill(host.name, planned.fault.kind)
        torn.append(host)
        return False

    try:
        for host in hosts:
            cluster.hold(host.name, planned.id)
            host.storage.on_write = partial(lose_power, host)
        with trio.move_on_after(WRITE_WITHIN_S):
            while len(torn) < len(hosts):
                await trio.sleep(0.01)
    finally:
        for host in hosts:
            host.storage.on_write = None
            cluster.let(host.name, planned.id)
    if not torn:
        raise Missed(f"nothing was written within {WRITE_WITHIN_S:g} s")
    effects.add(len(torn))
    for host in torn:
        await cluster.start(host.name, planned.fault.kind)
    yield


def _lose_unsynced(_cluster: SimCluster, host: SimHost, _fault: Fault) -> None:
    host.storage.crash_machine()


ACTIONS: dict[type[Fault], Action] = {
    disk.Full: _full,
    disk.TornWrite: _torn_write,
    disk.LostUnsynced: restarting(_lose_unsynced),
}
