"""A judged run in numbers: what became of its faults and requests, and what it covered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from chaos.faults.fault import Fault
from chaos.history import Event, What
from chaos.invariants.lives import facts
from chaos.run import Run
from chaos.scenario.schedule import PlannedFault

ENDS = {What.OK: "ok", What.FAIL: "failed", What.CANCELLED: "cancelled", What.INFO: "unknown"}
"""Events that end a request, and the word for its outcome."""

FATES = (What.FAULT_BEGIN, What.FAULT_END, What.FAULT_MISSED, What.FAULT_UNSUPPORTED)
"""Events that say what becomes of a fault."""

IN_FLIGHT_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcome:
    """What became of one planned fault. ``why`` says why it was missed or is unsupported."""

    planned: PlannedFault
    applied: bool
    effects: int
    undone: bool
    missed: bool = False
    unsupported: bool = False
    why: str = ""

    @property
    def fault(self) -> Fault:
        return self.planned.fault


def fault_outcomes(run: Run) -> tuple[FaultOutcome, ...]:
    """One for each planned fault, in order."""
    by_fault: dict[str, dict[What, Event]] = {}
    for fact in facts(run, *FATES):
        event = fact.event
        by_fault.setdefault(event.subject, {})[event.what] = event
    return tuple(_outcome(fault, by_fault.get(fault.id, {})) for fault in run.schedule.faults)


def _outcome(fault: PlannedFault, events: dict[What, Event]) -> FaultOutcome:
    end = events.get(What.FAULT_END)
    why = events.get(What.FAULT_MISSED) or events.get(What.FAULT_UNSUPPORTED)
    return FaultOutcome(
        planned=fault,
        applied=What.FAULT_BEGIN in events and What.FAULT_MISSED not in events,
        effects=int(end.data.get("effects", 0)) if end else 0,
        undone=bool(end and end.data.get("undone", True)),
        missed=What.FAULT_MISSED in events,
        unsupported=What.FAULT_UNSUPPORTED in events,
        why=str(why.data.get("why", "")) if why else "",
    )


def request_outcomes(run: Run) -> dict[str, int]:
    """Requests by how they ended; ``open`` are those that did not."""
    invoked = {fact.event.subject for fact in facts(run, What.INVOKE)}
    ended = {fact.event.subject: ENDS[fact.event.what] for fact in facts(run, *ENDS)}
    counts = Counter(ended.values())
    counts["open"] = len(invoked - ended.keys())
    return {word: counts[word] for word in (*ENDS.values(), "open")}


def signatures(run: Run) -> tuple[str, ...]:
    """States in which faults began: what was up, what else was wrong, how much was going on.

    A seed that shows a new one has tried something new, and is worth keeping.
    """
    down: set[str] = set()
    active: dict[str, str] = {}
    open_requests: set[str] = set()
    kinds = {fault.id: fault for fault in run.schedule.faults}
    found: set[str] = set()
    ups_and_downs = (What.NODE_DOWN, What.NODE_UP, What.FAULT_END, What.FAULT_BEGIN)
    for fact in facts(run, What.INVOKE, *ENDS, *ups_and_downs):
        event = fact.event
        if event.what is What.INVOKE:
            open_requests.add(event.subject)
        elif event.what in ENDS:
            open_requests.discard(event.subject)
        elif event.what is What.NODE_DOWN:
            down.add(event.subject)
        elif event.what is What.NODE_UP:
            down.discard(event.subject)
        elif event.what is What.FAULT_END:
            active.pop(event.subject, None)
        elif event.subject in kinds:
            fault = kinds[event.subject]
            there = "down" if down & set(fault.nodes) else "up"
            others = "+".join(sorted(set(active.values()))) or "calm"
            found.add(f"{fault.fault.kind}|{there}|{others}|{_busy(len(open_requests))}")
            active[event.subject] = fault.fault.family.value
    return tuple(sorted(found))


def _busy(count: int) -> str:
    return "idle" if count == 0 else "some" if count <= IN_FLIGHT_FEW else "many"
