"""A failing schedule made smaller while it still violates the same invariant.

In order: what comes after the violation, faults (ddmin), requests (ddmin), nodes, targets,
durations by halving, values to plain numbers; then all over again until nothing more goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from chaos.errors import ScenarioError
from chaos.examine import Examine
from chaos.failure import Failure, failure_of, violated
from chaos.faults.fault import Mode
from chaos.invariants.invariant import Id
from chaos.scenario import smaller
from chaos.scenario.data import schedule_json
from chaos.scenario.schedule import Schedule
from chaos.verdict import Judged

T = TypeVar("T")

NEAR = (4, 16)
"""So many requests up to the witness's own are guessed to be all that it takes."""

TAIL_S = 1.0
"""A storm that is cut short goes on for so long after the violation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to give up: whichever comes first."""

    runs: int = 400
    seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a shrinker is: after ``runs``, in a pass, with so much left."""

    runs: int
    stage: str
    faults: int
    requests: int
    nodes: int
    seconds: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The smallest failure that was found, and what finding it took.

    ``failure.minimal`` is False where the budget ended before nothing more could be left out.
    """

    failure: Failure
    runs: int
    seconds: float
    events_before: int

    @property
    def events(self) -> int:
        return events_of(self.failure.schedule)


class _Spent(Exception):
    """The budget is."""


def events_of(schedule: Schedule) -> int:
    """Faults and requests of a schedule."""
    return len(schedule.faults) + len(schedule.requests)


def shrink(
    failure: Failure,
    examine: Examine,
    *,
    now_s: Callable[[], float],
    budget: Budget | None = None,
    attempts: int = 1,
    on_progress: OnProgress | None = None,
) -> Shrunk:
    """Makes a failure as small as the budget lets.

    Args:
        failure: What to shrink; it must still fail.
        examine: Runs and judges a schedule.
        now_s: A clock, for the budget.
        budget: Runs and seconds that it may take.
        attempts: How often a schedule is run before it counts as not failing, in live mode.
        on_progress: Called after each run.

    Raises:
        ScenarioError: Where the failure does not fail any more.
    """
    search = _Search(
        examine=examine,
        invariant=failure.invariant,
        plant=failure.plant,
        attempts=attempts if failure.schedule.mode is Mode.LIVE else 1,
        budget=budget or Budget(),
        now_s=now_s,
        on_progress=on_progress,
        best=failure.schedule,
        start_s=now_s(),
    )
    if not search.accepts(failure.schedule):
        raise ScenarioError(
            f"this failure does not violate {failure.invariant.value} any more: "
            "`rhizome chaos replay` says whether the code differs"
        )
    minimal = True
    try:
        search.to_the_end()
    except _Spent:
        minimal = False
    assert search.judged is not None
    return Shrunk(
        failure=replace(
            failure_of(search.judged, invariant=failure.invariant, minimal=minimal),
            scenario=failure.scenario,
        ),
        runs=search.runs,
        seconds=now_s() - search.start_s,
        events_before=events_of(failure.schedule),
    )


