"""Where and when active faults take an invariant out of the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from chaos.faults.fault import Where
from chaos.history import What
from chaos.invariants.invariant import Id
from chaos.invariants.lives import facts
from chaos.run import Run

TAIL_S = 10.0
"""A fault's consequences outlast it by so much: detection, and queues that drain."""


@dataclass(frozen=True, slots=True)
class Span:
    """One void of one fault that took place. ``begin`` is the index of its FAULT_BEGIN.

    ``own``: of requests that entered at its nodes alone, whoever else had a part in them.
    """

    invariant: Id
    nodes: frozenset[str] | None
    own: bool
    from_s: float
    to_s: float
    instead: str
    fault_id: str
    begin: int


class Voids:
    """The voids of one run's faults, from when each began to :data:`TAIL_S` after it ended."""

    def __init__(self, run: Run) -> None:
        planned = {fault.id: fault for fault in run.schedule.faults}
        ends = {fact.event.subject: fact.at_s for fact in facts(run, What.FAULT_END)}
        self._spans: dict[Id, list[Span]] = {}
        for fact in facts(run, What.FAULT_BEGIN):
            event = fact.event
            fault = planned.get(event.subject)
            if fault is None:
                continue
            to_s = ends.get(fault.id, float("inf")) + TAIL_S
            for void in fault.fault.voids:
                nodes = None if void.where is Where.ALL else frozenset(fault.nodes)
                self._spans.setdefault(void.invariant, []).append(
                    Span(
                        void.invariant,
                        nodes,
                        void.where is Where.INGRESS,
                        event.at_s,
                        to_s,
                        void.instead,
                        fault.id,
                        fact.index,
                    )
                )

    def touch(self, invariant: Id) -> bool:
        """Whether the invariant is voided anywhere at any time."""
        return invariant in self._spans

    def covering(
        self,
        invariant: Id,
        nodes: Iterable[str],
        from_s: float,
        to_s: float,
        ingress: str | None = None,
    ) -> Sequence[Span]:
        """The voids of an invariant at any of some nodes at some moment of a span of time.

        ``ingress`` is where a request entered; without it all of the nodes count as such.
        """
        here = frozenset(nodes)
        entered = here if ingress is None else frozenset((ingress,))
        return [
            span
            for span in self._spans.get(invariant, ())
            if (span.nodes is None or span.nodes & (entered if span.own else here))
            and span.from_s <= to_s
            and from_s <= span.to_s
        ]

    def covers(self, invariant: Id, node: str, from_s: float, to_s: float | None = None) -> bool:
        """Whether the invariant is voided at a node at some moment of a span of time."""
        return bool(self.covering(invariant, (node,), from_s, from_s if to_s is None else to_s))

    def nodes(self, invariant: Id) -> frozenset[str]:
        """Nodes at which the invariant was voided at any time; every void counts."""
        found: set[str] = set()
        for span in self._spans.get(invariant, ()):
            if span.nodes is not None:
                found |= span.nodes
        return frozenset(found)


@lru_cache(maxsize=1)
def voids_of(run: Run) -> Voids:
    """The voids of a run, made once for all checkers."""
    return Voids(run)
