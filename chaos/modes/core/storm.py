"""The life of planned faults in core mode: due, entered, undone at their end or at healing.

Where healing makes only a core whole, a fault is applied in two parts, as in node mode.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from chaos.history import What
from chaos.modes.core.actions import ACTIONS
from chaos.modes.core.cluster import CoreCluster
from chaos.modes.core.lies import CoreAction
from chaos.modes.effects import Effects, Missed
from chaos.modes.storm import LASTING, NEVER_CAME, Landmarks, parts
from chaos.scenario.scenario import Landmark
from chaos.scenario.schedule import PlannedFault


@dataclass(slots=True, eq=False)
class _Applied:
    planned: PlannedFault
    effects: Effects
    inside: ExitStack = field(default_factory=ExitStack)
    outside: ExitStack = field(default_factory=ExitStack)
    left: bool = False


@dataclass(eq=False)
class CoreStorm:
    """All faults of a schedule. ``began_s`` is when the storm did."""

    cluster: CoreCluster
    notes: list[str]
    began_s: float = 0.0
    healed: bool = False
    _waiting: list[PlannedFault] = field(default_factory=list)
    _applied: dict[str, _Applied] = field(default_factory=dict)
    _landmarks: Landmarks = field(default_factory=Landmarks)

    def begin(self) -> None:
        """Puts every fault in its place."""
        cluster = self.cluster
        self.began_s = cluster.heap.now_s
        self._landmarks.watch(cluster.history)
        for planned in cluster.schedule.faults:
            kind = planned.fault.kind
            if type(planned.fault) not in ACTIONS:
                why = "core mode has no action for it"
                cluster.history.add(What.FAULT_UNSUPPORTED, planned.id, kind=kind, why=why)
            elif isinstance(planned.at, Landmark):
                self._waiting.append(planned)
                self._landmarks.when(planned.at, partial(self._came, planned))
            else:
                cluster.heap.after(planned.at, partial(self._apply, planned))

    def heal(self) -> None:
        """Undoes what ails the core, and whatever is not a lasting part outside it."""
        self.healed = True
        for planned in self._waiting:
            kind = planned.fault.kind
            self.cluster.history.add(What.FAULT_MISSED, planned.id, kind=kind, why=NEVER_CAME)
        for applied in list(self._applied.values()):
            if applied.left:
                self._undo(applied, applied.inside)
            else:
                self._over(applied)

    def end(self) -> None:
        """Undoes what was left."""
        for applied in list(self._applied.values()):
            self._over(applied)

    def _came(self, planned: PlannedFault) -> None:
        self._waiting.remove(planned)
        # Not from within whatever made the landmark.
        self.cluster.heap.after(0.0, lambda: self._apply(planned))

    def _apply(self, planned: PlannedFault) -> None:
        cluster, kind = self.cluster, planned.fault.kind
        if self.healed:
            return
        action = ACTIONS[type(planned.fault)]
        applied = _Applied(planned, Effects())
        self._applied[planned.id] = applied
        cluster.history.add(What.FAULT_BEGIN, planned.id, kind=kind, nodes=list(planned.nodes))
        try:
            self._enter(action, applied)
        except Missed as missed:
            cluster.history.add(What.FAULT_MISSED, planned.id, kind=kind, why=str(missed))
            self._over(applied)
            return
        for_s = planned.for_s
        if planned.fault.instant:
            self._over(applied)
        elif for_s is not None and not isinstance(planned.fault, LASTING):
            cluster.heap.after(for_s, lambda: self._over(applied))

    def _enter(self, action: CoreAction, applied: _Applied) -> None:
        planned, schedule = applied.planned, self.cluster.schedule
        if planned.fault.instant:
            applied.inside.enter_context(action(self.cluster, planned, applied.effects))
            return
        undone, left = parts(planned, schedule.core, schedule.cluster.names)
        missed = []
        for stack, part in ((applied.outside, left), (applied.inside, undone)):
            if part is None:
                continue
            try:
                stack.enter_context(action(self.cluster, part, applied.effects))
            except Missed as error:
                missed.append(error)
        if len(missed) == (left is not None) + (undone is not None):
            raise missed[0]
        applied.left = left is not None and planned.for_s is None

    def _over(self, applied: _Applied) -> None:
        planned = applied.planned
        if self._applied.pop(planned.id, None) is None:
            return
        undone = self._undo(applied, applied.inside) and self._undo(applied, applied.outside)
        kind, count = planned.fault.kind, applied.effects.count
        self.cluster.history.add(
            What.FAULT_END, planned.id, kind=kind, effects=count, undone=undone
        )

    def _undo(self, applied: _Applied, stack: ExitStack) -> bool:
        try:
            stack.close()
        except Exception as error:  # noqa: BLE001 - a fault of the harness, which the run reports
            self.notes.append(f"fault {applied.planned.id}: {type(error).__name__}: {error}")
            return False
        return True
