"""Copies of a host's folder: one that runs beside it, and one that is put back in its place."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from chaos.faults import security
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.invariants.voids import TAIL_S
from chaos.modes.effects import Effects
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.process import alive
from chaos.modes.node.actions.tickets import BackedUpTicket
from chaos.modes.node.cluster import CLONED, SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault

RAN = "clone_ran"
"""A mark: a copy has run, of whose cache the ground truth of its original knows nothing."""

ENDED = "clone_ended"
"""A mark: of two processes with one identity one has ended."""

LOOK_S = 0.25

BESIDE_S = 20.0
"""Within this time one of two ends, where nothing else is wrong."""


@dataclass(eq=False)
class _Two:
    """A host and a copy of it, since ``began_s``."""

    cluster: SimCluster
    planned: PlannedFault
    host: SimHost
    copy: SimHost
    effects: Effects
    began_s: float
    ended: bool = False

    def look(self) -> None:
        """Notes once that one of them has ended."""
        for each in (self.host, self.copy):
            if each.down == CLONED and not self.ended:
                self.ended = True
                self.effects.add()
                mark = {"node": each.name, "fault": self.planned.id}
                self.cluster.history.add(What.MARK, ENDED, **mark)

    def judge(self) -> None:
        """The fault is over: one must have ended, where there was time and no other fault."""
        self.look()
        beside_s = trio.current_time() - self.began_s
        if not self.ended and beside_s > BESIDE_S and not self._is_disturbed():
            why = "it and a copy of it have met, and one of them ends"
            self.cluster.history.add(What.STUCK, self.host.name, why=why, for_s=beside_s)

    def _is_disturbed(self) -> bool:
        """Whether another fault was active meanwhile."""
        ended_s: dict[str, float] = {}
        begun: set[str] = set()
        for event in self.cluster.history.events:
            if event.what is What.FAULT_BEGIN:
                begun.add(event.subject)
            elif event.what is What.FAULT_END:
                ended_s[event.subject] = event.at_s
        begun.discard(self.planned.id)
        return any(ended_s.get(each, math.inf) > self.began_s - TAIL_S for each in begun)


def _copied(cluster: SimCluster, host: SimHost) -> SimHost:
    """What a copy of the folder makes of another host, at an address of its own."""
    cluster.copied += 1
    number = cluster.copied
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
    twos = [
        _Two(cluster, planned, host, _copied(cluster, host), effects, trio.current_time())
        for host in hosts
    ]

    async def watch() -> None:
        while True:
            for two in twos:
                two.look()
            await trio.sleep(LOOK_S)

    try:
        for two in twos:
            if await cluster.start_copy(two.copy):
                mark = {"node": two.copy.name, "fault": planned.id}
                cluster.history.add(What.MARK, RAN, **mark)
        async with beside(watch):
            yield
    finally:
        for two in twos:
            two.judge()
            cluster.kill_host(two.copy, planned.fault.kind)
            cluster.let(two.host.name, CLONED)
            await cluster.start(two.host.name, planned.fault.kind)


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
