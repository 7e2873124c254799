"""Clock faults: distortions of a host's wall clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chaos.clock import Distortion, ahead_by, drifting, frozen, strobing
from chaos.faults import clock
from chaos.faults.fault import Fault
from chaos.modes.effects import Effects
from chaos.modes.node.actions.action import Action
from chaos.modes.node.cluster import SimCluster
from chaos.scenario.schedule import PlannedFault


def _distortion(fault: Fault, now_s: float) -> Distortion:
    match fault:
        case clock.Skew():
            return drifting(fault.ppm, now_s)
        case clock.Offset():
            return ahead_by(fault.offset_s)
        case clock.Jump():
            return ahead_by(fault.jump_s)
        case clock.Strobe():
            return strobing(fault.amplitude_s, fault.period_s, now_s)
        case clock.Freeze():
            return frozen(now_s)
        case _:
            raise TypeError(f"no distortion for {fault.kind}")


@asynccontextmanager
async def _distort(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    clocks = [cluster.host(name).clock for name in planned.nodes]
    ahead = _distortion(planned.fault, trio.current_time())
    try:
        for each in clocks:
            each.distort(planned.id, ahead, effects.add)
        yield
    finally:
        for each in clocks:
            each.restore(planned.id)


ACTIONS: dict[type[Fault], Action] = dict.fromkeys(
    (clock.Skew, clock.Offset, clock.Jump, clock.Strobe, clock.Freeze), _distort
)