@dataclass(slots=True, kw_only=True)
class _Search:
    """The best schedule so far, and the passes over it."""

    examine: Examine
    invariant: Id
    plant: str | None
    attempts: int
    budget: Budget
    now_s: Callable[[], float]
    on_progress: OnProgress | None
    best: Schedule
    start_s: float
    judged: Judged | None = None
    runs: int = 0
    stage: str = "first run"
    seen: set[bytes] = field(default_factory=set)

    def accepts(self, candidate: Schedule) -> bool:
        """Whether a schedule violates the invariant too; it is the best one then.

        Raises:
            _Spent: Where that would exceed the budget.
        """
        key = schedule_json(candidate)
        if key in self.seen:
            return False
        self.seen.add(key)
        for _ in range(self.attempts):
            spent = self.now_s() - self.start_s
            if self.runs >= self.budget.runs or spent > self.budget.seconds:
                if self.judged is not None:
                    raise _Spent
                raise ScenarioError("the budget ended before the failure's first run")
            self.runs += 1
            judged = self.examine(candidate, plant=self.plant)
            failing = violated(judged, self.invariant) is not None
            if failing:
                self.best, self.judged = candidate, judged
            self._tell()
            if failing:
                return True
        return False

    def _tell(self) -> None:
        if self.on_progress is not None:
            best = self.best
            self.on_progress(
                Progress(
                    runs=self.runs,
                    stage=self.stage,
                    faults=len(best.faults),
                    requests=len(best.requests),
                    nodes=best.cluster.nodes,
                    seconds=self.now_s() - self.start_s,
                )
            )

    def to_the_end(self) -> None:
        """Runs all passes until one whole round changes nothing."""
        passes: tuple[tuple[str, Callable[[], None]], ...] = (
            ("tail", self.cut_tail),
            ("faults", self.fewer_faults),
            ("requests", self.fewer_requests),
            ("nodes", self.fewer_nodes),
            ("targets", lambda: self.one_by_one(smaller.targets)),
            ("durations", lambda: self.one_by_one(smaller.durations)),
            ("values", lambda: self.one_by_one(smaller.values)),
        )
        while True:
            before = self.best
            for self.stage, each in passes:
                each()
            if self.best == before:
                return

    def cut_tail(self) -> None:
        """Ends the storm soon after the violation, where that is in the storm."""
        finding = None if self.judged is None else violated(self.judged, self.invariant)
        if finding is None or self.judged is None or not finding.witnesses[0].events:
            return
        last = max(finding.witnesses[0].events)
        ends_s = self.judged.run.events[last].at_s - self.best.warm_up_s + TAIL_S
        if 0 < ends_s < self.best.duration_s:
            self.accepts(smaller.ending_at(self.best, round(ends_s, 3)))

    def fewer_faults(self) -> None:
        """As few faults as violate the invariant."""
        ddmin(
            self.best.faults,
            lambda kept: self.accepts(replace(self.best, faults=tuple(kept))),
        )

    def fewer_requests(self) -> None:
        """As few requests; the witness's own and the last ones before it are tried first."""
        finding = None if self.judged is None else violated(self.judged, self.invariant)
        everything = self.best.requests
        named = {witness.request for witness in finding.witnesses} if finding else set()
        own = [request for request in everything if request.id in named]
        last = max((n for n, each in enumerate(everything) if each in own), default=-1) + 1
        near = [list(everything[max(0, last - count) : last]) for count in NEAR]
        for guess in ([], own[:1], own, *near):
            if len(guess) < len(everything) and self.accepts(
                replace(self.best, requests=tuple(guess))
            ):
                break
        ddmin(
            self.best.requests,
            lambda kept: self.accepts(replace(self.best, requests=tuple(kept))),
        )

    def fewer_nodes(self) -> None:
        """One node less, as long as that still fails."""
        number = self.best.cluster.nodes
        while number >= 1 and self.best.cluster.nodes > 1:
            if number <= self.best.cluster.nodes:
                self.accepts(smaller.without_node(self.best, f"n{number}"))
            number -= 1

    def one_by_one(self, candidates: Callable[[Schedule], Sequence[Schedule]]) -> None:
        """Takes the first smaller schedule that fails, and looks again from there."""
        while any(self.accepts(candidate) for candidate in candidates(self.best)):
            continue


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A part of items that fails and of which no single item can be left out (Zeller's ddmin).

    ``fails(items)`` is taken for granted. Nothing at all is tried first.
    """
    kept = list(items)
    if not kept or fails([]):
        return []
    parts = 2
    while len(kept) >= 2:
        size = -(-len(kept) // parts)
        chunks = [kept[start : start + size] for start in range(0, len(kept), size)]
        alone = next((chunk for chunk in chunks if len(chunks) > 1 and fails(chunk)), None)
        if alone is not None:
            kept, parts = alone, 2
            continue
        without = (
            [item for other in chunks if other is not chunk for item in other] for chunk in chunks
        )
        rest = next((each for each in without if len(chunks) > 2 and fails(each)), None)
        if rest is not None:
            kept, parts = rest, max(parts - 1, 2)
        elif parts >= len(kept):
            break
        else:
            parts = min(len(kept), 2 * parts)
    return kept
