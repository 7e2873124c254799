"""Topology faults: who can reach whom, and what discovery says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import trio

from chaos.cuts import cut_links
from chaos.entropy import stream_seed
from chaos.faults import topology
from chaos.faults.fault import Fault
from chaos.impairments import Hold
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.link import addresses, impaired
from chaos.modes.node.cluster import SimCluster
from chaos.scenario.schedule import PlannedFault
from overlay.address import Address
from overlay.ports import PeerHint
from security.peer_id import peer_id_of_bytes

MADE_UP_NET = "10.66"
MADE_UP_PER_S = 64
"""As many hints as a peer's own queue of them holds."""
NAT_NET = "10.77"


@asynccontextmanager
async def _cut(cluster: SimCluster, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    links = cut_links(planned, cluster.schedule.cluster.names)
    async with impaired(cluster, planned, links, Hold(effects.add)):
        yield


@asynccontextmanager
async def _flap(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, topology.Flap)
    down_s = fault.period_s * fault.duty

    async def flap() -> None:
        while True:
            async with impaired(cluster, planned, planned.links, Hold(effects.add)):
                await trio.sleep(down_s)
            await trio.sleep(fault.period_s - down_s)

    if not planned.links:
        raise Missed("there is no link to act on")
    async with beside(flap):
        yield


@asynccontextmanager
async def _swizzle(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Each link of a target is cut by itself; when all are, they come back in another order."""
    fault = planned.fault
    assert isinstance(fault, topology.Swizzle)
    network, names = cluster.network, cluster.schedule.cluster.names
    pairs = [(a, b) for a in planned.nodes for b in names if a != b]
    if not pairs:
        raise Missed("there is no link to act on")
    rng = Random(stream_seed(cluster.schedule.seed, planned.id, planned.nodes[0]))

    async def swizzle() -> None:
        while True:
            for a, b in rng.sample(pairs, len(pairs)):
                both = addresses(cluster, ((a, b), (b, a)))
                network.impair(f"{planned.id} {a} {b}", both, Hold(effects.add))
                await trio.sleep(fault.step_s)
            for a, b in rng.sample(pairs, len(pairs)):
                network.relieve(f"{planned.id} {a} {b}")
                await trio.sleep(fault.step_s)

    try:
        async with beside(swizzle):
            yield
    finally:
        for a, b in pairs:
            network.relieve(f"{planned.id} {a} {b}")


@asynccontextmanager
async def _deaf(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    hosts = [cluster.network.host(cluster.host(name).address) for name in planned.nodes]
    try:
        for host in hosts:
            host.deaf[planned.id] = effects.add
        yield
    finally:
        for host in hosts:
            host.deaf.pop(planned.id, None)


@asynccontextmanager
async def _eclipse(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Names and addresses that nobody has."""
    fault = planned.fault
    assert isinstance(fault, topology.Eclipse)
    entropy = cluster.entropy(f"{planned.id} {' '.join(planned.nodes)}")
    names = [peer_id_of_bytes(entropy.secret(32)) for _ in range(int(fault.names))]
    targets = [cluster.host(name).address for name in planned.nodes]

    def made_up(number: int) -> PeerHint:
        address = Address(f"{MADE_UP_NET}.{number // 250 % 250}.{number % 250 + 1}", 7401)
        return PeerHint(peer_id=names[number], addresses=(address,))

    async def tell() -> None:
        number = 0
        while True:
            for target in targets:
                for _ in range(min(MADE_UP_PER_S, len(names))):
                    number = (number + 1) % len(names)
                    if cluster.network.tell(target, made_up(number)):
                        effects.add()
            await trio.sleep(1.0)

    async with _deaf(cluster, planned, Effects()), beside(tell):
        yield


@asynccontextmanager
async def _rebind(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """What it has open is dead, without a word; it can still be dialled where it listens."""
    moved = 0
    for name in planned.nodes:
        host = cluster.host(name)
        number = len(cluster.moves)
        cluster.moves.append(name)
        seen_as = f"{NAT_NET}.{number // 250}.{number % 250 + 1}"
        moved += cluster.network.move(host.address, seen_as)
    if moved == 0:
        raise Missed("it has no connection")
    effects.add(moved)
    yield


ACTIONS: dict[type[Fault], Action] = {
    topology.Partition: _cut,
    topology.OneWay: _cut,
    topology.Bridge: _cut,
    topology.RingMajorities: _cut,
    topology.Isolate: _cut,
    topology.Flap: _flap,
    topology.Swizzle: _swizzle,
    topology.BootstrapGone: _deaf,
    topology.NatRebind: _rebind,
    topology.Eclipse: _eclipse,
}
