"""The life of planned faults in live mode: the same phases as in node mode, in real time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from chaos.errors import ChaosError
from chaos.history import What
from chaos.modes.live.actions import ACTIONS, NEED_ORDERS, Ground, LiveAction
from chaos.modes.node.actions.action import Effects, Missed
from chaos.modes.node.faults import LASTING, Landmarks, parts
from chaos.scenario.scenario import Landmark
from chaos.scenario.schedule import PlannedFault

UNDO_S = 60.0


@dataclass(eq=False)
class LiveStorm:
    """All faults of a schedule."""

    ground: Ground
    landmarks: Landmarks
    notes: list[str]
    began_s: float = 0.0
    healed: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    _inside: set[str] = field(default_factory=set)
    _applied: set[str] = field(default_factory=set)

    async def live(self, planned: PlannedFault) -> None:
        """The whole life of one fault."""
        history, kind = self.ground.cluster.history, planned.fault.kind
        action, why = ACTIONS.get(type(planned.fault)), "live mode has no action for it"
        if self.ground.cluster.schedule.cluster.plain_peers and type(planned.fault) in NEED_ORDERS:
            action, why = None, "a plain peer takes no orders"
        if action is None:
            history.add(What.FAULT_UNSUPPORTED, planned.id, kind=kind, why=why)
            return
        if not await self._due(planned):
            why = "its landmark never came"
            history.add(What.FAULT_MISSED, planned.id, kind=kind, why=why)
            return
        effects, undone = Effects(), True
        history.add(What.FAULT_BEGIN, planned.id, kind=kind, nodes=list(planned.nodes))
        self._applied.add(planned.id)
        self._inside.add(planned.id)
        try:
            await self._act(action, planned, effects)
        except* Missed as missed:
            why = str(next(leaves(missed)))
            history.add(What.FAULT_MISSED, planned.id, kind=kind, why=why)
        except* ChaosError as failed:
            undone = False
            self.notes.append(f"fault {planned.id}: {next(leaves(failed))}")
        finally:
            self._applied.discard(planned.id)
            self._inside.discard(planned.id)
            history.add(What.FAULT_END, planned.id, kind=kind, effects=effects.count, undone=undone)

    async def _due(self, planned: PlannedFault) -> bool:
        if not isinstance(planned.at, Landmark):
            await trio.sleep_until(self.began_s + planned.at)
            return True
        came = self.landmarks.wait_for(planned.at)
        async with trio.open_nursery() as nursery:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, came)
            nursery.start_soon(wait, self.healed)
        return came.is_set()

    async def _act(self, action: LiveAction, planned: PlannedFault, effects: Effects) -> None:
        if planned.fault.instant:
            async with action(self.ground, planned, effects):
                return
        schedule = self.ground.cluster.schedule
        inside, outside = parts(planned, schedule.core, schedule.cluster.names)
        missed: list[Missed] = []

        async def enter(stack: AsyncExitStack, part: PlannedFault | None) -> None:
            if part is not None:
                try:
                    await stack.enter_async_context(action(self.ground, part, effects))
                except Missed as error:
                    missed.append(error)

        async with AsyncExitStack() as left, AsyncExitStack() as mended:
            await enter(left, outside)
            await enter(mended, inside)
            if len(missed) == (outside is not None) + (inside is not None):
                raise missed[0]
            await self._last(planned)
            await mended.aclose()
            self._inside.discard(planned.id)
            if outside is not None and self.healed.is_set():
                await self.over.wait()

    async def _last(self, planned: PlannedFault) -> None:
        for_s = planned.for_s
        if for_s is None or isinstance(planned.fault, LASTING):
            await self.healed.wait()
            return
        with trio.move_on_after(for_s):
            await self.healed.wait()

    async def mended(self) -> None:
        """Healing is done: what is left of the faults is outside the core."""
        with trio.move_on_after(UNDO_S):
            while self._inside:
                await trio.sleep(0.05)

    async def ended(self) -> None:
        """Every fault has been undone."""
        with trio.move_on_after(UNDO_S):
            while self._applied:
                await trio.sleep(0.05)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
