"""The life of one planned fault: waits for its time or landmark, acts, and is undone.

Where healing makes only a core whole, a fault is applied in two parts: what touches the core alone
is undone at healing, and the rest stays until the run stops. Node and live mode share this; core
mode has the same phases without tasks (``core/storm.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import trio

from chaos.cuts import CUTTING, cut_links
from chaos.errors import innermost, leaves
from chaos.faults.clock import Jump
from chaos.faults.fault import Aim
from chaos.faults.security import CrossTenantProbe, RevokedInPartition, RevokedKeepsTalking
from chaos.history import Event, History, What
from chaos.modes.effects import Effects, Missed
from chaos.scenario.scenario import Landmark
from chaos.scenario.schedule import PlannedFault, Schedule

LASTING = (Jump, RevokedKeepsTalking)
"""Faults that last until the run heals, whatever ``for_s`` says."""

WHOLE = (CrossTenantProbe, RevokedInPartition)
"""Faults that healing undoes whole: one asks for answers, the other cuts links that it chooses."""

UNDO_S = 60.0
"""Seconds that all undoing may take."""

LOOK_S = 0.01
NEVER_CAME = "its landmark never came"

Ground = TypeVar("Ground")
Action = Callable[[Ground, PlannedFault, Effects], AbstractAsyncContextManager[None]]


class Landmarks:
    """Counts landmarks from when it is made to watch, and wakes those who wait for one."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str | None], int] = {}
        self._waiting: list[tuple[Landmark, Callable[[], None]]] = []

    def watch(self, history: History) -> None:
        """Counts from now on."""
        history.watchers.append(self._see)

    def when(self, landmark: Landmark, call: Callable[[], None]) -> None:
        """Calls once when the landmark has come; at once where it has."""
        if self._has_come(landmark):
            call()
        else:
            self._waiting.append((landmark, call))

    def _has_come(self, landmark: Landmark) -> bool:
        return self._counts.get((landmark.event, landmark.node), 0) >= landmark.count

    def _see(self, event: Event) -> None:
        if event.what is not What.LANDMARK:
            return
        for key in ((event.subject, None), (event.subject, str(event.data.get("node")))):
            self._counts[key] = self._counts.get(key, 0) + 1
        for waiting in tuple(self._waiting):
            if self._has_come(waiting[0]):
                self._waiting.remove(waiting)
                waiting[1]()


@dataclass(eq=False, kw_only=True)
class Storm(Generic[Ground]):
    """All faults of a schedule, and events for the end of the storm and of the run.

    Attributes:
        ground: What actions act on.
        find: The action of a fault, or why this mode has none.
        noted: Errors of an action that are noted and do not end the run.
    """

    ground: Ground
    schedule: Schedule
    history: History
    find: Callable[[PlannedFault], Action[Ground] | str]
    noted: type[Exception]
    notes: list[str]
    began_s: float = 0.0
    landmarks: Landmarks = field(default_factory=Landmarks)
    healed: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    _applied: set[str] = field(default_factory=set)
    _left: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Counts times and landmarks from now on."""
        self.began_s = trio.current_time()
        self.landmarks.watch(self.history)

    async def mended(self) -> None:
        """Healing is done: what is left of the faults is outside the core."""
        await _until(lambda: self._applied <= self._left)

    async def ended(self) -> None:
        """Every fault has been undone."""
        await _until(lambda: not self._applied)

    async def live(self, planned: PlannedFault) -> None:
        """The whole life of one fault."""
        history, kind = self.history, planned.fault.kind
        action = self.find(planned)
        if isinstance(action, str):
            history.add(What.FAULT_UNSUPPORTED, planned.id, kind=kind, why=action)
            return
        if not await self._due(planned):
            history.add(What.FAULT_MISSED, planned.id, kind=kind, why=NEVER_CAME)
            return
        effects, undone = Effects(), True
        history.add(What.FAULT_BEGIN, planned.id, kind=kind, nodes=list(planned.nodes))
        self._applied.add(planned.id)
        try:
            await self._act(action, planned, effects)
        except Exception as error:
            causes = tuple(leaves(error))
            if not all(isinstance(cause, Missed | self.noted) for cause in causes):
                raise
            why = next((cause for cause in causes if not isinstance(cause, Missed)), None)
            if why is None:
                history.add(What.FAULT_MISSED, planned.id, kind=kind, why=str(causes[0]))
            else:
                undone = False
                self.notes.append(f"fault {planned.id}: {innermost(why)}")
        finally:
            self._applied.discard(planned.id)
        history.add(What.FAULT_END, planned.id, kind=kind, effects=effects.count, undone=undone)

    async def _due(self, planned: PlannedFault) -> bool:
        """Waits for the fault's time. False where the storm ends before its landmark comes."""
        if not isinstance(planned.at, Landmark):
            await trio.sleep_until(self.began_s + planned.at)
            return True
        came = trio.Event()
        self.landmarks.when(planned.at, came.set)
        await _first(came, self.healed)
        return came.is_set()

    async def _act(self, action: Action[Ground], planned: PlannedFault, effects: Effects) -> None:
        if planned.fault.instant:
            async with action(self.ground, planned, effects):
                return
        undone, left = parts(planned, self.schedule.core, self.schedule.cluster.names)
        missed: list[Missed] = []

        async def enter(stack: AsyncExitStack, part: PlannedFault | None) -> None:
            if part is not None:
                try:
                    await stack.enter_async_context(action(self.ground, part, effects))
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
                self._left.add(planned.id)
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
            await trio.sleep(LOOK_S)


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
    cluster would never stop to cache something new. Nor of a cut between nodes of the core.
    """
    if not core or planned.fault.aim is Aim.REQUESTS or isinstance(planned.fault, WHOLE):
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
