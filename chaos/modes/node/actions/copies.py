"""Copies of a host's folder: one that runs beside it, and one that is put back in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from chaos.faults import security
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.modes.effects import Effects
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.process import alive
from chaos.modes.node.actions.tickets import BackedUpTicket
from chaos.modes.node.cluster import CLONED, SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault

ENDED = "clone_ended"
"""A mark: of two processes with one identity one has ended."""

LOOK_S = 0.25


def _copied(cluster: SimCluster, host: SimHost) -> SimHost:
    """What a copy of the folder makes of another host, at an address of its own."""
    number = len(cluster.copies) + 1
    return replace(
        host,
        name=f"{host.name}~{number}",
        address=f"10.0.9.{number}",
        storage=host.storage.copy(),
        files=None if host.files is None else host.files.copy(),
        boot=None,
        starting=None,
        starts=0,
        left=set(),
        holds=set(),
        stopped=set(),
    )


@asynccontextmanager
async def _cloned_host(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    hosts = [host for host in alive(cluster, planned) if host.storage.read("self")]
    copies = [_copied(cluster, host) for host in hosts]
    ended: set[str] = set()

    async def watch() -> None:
        while True:
            for host in (*hosts, *copies):
                if host.down == CLONED and host.name not in ended:
                    ended.add(host.name)
                    effects.add()
                    cluster.history.add(What.MARK, ENDED, node=host.name, fault=planned.id)
            await trio.sleep(LOOK_S)

    try:
        for copy in copies:
            await cluster.start_copy(copy)
        async with beside(watch):
            yield
    finally:
        for host, copy in zip(hosts, copies, strict=True):
            cluster.kill_host(copy, planned.fault.kind)
            cluster.let(host.name, CLONED)
            await cluster.start(host.name, planned.fault.kind)


@asynccontextmanager
async def _restored_copy(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    hosts = alive(cluster, planned)
    tickets = {host.name: BackedUpTicket.of(cluster, host) for host in hosts if host.files}
    backups = [(host, host.storage.copy(), host.files and host.files.copy()) for host in hosts]
    for ticket in tickets.values():
        await ticket.use()
    try:
        yield
    finally:
        for host, disk, files in backups:
            cluster.kill(host.name, planned.fault.kind)
            host.storage.put_back(disk)
            host.files = files
            effects.add()
            await cluster.start(host.name, planned.fault.kind)
        for ticket in tickets.values():
            cluster.nursery.start_soon(ticket.use_again)


ACTIONS: dict[type[Fault], Action] = {
    security.ClonedHost: _cloned_host,
    security.RestoredCopy: _restored_copy,
}
