"""Metadata faults: peers that hold valid keys and say what is not so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from chaos.adversary import Ear, rolled_back, tell, tell_anew
from chaos.claims import StandStill, TooLittle, TooMuch
from chaos.engine import Claims, FaultyEngine, prefix_cache_of
from chaos.faults import metadata
from chaos.faults.fault import Fault
from chaos.gap import EventGap
from chaos.modes.effects import Effects
from chaos.modes.lying import EMPTY_EVERY_S, churn, coming_blocks, rng_of
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.engines import noticed, on_engines, with_server
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault
from overlay.node import Node

LOST = "events_lost"
"""Mark."""

MakeClaims = Callable[[SimHost], Claims]


@asynccontextmanager
async def _claiming(
    cluster: SimCluster, planned: PlannedFault, make: MakeClaims
) -> AsyncIterator[None]:
    """Puts a filter on what the engines of some nodes say; tells the truth anew in the end."""

    def put(host: SimHost, engine: FaultyEngine) -> None:
        engine.claims[planned.id] = make(host)

    def take(engine: FaultyEngine) -> None:
        if engine.claims.pop(planned.id, None) is not None:
            engine.tell_anew()

    with on_engines(cluster, planned.nodes, put=put, take=take):
        yield


def _stale_digest(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AbstractAsyncContextManager[None]:
    return _claiming(cluster, planned, lambda _: StandStill(effects.add))


def _under_claim(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AbstractAsyncContextManager[None]:
    return _claiming(cluster, planned, lambda _: TooLittle(effects.add))


@asynccontextmanager
async def _over_claim(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    def make(host: SimHost) -> Claims:
        node = host.running
        engine = node.ports.engine
        return TooMuch(lambda: coming_blocks(cluster, node.tenants, engine), effects.add)

    async def empty() -> None:
        while True:
            for name in planned.nodes:
                engine = cluster.hosts[name].engine
                if engine is not None:
                    engine.evict_all()
            await trio.sleep(EMPTY_EVERY_S)

    async with _claiming(cluster, planned, make), beside(empty):
        yield


def _churn_storm(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AbstractAsyncContextManager[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.ChurnStorm)

    def make(host: SimHost) -> Claims:
        return churn(cluster, planned, host, fault.blocks_per_s, effects)

    return _claiming(cluster, planned, make)


@asynccontextmanager
async def _event_gap(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.EventGap)

    def put(host: SimHost, engine: FaultyEngine) -> None:
        cache = prefix_cache_of(engine.core)
        assert cache is not None, "simulated engines have a cache"
        notice = noticed(cluster, effects, host, planned.id, LOST)
        engine.lose_events(
            planned.id, EventGap(fault.gap_s, cache.contents, trio.current_time, notice)
        )

    names = with_server(cluster, planned)
    with on_engines(cluster, names, put=put, take=lambda engine: engine.hear_all(planned.id)):
        yield


@asynccontextmanager
async def _replay(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.Replay)
    rngs = {name: rng_of(cluster, planned, name) for name in planned.nodes}

    def speak(host: SimHost, node: Node, ear: Ear) -> None:
        for data in ear.repeats(rngs[host.name]):
            effects.add(tell(node, data))

    async with listening(cluster, planned, every_s=fault.every_ms / 1000, speak=speak):
        yield


@asynccontextmanager
async def _sequence_rollback(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.SequenceRollback)
    rngs = {name: rng_of(cluster, planned, name) for name in planned.nodes}

    def speak(host: SimHost, node: Node, _: Ear) -> None:
        news = rolled_back(node, int(fault.back), host.clock.unix_s(), rngs[host.name])
        effects.add(tell(node, news))

    try:
        async with listening(cluster, planned, every_s=fault.every_ms / 1000, speak=speak):
            yield
    finally:
        # Who believed one of two things of one number learns the truth by a newer one.
        for name in planned.nodes:
            node = cluster.hosts[name].node
            if node is not None:
                tell_anew(node)


@asynccontextmanager
async def listening(
    cluster: SimCluster,
    planned: PlannedFault,
    *,
    every_s: float,
    speak: Callable[[SimHost, Node, Ear], None],
) -> AsyncIterator[None]:
    """Listens at some nodes, and lets each speak now and then while its process runs."""
    ears = {name: Ear() for name in planned.nodes}

    def apply(host: SimHost, node: Node) -> None:
        ears[host.name].take(node)
        ears[host.name].listen_at(node)

    async def go_on() -> None:
        while True:
            await trio.sleep(every_s)
            for name, ear in ears.items():
                host = cluster.hosts[name]
                if host.node is not None and not host.stopped:
                    speak(host, host.node, ear)

    try:
        with cluster.each_boot(planned.nodes, apply):
            async with beside(go_on):
                yield
    finally:
        for ear in ears.values():
            ear.on = False
            ear.heard.clear()


ACTIONS: dict[type[Fault], Action] = {
    metadata.StaleDigest: _stale_digest,
    metadata.Replay: _replay,
    metadata.SequenceRollback: _sequence_rollback,
    metadata.OverClaim: _over_claim,
    metadata.UnderClaim: _under_claim,
    metadata.ChurnStorm: _churn_storm,
    metadata.EventGap: _event_gap,
}
