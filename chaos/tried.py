"""What trying one schedule showed, small enough to be sent and kept by the thousand."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.invariants.invariant import Id, Status
from chaos.outcome import fault_outcomes, request_outcomes, signatures
from chaos.verdict import Judged, Verdict

BROKEN = "broken"
"""Word for a try that came to no verdict, as the harness failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One invariant in one try."""

    invariant: Id
    status: Status
    exercised: int = 0
    voided: int = 0
    share_of_bound: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTried:
    """What became of one planned fault; ``why`` where it was missed or is unsupported."""

    kind: str
    applied: bool
    effects: int
    undone: bool
    missed: bool = False
    unsupported: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One try. ``verdict`` is a word of :class:`Verdict`, or :data:`BROKEN` with an ``error``.

    ``twice`` is the trace of a second run in a fresh process, where there was one.
    """

    name: str
    seed: int
    verdict: str
    findings: tuple[Found, ...] = ()
    faults: tuple[FaultTried, ...] = ()
    requests: dict[str, int] = field(default_factory=dict)
    signatures: tuple[str, ...] = ()
    missing_marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    nodes: int = 0
    simulated_s: float = 0.0
    wall_s: float = 0.0
    deliveries: int = 0
    trace: str = ""
    twice: str = ""
    kept: str = ""
    error: str = ""

    @property
    def violated(self) -> tuple[Id, ...]:
        return tuple(f.invariant for f in self.findings if f.status is Status.VIOLATED)

    @property
    def deterministic(self) -> bool:
        return self.twice in {"", self.trace}

    @property
    def failed(self) -> bool:
        """Whether somebody has to look at it."""
        bad = {BROKEN, Verdict.VIOLATED.word}
        return self.verdict in bad or not self.deterministic


def tried_of(judged: Judged, name: str, *, kept: str = "") -> Tried:
    """A judged run as a try; ``kept`` is where its files are."""
    run = judged.run
    return Tried(
        name=name,
        seed=run.schedule.seed,
        verdict=judged.verdict.word,
        findings=tuple(
            Found(
                invariant=each.invariant,
                status=each.status,
                exercised=each.exercised,
                voided=each.voided,
                share_of_bound=each.share_of_bound,
            )
            for each in judged.findings
        ),
        faults=tuple(
            FaultTried(
                kind=each.fault.kind,
                applied=each.applied,
                effects=each.effects,
                undone=each.undone,
                missed=each.missed,
                unsupported=each.unsupported,
                why=each.why,
            )
            for each in fault_outcomes(run)
        ),
        requests=request_outcomes(run),
        signatures=signatures(run),
        missing_marks=judged.missing_marks,
        notes=run.notes,
        nodes=run.schedule.cluster.nodes,
        simulated_s=run.totals.simulated_s,
        wall_s=run.totals.wall_s,
        deliveries=run.totals.deliveries,
        trace=run.totals.trace,
        kept=kept,
    )
