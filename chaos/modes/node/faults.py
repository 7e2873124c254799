"""The life of one planned fault: waits for its time or landmark, acts, and is undone.

Where healing makes only a core whole, a fault is applied in two parts: what touches the core alone
is undone at healing, and the rest stays until the run stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import trio

from chaos.cuts import CUTTING, cut_links
from chaos.faults.clock import Jump
from chaos.faults.fault import Aim
from chaos.faults.security import CrossTenantProbe, RevokedKeepsTalking
from chaos.history import Event, History, What
from chaos.modes.node.actions.action import Action, Effects, Missed
from chaos.modes.node.actions.registry import ACTIONS
from chaos.modes.node.cluster import SimCluster, innermost
from chaos.scenario.scenario import Landmark
from chaos.scenario.schedule import PlannedFault

LASTING = (Jump, RevokedKeepsTalking)
"""Faults that last until the run heals, whatever ``for_s`` says."""

UNDO_S = 60.0
"""Virtual seconds that an undo may take."""


@dataclass(eq=False)
class Landmarks:
    """Counts landmarks of the storm and wakes those who wait for one."""

    history: History
    _counts: dict[tuple[str, str | None], int] = field(default_factory=dict)
    _waiting: list[tuple[Landmark, trio.Event]] = field(default_factory=list)

    def watch(self) -> None:
        """Counts from now on."""
        self.history.watchers.append(self._see)

    def wait_for(self, landmark: Landmark) -> trio.Event:
        """Set when the landmark has come."""
        event = trio.Event()
        if self._counts.get((landmark.event, landmark.node), 0) >= landmark.count:
            event.set()
        else:
            self._waiting.append((landmark, event))
        return event

    def _see(self, event: Event) -> None:
        if event.what is not What.LANDMARK:
            return
        for key in ((event.subject, None), (event.subject, str(event.data.get("node")))):
            self._counts[key] = self._counts.get(key, 0) + 1
        for landmark, waiting in tuple(self._waiting):
            if self._counts.get((landmark.event, landmark.node), 0) >= landmark.count:
                waiting.set()
                self._waiting.remove((landmark, waiting))


@dataclass(eq=False)
class Storm:
    """When the storm began, and events for its end and the run's."""

    cluster: SimCluster
    landmarks: Landmarks
    began_s: float = 0.0
    healed: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    notes: list[str] = field(default_factory=list)
    _applied: dict[str, PlannedFault] = field(default_factory=dict)
    _left: dict[str, PlannedFault] = field(default_factory=dict)

    async def mended(self) -> None:
        """Healing is done: what is left of the faults is outside the core."""
        await _until(lambda: self._applied.keys() <= self._left.keys())

    async def ended(self) -> None:
        """Every fault has been undone."""
        await _until(lambda: not self._applied)

    async def live(self, planned: PlannedFault) -> None:
        """The whole life of one fault."""
        history, kind = self.cluster.history, planned.fault.kind
        action = ACTIONS.get(type(planned.fault))
        if action is None:
            why = "this mode has no action for it"
            history.add(What.FAULT_UNSUPPORTED, planned.id, kind=kind, why=why)
            return
        if not await self._due(planned):
            why = "its landmark never came"
            history.add(What.FAULT_MISSED, planned.id, kind=kind, why=why)
            return
        effects = Effects()
        history.add(What.FAULT_BEGIN, planned.id, kind=kind, nodes=list(planned.nodes))
        undone = True
        self._applied[planned.id] = planned
        try:
            await self._act(action, planned, effects)
        except Missed as missed:
            history.add(What.FAULT_MISSED, planned.id, kind=kind, why=str(missed))
        except Exception as error:  # noqa: BLE001 - a fault of the harness, which the run reports
            undone = False
            self.notes.append(f"fault {planned.id}: {innermost(error)}")
        del self._applied[planned.id]
        history.add(What.FAULT_END, planned.id, kind=kind, effects=effects.count, undone=undone)

    async def _due(self, planned: PlannedFault) -> bool:
        """Waits for the fault's time. False where the storm ends before its landmark comes."""
        if not isinstance(planned.at, Landmark):
            await trio.sleep_until(self.began_s + planned.at)
            return True
        came = self.landmarks.wait_for(planned.at)
        await _first(came, self.healed)
        return came.is_set()

    async def _act(self, action: Action, planned: PlannedFault, effects: Effects) -> None:
        if planned.fault.instant:
            async with action(self.cluster, planned, effects):
                return
        schedule = self.cluster.schedule
        undone, left = parts(planned, schedule.core, schedule.cluster.names)
        missed: list[Missed] = []

        async def enter(stack: AsyncExitStack, part: PlannedFault | None) -> None:
            if part is not None:
                try:
                    await stack.enter_async_context(action(self.cluster, part, effects))
                except Missed as error:
                    missed.append(error)

        async with AsyncExitStack() as outside, AsyncExitStack() as inside:
            await enter(outside, left)
            await enter(inside, undone)
            if len(missed) == (left is not None) + (undone is not None):
                raise missed[0]
            await self._last(planned)
            await inside.aclose()
            if left is not None and self.healed.is_set():
                self._left[planned.id] = left
                await self.over.wait()

    async def _last(self, planned: PlannedFault) -> None:
        """Waits until the fault's time is over, at healing at the latest."""
        for_s = planned.for_s
        if for_s is None or isinstance(planned.fault, LASTING):
            await self.healed.wait()
            return
        with trio.move_on_after(for_s):
            await self.healed.wait()


async def _until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, as long as undoing may take."""
    with trio.move_on_after(UNDO_S):
        while not condition():
            await trio.sleep(0.01)


async def _first(*events: trio.Event) -> None:
    """Waits for the first of some events."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


def parts(
    planned: PlannedFault, core: Sequence[str], names: Sequence[str]
) -> tuple[PlannedFault | None, PlannedFault | None]:
    """What healing undoes of a fault, and what it leaves; both together act on all of it.

    Where everything is healed, and for faults that send requests, nothing is left: with them a
    cluster would never stop to cache something new.
    """
    if not core or planned.fault.aim is Aim.REQUESTS or isinstance(planned.fault, CrossTenantProbe):
        return planned, None
    if isinstance(planned.fault, CUTTING):
        planned = replace(planned, links=cut_links(planned, names))
    if planned.links:
        mended = tuple(link for link in planned.links if set(link) <= set(core))
        rest = tuple(link for link in planned.links if link not in mended)
        return (
            replace(planned, links=mended) if mended else None,
            replace(planned, links=rest) if rest else None,
        )
    inner = tuple(name for name in planned.nodes if name in core)
    outer = tuple(name for name in planned.nodes if name not in core)
    return (
        replace(planned, nodes=inner) if inner else None,
        replace(planned, nodes=outer) if outer else None,
    )
