"""What many tries covered together: verdicts, invariants, faults, and states that faults met."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chaos.invariants.invariant import Id, Status
from chaos.scenario.data import plain
from chaos.tried import Tried

HOUR_S = 3600.0


@dataclass(slots=True)
class InvariantCoverage:
    """Runs of one invariant by status, and facts that were compared or voided."""

    held: int = 0
    violated: int = 0
    not_exercised: int = 0
    exercised: int = 0
    voided: int = 0
    worst_share: float | None = None

    @property
    def runs(self) -> int:
        return self.held + self.violated + self.not_exercised

    @property
    def exercised_share(self) -> float:
        """Of the runs that expected it, those in which it was put to the test."""
        return (self.held + self.violated) / self.runs if self.runs else 0.0


@dataclass(slots=True)
class FaultCoverage:
    """How often one kind was planned, and what became of it."""

    scheduled: int = 0
    applied: int = 0
    had_effect: int = 0
    undone: int = 0
    missed: int = 0
    unsupported: int = 0


@dataclass(slots=True)
class Coverage:
    """Sums over tries."""

    tries: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    invariants: dict[Id, InvariantCoverage] = field(default_factory=dict)
    faults: dict[str, FaultCoverage] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    signatures: set[str] = field(default_factory=set)
    simulated_s: float = 0.0
    node_s: float = 0.0
    run_wall_s: float = 0.0
    deliveries: int = 0
    run_twice: int = 0
    not_deterministic: int = 0

    def add(self, tried: Tried) -> tuple[str, ...]:
        """Counts a try; returns the signatures that no earlier one had."""
        self.tries += 1
        self.verdicts[tried.verdict] += 1
        self.simulated_s += tried.simulated_s
        self.node_s += tried.simulated_s * tried.nodes
        self.run_wall_s += tried.wall_s
        self.deliveries += tried.deliveries
        self.run_twice += tried.twice != ""
        self.not_deterministic += not tried.deterministic
        self.requests.update(tried.requests)
        self._invariants(tried)
        self._faults(tried)
        new = tuple(each for each in tried.signatures if each not in self.signatures)
        self.signatures.update(new)
        return new

    def _invariants(self, tried: Tried) -> None:
        for found in tried.findings:
            sums = self.invariants.setdefault(found.invariant, InvariantCoverage())
            sums.held += found.status is Status.HELD
            sums.violated += found.status is Status.VIOLATED
            sums.not_exercised += found.status is Status.NOT_EXERCISED
            sums.exercised += found.exercised
            sums.voided += found.voided
            if found.share_of_bound is not None:
                sums.worst_share = max(found.share_of_bound, sums.worst_share or 0.0)

    def _faults(self, tried: Tried) -> None:
        for fault in tried.faults:
            sums = self.faults.setdefault(fault.kind, FaultCoverage())
            sums.scheduled += 1
            sums.applied += fault.applied
            sums.had_effect += fault.effects > 0
            sums.undone += fault.undone
            sums.missed += fault.missed
            sums.unsupported += fault.unsupported

    @property
    def cluster_hours(self) -> float:
        return self.simulated_s / HOUR_S

    def data(self) -> dict[str, Any]:  # JSON values
        """The sums as ``sweep.json`` holds them."""
        return {
            "tries": self.tries,
            "verdicts": dict(self.verdicts),
            "cluster_hours": round(self.cluster_hours, 4),
            "node_hours": round(self.node_s / HOUR_S, 4),
            "deliveries": self.deliveries,
            "requests": dict(self.requests),
            "run_twice": self.run_twice,
            "not_deterministic": self.not_deterministic,
            "signatures": len(self.signatures),
            "invariants": {
                each.value: {**plain(sums), "exercised_share": round(sums.exercised_share, 4)}
                for each, sums in self.invariants.items()
            },
            "faults": {kind: plain(sums) for kind, sums in sorted(self.faults.items())},
        }
