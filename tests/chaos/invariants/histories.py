"""Hand-made runs for checkers: three nodes, two tenants, and a history told line by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chaos.faults.fault import Fault, Mode
from chaos.history import Event, What
from chaos.invariants.invariant import Finding, Status
from chaos.run import Run, Totals, Twin
from chaos.scenario.scenario import Cluster, Expect, Limits
from chaos.scenario.schedule import PlannedFault, PlannedRequest, Schedule

STORM_S, HEALED_S, SETTLED_S, STOPPED_S = 10.0, 70.0, 110.0, 112.0
COLD = (11, 12, 13, 14)


@dataclass
class Story:
    """A history under way; facts are put in order of time, and of telling where that is equal."""

    cluster: Cluster = field(default_factory=lambda: Cluster(nodes=3))
    limits: Limits = field(default_factory=Limits)
    mode: Mode = Mode.NODE
    core: tuple[str, ...] = ()
    faults: list[PlannedFault] = field(default_factory=list)
    requests: list[PlannedRequest] = field(default_factory=list)
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ttft_s: dict[str, float] = field(default_factory=dict)
    facts: list[Event] = field(default_factory=list)

    def tell(self, at_s: float, what: What, subject: str = "", **data: object) -> Story:
        self.facts.append(Event(at_s, what, subject, dict(data)))
        return self

    def phases(self, *, settled: float = SETTLED_S, stopped: float | None = STOPPED_S) -> Story:
        self.tell(0.0, What.PHASE, name="warm_up")
        self.tell(STORM_S, What.PHASE, name="storm")
        self.tell(HEALED_S, What.PHASE, name="healed")
        self.tell(settled, What.PHASE, name="settled")
        if stopped is not None:
            self.tell(stopped, What.PHASE, name="stopped")
        return self

    def fault(
        self,
        fault: Fault,
        *nodes: str,
        from_s: float = 20.0,
        to_s: float = 30.0,
        mark: str = "",
        name: str = "",
    ) -> Story:
        """A fault that took place; ``mark`` is what was detected in place of what it voids."""
        name = name or f"{fault.kind}-{len(self.faults)}"
        self.faults.append(
            PlannedFault(
                id=name, fault=fault, at=from_s - STORM_S, for_s=to_s - from_s, nodes=nodes
            )
        )
        self.tell(from_s, What.FAULT_BEGIN, name, kind=fault.kind, nodes=list(nodes))
        self.tell(to_s, What.FAULT_END, name, kind=fault.kind, effects=1, undone=True)
        if mark:
            self.tell(from_s, What.MARK, mark, node=nodes[0])
        return self

    def invoke(
        self, request: str, at_s: float, ingress: str = "n1", tenant: str = "a", **data: object
    ) -> Story:
        self.tokens.setdefault(request, COLD)
        self.ttft_s.setdefault(request, 0.1)
        return self.tell(
            at_s,
            What.INVOKE,
            request,
            **{
                "ingress": ingress,
                "tenant": tenant,
                "max_tokens": 8,
                "prompt_tokens": 100,
                **data,
            },
        )

    def answer(
        self,
        request: str,
        at_s: float,
        ids: tuple[int, ...] = COLD,
        *,
        node: str = "n1",
        end: What | None = What.OK,
        **data: object,
    ) -> Story:
        """A piece for each token, 10 ms apart, and the end with the last."""
        self.tell(at_s, What.STARTED, request, node=node)
        for number, token in enumerate(ids):
            self.tell(at_s + number / 100, What.TOKENS, request, ids=[token])
        told: dict[str, Any] = {
            "reason": "length",
            "node": node,
            "prompt_tokens": 100,
            "cached_tokens": 0,
            "completion_tokens": len(ids),
            "hops": int(node != "n1"),
            "resumes": 0,
            "attempts": 1,
        }
        if end is not None:
            ended_s = at_s + max(0, len(ids) - 1) / 100
            self.tell(ended_s, end, request, **({**told, **data} if end is What.OK else data))
        return self

    def run(self) -> Run:
        schedule = Schedule(
            name="by hand",
            mode=self.mode,
            seed=1,
            cluster=self.cluster,
            limits=self.limits,
            expect=Expect(),
            warm_up_s=STORM_S,
            duration_s=HEALED_S - STORM_S,
            settle_s=SETTLED_S - HEALED_S,
            core=self.core,
            requests=tuple(self.requests),
            faults=tuple(self.faults),
        )
        return Run(
            schedule=schedule,
            events=tuple(sorted(self.facts, key=lambda event: event.at_s)),
            twin=Twin(tokens=self.tokens, ttft_s=self.ttft_s),
            totals=Totals(simulated_s=STOPPED_S, wall_s=0.1, deliveries=0, trace=""),
        )


def without_twin(run: Run) -> Run:
    return replace(run, twin=Twin(tokens={}, ttft_s={}))


def is_held(finding: Finding) -> bool:
    return finding.status is Status.HELD and not finding.witnesses


def facts_of(run: Run, finding: Finding) -> list[Mapping[str, object] | str]:
    """The two facts that contradict each other, as (what, subject)."""
    assert finding.status is Status.VIOLATED
    return [
        f"{run.events[index].what.value} {run.events[index].subject}".strip()
        for index in finding.witnesses[0].events
    ]
