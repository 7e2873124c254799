"""What live mode does for faults of links: each puts a shape of its own on the links' weather."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import cast

import trio

from chaos.bursts import Bursts
from chaos.cuts import cut_links
from chaos.delays import Delays
from chaos.entropy import stream_seed
from chaos.faults import link, topology
from chaos.faults.fault import Fault
from chaos.modes.effects import Effects, Missed
from chaos.modes.live.frames import flipped
from chaos.modes.live.ground import Ground, LiveAction
from chaos.modes.live.weather import Link, Shape
from chaos.scenario.schedule import PlannedFault


def _links_of(ground: Ground, planned: PlannedFault) -> tuple[Link, ...]:
    return cut_links(planned, ground.cluster.schedule.cluster.names)


def _shaped(make: Callable[[PlannedFault, Effects, Random], Shape]) -> LiveAction:
    """A fault that puts a shape on each of its links, with a random stream for each."""

    @asynccontextmanager
    async def act(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
        links = _links_of(ground, planned)
        if not links:
            raise Missed("no two nodes are apart")
        async with AsyncExitStack() as undo:
            for each in links:
                subject = f"{planned.id} {each[0]}-{each[1]}"
                seed = stream_seed(ground.cluster.schedule.seed, "fault", subject)
                shape = make(planned, effects, Random(seed))
                undo.enter_context(ground.cluster.network.weather[each].under(planned.id, shape))
            yield

    return act


def _latency(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    delay_ms = cast("link.Latency", planned.fault).delay_ms
    return Shape(on_effect=effects.add, delay_s=lambda: delay_ms / 1000)


def _jitter(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    jitter = cast("link.Jitter", planned.fault)
    delays = Delays(jitter.delay_ms / 1000, jitter.spread_ms / 1000, jitter.correlation, rng)
    return Shape(on_effect=effects.add, delay_s=delays.draw)


def _loss(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    loss = cast("link.Loss", planned.fault)
    return Shape(on_effect=effects.add, loses=Bursts(loss.fraction, loss.burst, rng).loses)


def _duplicate(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    fraction = cast("link.Duplicate", planned.fault).fraction
    return Shape(on_effect=effects.add, doubles=lambda: rng.random() < fraction)


def _reorder(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    reorder = cast("link.Reorder", planned.fault)

    def draw() -> float:
        return reorder.gap_ms / 1000 if rng.random() < reorder.fraction else 0.0

    return Shape(on_effect=effects.add, late_s=draw)


def _corrupt(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    fraction = cast("link.Corrupt", planned.fault).fraction

    def damage(frame: bytes) -> bytes:
        return flipped(frame, rng) if rng.random() < fraction else frame

    return Shape(on_effect=effects.add, damages=damage)


def _bandwidth(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    rate = cast("link.Bandwidth", planned.fault).kbytes_per_s * 1000
    return Shape(on_effect=effects.add, bytes_per_s=rate)


def _mtu(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    size = cast("link.Mtu", planned.fault).size_bytes
    return Shape(on_effect=effects.add, size_max=int(size))


def _slice(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del rng
    fault = cast("link.Slice", planned.fault)
    return Shape(
        on_effect=effects.add,
        slice_bytes=int(fault.size_bytes),
        slice_gap_s=fault.gap_ms / 1000,
    )


def _held(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del planned, rng
    return Shape(on_effect=effects.add, holds=True)


def _cut(planned: PlannedFault, effects: Effects, rng: Random) -> Shape:
    del planned, rng
    return Shape(on_effect=effects.add, cuts=True)


@asynccontextmanager
async def _blackhole(
    ground: Ground, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    links = _links_of(ground, planned)
    try:
        async with AsyncExitStack() as undo:
            for each in links:
                shape = Shape(on_effect=effects.add, swallows=True)
                undo.enter_context(ground.cluster.network.weather[each].under(planned.id, shape))
            yield
    finally:
        _break(ground, links)


@asynccontextmanager
async def _reset(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    broken = _break(ground, planned.links)
    if not broken:
        raise Missed("there was no connection over these links")
    effects.add(broken)
    yield


def _break(ground: Ground, links: tuple[Link, ...]) -> int:
    pairs = dict.fromkeys((min(a, b), max(a, b)) for a, b in links)
    return sum(ground.cluster.network.reset(a, b) for a, b in pairs)


@asynccontextmanager
async def _flap(ground: Ground, planned: PlannedFault, effects: Effects) -> AsyncIterator[None]:
    flap = cast("topology.Flap", planned.fault)

    async def go_and_come() -> None:
        while True:
            async with AsyncExitStack() as down:
                for each in planned.links:
                    weather = ground.cluster.network.weather[each]
                    shape = Shape(on_effect=lambda: None, cuts=True)
                    down.enter_context(weather.under(planned.id, shape))
                effects.add()
                await trio.sleep(flap.period_s * flap.duty)
            await trio.sleep(flap.period_s * (1 - flap.duty))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_and_come)
        yield
        nursery.cancel_scope.cancel()


LINK_ACTIONS: Mapping[type[Fault], LiveAction] = {
    link.Latency: _shaped(_latency),
    link.Jitter: _shaped(_jitter),
    link.Loss: _shaped(_loss),
    link.Duplicate: _shaped(_duplicate),
    link.Reorder: _shaped(_reorder),
    link.Corrupt: _shaped(_corrupt),
    link.Bandwidth: _shaped(_bandwidth),
    link.Mtu: _shaped(_mtu),
    link.Slice: _shaped(_slice),
    link.Jam: _shaped(_held),
    link.Blackhole: _blackhole,
    link.Reset: _reset,
    topology.Partition: _shaped(_cut),
    topology.OneWay: _shaped(_cut),
    topology.Bridge: _shaped(_cut),
    topology.RingMajorities: _shaped(_cut),
    topology.Isolate: _shaped(_cut),
    topology.Flap: _flap,
}
