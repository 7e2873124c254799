"""The verdict of a run: worst of its findings, and unknown where nothing was put to the test."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.invariants.invariant import Finding, Status
from chaos.run import Run, marks


class Verdict(enum.Enum):
    """What a run showed; the value is the exit code of ``rhizome chaos run``."""

    VALID = 0
    VIOLATED = 1
    UNKNOWN = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A run with its findings, in the order of the invariants."""

    run: Run
    findings: tuple[Finding, ...]
    verdict: Verdict
    missing_marks: tuple[str, ...]


def judge(run: Run, findings: Sequence[Finding]) -> Judged:
    """Composes findings: violated over unknown over valid."""
    missing = tuple(mark for mark in run.schedule.expect.marks if mark not in marks(run))
    if any(finding.status is Status.VIOLATED for finding in findings):
        verdict = Verdict.VIOLATED
    elif missing or not any(finding.status is Status.HELD for finding in findings):
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.VALID
    return Judged(run=run, findings=tuple(findings), verdict=verdict, missing_marks=missing)
