"""Link faults: on bytes by the network's impairments, on gossip messages by rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from chaos.entropy import stream_seed
from chaos.faults import link
from chaos.faults.fault import Fault
from chaos.impairments import (
    Corrupt,
    Delay,
    Hold,
    Jitter,
    LateEnd,
    MakeRng,
    Quota,
    Slice,
    Swallow,
    Throttle,
    TooBig,
)
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.cluster import SimCluster
from chaos.modes.node.messages import Rule
from chaos.pipe import Impairment
from chaos.scenario.schedule import PlannedFault

Links = tuple[tuple[str, str], ...]
Make = Callable[[Fault, MakeRng, Callable[[], None]], Impairment]


def addresses(cluster: SimCluster, links: Links) -> list[tuple[str, str]]:
    """Links of nodes as links of the network."""
    return [(cluster.host(a).address, cluster.host(b).address) for a, b in links]


def link_rng(cluster: SimCluster, planned: PlannedFault) -> MakeRng:
    """A random stream for each link of a fault."""
    seed = cluster.schedule.seed
    return lambda a, b: Random(stream_seed(seed, planned.id, f"{a}>{b}"))


@asynccontextmanager
async def impaired(
    cluster: SimCluster, planned: PlannedFault, links: Links, impairment: Impairment
) -> AsyncIterator[None]:
    """An impairment on links for as long as the block lasts."""
    if not links:
        raise Missed("there is no link to act on")
    key = f"{planned.id} {links[0]}"
    try:
        cluster.network.impair(key, addresses(cluster, links), impairment)
        yield
    finally:
        cluster.network.relieve(key)


def _impairing(make: Make) -> Action:
    @asynccontextmanager
    async def action(
        cluster: SimCluster, planned: PlannedFault, effects: Effects
    ) -> AsyncIterator[None]:
        impairment = make(planned.fault, link_rng(cluster, planned), effects.add)
        async with impaired(cluster, planned, planned.links, impairment):
            yield

    return action


def _impairment(fault: Fault, rng: MakeRng, on_effect: Callable[[], None]) -> Impairment:
    match fault:
        case link.Latency():
            return Delay(fault.delay_ms / 1000, on_effect)
        case link.Jitter():
            delay_s, spread_s = fault.delay_ms / 1000, fault.spread_ms / 1000
            return Jitter(delay_s, spread_s, fault.correlation, rng, on_effect)
        case link.Corrupt():
            return Corrupt(fault.fraction, rng, on_effect)
        case link.Bandwidth():
            return Throttle(fault.kbytes_per_s * 1000, on_effect)
        case link.Mtu():
            return TooBig(int(fault.size_bytes), on_effect)
        case link.Slice():
            return Slice(int(fault.size_bytes), fault.gap_ms / 1000, on_effect)
        case link.Jam():
            return Hold(on_effect)
        case link.Blackhole():
            return Swallow(on_effect)
        case link.SlowClose():
            return LateEnd(fault.delay_ms / 1000, on_effect)
        case link.LimitData():
            return Quota(int(fault.size_bytes), on_effect)
        case _:
            raise TypeError(f"no impairment for {fault.kind}")


@asynccontextmanager
async def _messages(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Loss, doubling and overtaking of whole gossip messages."""
    fault, links = planned.fault, frozenset(planned.links)
    rng, key = link_rng(cluster, planned), f"{planned.id} {planned.links[:1]}"
    match fault:
        case link.Loss():
            rule = Rule(
                links=links, rng=rng, on_effect=effects.add, lose=fault.fraction, burst=fault.burst
            )
        case link.Duplicate():
            rule = Rule(links=links, rng=rng, on_effect=effects.add, double=fault.fraction)
        case link.Reorder():
            rule = Rule(
                links=links,
                rng=rng,
                on_effect=effects.add,
                hold_back=fault.fraction,
                gap_s=fault.gap_ms / 1000,
            )
        case _:
            raise TypeError(f"no rule for {fault.kind}")
    try:
        cluster.messages.rules[key] = rule
        yield
    finally:
        cluster.messages.rules.pop(key, None)


@asynccontextmanager
async def _reset(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    count = cluster.network.reset(addresses(cluster, planned.links))
    if count == 0:
        raise Missed("there is no connection over these links")
    effects.add(count)
    yield


ACTIONS: dict[type[Fault], Action] = {
    **dict.fromkeys(
        (
            link.Latency,
            link.Jitter,
            link.Corrupt,
            link.Bandwidth,
            link.Mtu,
            link.Slice,
            link.Jam,
            link.Blackhole,
            link.SlowClose,
            link.LimitData,
        ),
        _impairing(_impairment),
    ),
    link.Loss: _messages,
    link.Duplicate: _messages,
    link.Reorder: _messages,
    link.Reset: _reset,
}
