"""All cells of the study, and the work of one process: one workload, peer count and delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.routing_study.simulation import NEVER, Cell, Result, Simulation, gap_s
from benchmarks.routing_study.workloads import SOURCES, load
from overlay.routing import POLICIES

PEERS = (3, 8)
DELAYS_S = (0.0002, 0.020)
DIGEST_AGES_S = (0.0, 2.0, 10.0, NEVER)

BLIND = frozenset({"random", "round-robin", "local"})
"""Policies that look at nothing a digest or a hint tells: one run stands for all digest ages."""

COST = "cost"
WORSE_MAX = 1.05
"""``cost`` may take this much more mean completion time than the best of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cells that differ in the digest age only."""

    workload: str
    peers: int
    delay_s: float
    data: Path
    quick: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell with what every policy did in it."""

    workload: str
    cell: Cell
    results: dict[str, Result]

    @property
    def best_other(self) -> str:
        """The rival with the least mean completion time."""
        rivals = [name for name in self.results if name != COST]
        return min(rivals, key=lambda name: self.results[name].completion_mean_s)

    @property
    def ratio(self) -> float:
        """Mean completion time of ``cost`` over that of the best other."""
        best = self.results[self.best_other].completion_mean_s
        return self.results[COST].completion_mean_s / best

    @property
    def holds(self) -> bool:
        return self.ratio <= WORSE_MAX


def groups(data: Path, *, quick: bool, workloads: Sequence[str]) -> list[Group]:
    """The whole study in pieces that can run side by side, the longest first."""
    return [
        Group(workload=source.name, peers=peers, delay_s=delay_s, data=data, quick=quick)
        for peers in reversed(PEERS)
        for source in SOURCES
        if not workloads or source.name in workloads
        for delay_s in DELAYS_S
    ]


def run_group(group: Group) -> list[Row]:
    """Every policy at every digest age."""
    source = next(each for each in SOURCES if each.name == group.workload)
    workload = load(source, group.data, quick=group.quick)
    mean_gap_s = gap_s(workload, group.peers)
    blind: dict[str, Result] = {}
    rows = []
    for age_s in DIGEST_AGES_S:
        cell = Cell(peers=group.peers, delay_s=group.delay_s, digest_age_s=age_s)
        results = {}
        for policy in POLICIES:
            result = blind.get(policy.name)
            if result is None:
                result = Simulation(workload, cell, policy, gap_s=mean_gap_s).run()
            if policy.name in BLIND:
                blind[policy.name] = result
            results[policy.name] = result
        rows.append(Row(workload=group.workload, cell=cell, results=results))
    return rows
