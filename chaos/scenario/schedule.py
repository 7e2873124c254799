"""A schedule: everything that a run will do, as explicit data.

A seed makes a schedule and the schedule makes the run, so a failure can be replayed after the
generators have changed, and shrunk by leaving parts out. Every part draws from a random stream of
its own, so that leaving one out re-deals nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.faults.fault import Fault, Mode
from chaos.invariants.invariant import Id
from chaos.scenario.request import PlannedRequest
from chaos.scenario.scenario import Cluster, Expect, Landmark, Limits

__all__ = ["PlannedFault", "PlannedRequest", "Schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFault:
    """One fault with its targets resolved: ``nodes``, ``links`` (from, to) or ``groups`` of nodes.

    ``nodes`` also names the nodes that voids of the fault apply to, for links and groups too.
    ``for_s`` None is until healing; an instant fault has 0.
    """

    id: str
    fault: Fault
    at: float | Landmark
    for_s: float | None
    nodes: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is run. Times are seconds of the storm, which begins after ``warm_up_s``."""

    name: str
    mode: Mode
    seed: int
    cluster: Cluster
    limits: Limits
    expect: Expect
    warm_up_s: float
    duration_s: float
    settle_s: float
    core: tuple[str, ...]
    requests: tuple[PlannedRequest, ...]
    faults: tuple[PlannedFault, ...] = field(default=())
    proves: Id | None = None

    @property
    def tells_answers(self) -> bool:
        """Whether an engine may say something else than the twin, or in chunks."""
        voids = (void for planned in self.faults for void in planned.fault.voids)
        return bool(self.cluster.remote) or any(void.invariant is Id.OUTPUT for void in voids)

    @property
    def place(self) -> str:
        """Where it runs, in words: its mode, and in live mode what joins the nodes."""
        network = f" over {self.cluster.network.value}" if self.mode is Mode.LIVE else ""
        return f"mode {self.mode.value}{network}"
