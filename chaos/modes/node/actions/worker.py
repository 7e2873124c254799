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
from chaos.modes.node.actions.engines import noticed, on_engines, while_on, with_server
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.modes.toy import OtherModel, SimToy, sim_toy_of
from chaos.scenario.schedule import PlannedFault
from inference.request import EngineRequest, TokenEvent
from overlay.node import Node
from overlay.ports import Engine, TokenStream

SLOW, FAILED, LIE, EMPTIED = "worker_slow", "engine_failed", "lie_seen", "cache_emptied"
EARLY, WRONG_BLOCK, OTHER, OTHER_USED = (
    "ended_early",
    "wrong_block_used",
    "other_model",
    "other_model_used",
)
GONE = "server_gone"
"""Marks."""

LOOK_S = 0.25
"""How often it is looked whether there is a block to corrupt."""


def _slow(engine: FaultyEngine, planned: PlannedFault, notice: Callable[[], None]) -> None:
    fault = planned.fault
    assert isinstance(fault, worker.SlowGpu)
    engine.slow_down(planned.id, fault.factor, notice)


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


def _lie(engine: FaultyEngine, planned: PlannedFault, notice: Callable[[], None]) -> None:
    engine.lie(planned.id, notice)


def _run_short(engine: FaultyEngine, planned: PlannedFault, notice: Callable[[], None]) -> None:
    fault = planned.fault
    assert isinstance(fault, worker.OomAtStep)
    engine.run_short(planned.id, int(fault.steps), notice)


def _end_early(engine: FaultyEngine, planned: PlannedFault, notice: Callable[[], None]) -> None:
    fault = planned.fault
    assert isinstance(fault, worker.EarlyEos)
    _toy(engine).end_early(planned.id, int(fault.after_tokens), notice)


def _end_no_more(engine: FaultyEngine, fault_id: str) -> None:
    _toy(engine).mend(fault_id)


@asynccontextmanager
async def _kv_corrupt(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Once in each boot, as soon as there is a block to corrupt."""
    fault = planned.fault
    assert isinstance(fault, worker.KvCorrupt)
    corrupted: dict[str, FaultyEngine] = {}

    async def corrupt() -> None:
        while True:
            for name in planned.nodes:
                host = cluster.hosts[name]
                engine = host.engine
                if engine is not None and corrupted.get(name) is not engine:
                    notice = noticed(cluster, effects, host, planned.id, WRONG_BLOCK)
                    if _toy(engine).corrupt(planned.id, int(fault.depth), notice):
                        corrupted[name] = engine
            await trio.sleep(LOOK_S)

    try:
        async with beside(corrupt):
            yield
    finally:
        for engine in corrupted.values():
            _toy(engine).mend(planned.id)


@asynccontextmanager
async def _wrong_model(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, worker.WrongModel)
    other = OtherModel(tokenizer=fault.tokenizer >= 0.5)
    hosts = [cluster.hosts[name] for name in planned.nodes]
    if all(host.boot is None for host in hosts):
        raise Missed("none of its nodes runs")

    def apply(host: SimHost, _: Node) -> None:
        toy = None if host.engine is None else sim_toy_of(host.engine.core)
        if toy is not None and toy.other is not None:
            cluster.history.add(What.MARK, OTHER, node=host.name, fault=planned.id)
            toy.on_other = noticed(cluster, effects, host, planned.id, OTHER_USED)

    try:
        for host in hosts:
            host.other = other
        with cluster.each_boot(planned.nodes, apply):
            for host in hosts:
                await cluster.restart(host.name, planned.fault.kind)
            yield
    finally:
        for host in hosts:
            host.other = None
        for host in hosts:
            await cluster.restart(host.name, planned.fault.kind)


@asynccontextmanager
async def _server_restart(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    def put(host: SimHost, engine: FaultyEngine) -> None:
        engine.lose_server(planned.id)
        effects.add()
        cluster.history.add(What.MARK, GONE, node=host.name, fault=planned.id)

    names = with_server(cluster, planned)
    with on_engines(cluster, names, put=put, take=lambda engine: engine.find_server(planned.id)):
        yield


def _toy(engine: FaultyEngine) -> SimToy:
    toy = sim_toy_of(engine.core)
    assert toy is not None, "simulated peers have simulated toys"
    return toy


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
        self._tokens += len(event.token_ids or ()) or bool(event.text or event.chunk)
        return event


ACTIONS: dict[type[Fault], Action] = {
    worker.SlowGpu: while_on(SLOW, _slow, FaultyEngine.speed_up),
    worker.Stall: _stall,
    worker.EngineCrash: _engine_crash,
    worker.EvictionStorm: _eviction_storm,
    worker.StreamCut: _stream_cut,
    worker.LieCached: while_on(LIE, _lie, FaultyEngine.be_honest),
    worker.OomAtStep: while_on(FAILED, _run_short, FaultyEngine.have_memory),
    worker.WrongModel: _wrong_model,
    worker.KvCorrupt: _kv_corrupt,
    worker.EarlyEos: while_on(EARLY, _end_early, _end_no_more),
    worker.ServerRestart: _server_restart,
}
