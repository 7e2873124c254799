"""Worker faults: what is done to the engines of a simulated cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import trio

from chaos.engine import FaultyEngine
from chaos.faults import worker
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.engines import noticed, on_engines
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault
from inference.request import EngineRequest, TokenEvent
from overlay.node import Node
from overlay.ports import Engine, TokenStream

SLOW, FAILED, LIE, EMPTIED = "worker_slow", "engine_failed", "lie_seen", "cache_emptied"
"""Marks."""


@asynccontextmanager
async def _slow_gpu(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, worker.SlowGpu)

    def put(host: SimHost, engine: FaultyEngine) -> None:
        notice = noticed(cluster, effects, host, planned.id, SLOW)
        engine.slow_down(planned.id, fault.factor, notice)

    with on_engines(
        cluster, planned.nodes, put=put, take=lambda engine: engine.speed_up(planned.id)
    ):
        yield


@asynccontextmanager
async def _stall(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    def put(host: SimHost, engine: FaultyEngine) -> None:
        slow = noticed(cluster, effects, host, planned.id, SLOW)
        failed = noticed(cluster, Effects(), host, planned.id, FAILED)

        def notice() -> None:
            slow()
            failed()

        engine.stall(planned.id, notice)

    with on_engines(cluster, planned.nodes, put=put, take=lambda engine: engine.go_on(planned.id)):
        yield


@asynccontextmanager
async def _engine_crash(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    engines = _engines(cluster, planned)
    for host, engine in engines:
        engine.crash(f"crashed by {planned.id}")
        cluster.history.add(What.MARK, FAILED, node=host.name, fault=planned.id)
        effects.add()
    yield


@asynccontextmanager
async def _eviction_storm(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, worker.EvictionStorm)

    async def evict() -> None:
        told: set[str] = set()
        while True:
            for name in planned.nodes:
                engine = cluster.hosts[name].engine
                if engine is not None and engine.evict_all():
                    effects.add()
                    if name not in told:
                        told.add(name)
                        cluster.history.add(What.MARK, EMPTIED, node=name, fault=planned.id)
            await trio.sleep(fault.every_ms / 1000)

    async with beside(evict):
        yield


@asynccontextmanager
async def _stream_cut(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, worker.StreamCut)
    cutter = _Cutter(int(fault.after_tokens), effects.add)

    def apply(_: SimHost, node: Node) -> None:
        served = inner_forwards(node)
        served._engine = cast("Engine", _CutEngine(served._engine, cutter))

    try:
        with cluster.each_boot(planned.nodes, apply):
            yield
    finally:
        cutter.on = False


@asynccontextmanager
async def _lie_cached(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    def put(host: SimHost, engine: FaultyEngine) -> None:
        engine.lie(planned.id, noticed(cluster, effects, host, planned.id, LIE))

    with on_engines(
        cluster, planned.nodes, put=put, take=lambda engine: engine.be_honest(planned.id)
    ):
        yield


def _engines(cluster: SimCluster, planned: PlannedFault) -> list[tuple[SimHost, FaultyEngine]]:
    """Engines of the target that run. Raises :class:`Missed` where none does."""
    hosts = [cluster.hosts[name] for name in planned.nodes]
    found = [(host, host.engine) for host in hosts if host.engine is not None]
    if not found:
        raise Missed("none of its nodes runs")
    return found


def inner_forwards(node: Node) -> Any:  # a tap has it as ``inner``
    """The forward handler of a node, behind whatever taps are on it."""
    found: Any = node.forwards
    while hasattr(found, "inner"):
        found = found.inner
    return found


class _Cutter:
    """When answers are cut, for as long as it is ``on``."""

    def __init__(self, after_tokens: int, on_effect: Callable[[], None]) -> None:
        self.after_tokens = after_tokens
        self.on_effect = on_effect
        self.on = True


class _CutEngine:
    """An engine whose answers end in the middle; the handler of forwards has it alone."""

    def __init__(self, inner: Engine, cutter: _Cutter) -> None:
        self.inner = inner
        self._cutter = cutter

    def __getattr__(self, name: str) -> Any:  # whatever an engine has
        return getattr(self.inner, name)

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[TokenStream]:
        return self._submitted(request)

    @asynccontextmanager
    async def _submitted(self, request: EngineRequest) -> AsyncIterator[TokenStream]:
        async with self.inner.submit(request) as stream:
            yield _CutStream(stream, self._cutter)


class _CutStream:
    """An answer that ends without a finish reason after so many tokens."""

    def __init__(self, inner: TokenStream, cutter: _Cutter) -> None:
        self._inner = inner
        self._cutter = cutter
        self._tokens = 0

    def __aiter__(self) -> _CutStream:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._cutter.on and self._tokens >= self._cutter.after_tokens:
            self._cutter.on_effect()
            raise StopAsyncIteration
        event = await anext(self._inner)
        self._tokens += len(event.token_ids or ())
        return event


ACTIONS: dict[type[Fault], Action] = {
    worker.SlowGpu: _slow_gpu,
    worker.Stall: _stall,
    worker.EngineCrash: _engine_crash,
    worker.EvictionStorm: _eviction_storm,
    worker.StreamCut: _stream_cut,
    worker.LieCached: _lie_cached,
}
