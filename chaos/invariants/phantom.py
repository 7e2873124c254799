"""PHANTOM: a false or stale claim costs at most one extra hop, and never a failed answer.

A claim of an honest peer is as old as the router takes it to be: what it says was held there at
some time since then. A wrong answer is OUTPUT's to find, whatever was claimed.
"""

from __future__ import annotations

from collections.abc import Mapping

from chaos.faults.fault import Family
from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, Life, facts, lives
from chaos.invariants.tally import Tally
from chaos.invariants.voids import TAIL_S, Voids, voids_of
from chaos.run import Run

HOPS_MAX = 1

SLACK_S = 6.0
"""News waits for the next bundle, and its age is counted from the head's own: three periods."""

_LIARS_MEMORY_S = 60.0
"""What a peer that lied had said goes on being believed until it tells of itself anew."""

_HARMLESS = frozenset({Family.METADATA, Family.CLOCK, Family.CLIENT})
"""Faults that leave a node able to serve: a failure there is the false claim's."""


def check(run: Run) -> Finding:
    """Hops of every answer; age of every false claim; what became of those that were believed."""
    tally = Tally(Id.PHANTOM, run)
    voids = voids_of(run)
    hurt = _Hurt(run)
    for life in lives(run).values():
        if life.end is not None and life.completed:
            witness = _hops(life, life.end) or _misled(life, hurt)
            tally.compare(life.nodes, life.from_s, life.to_s, witness)
        for fact in life.routed:
            for node, claimed in sorted(_claims(fact).items()):
                if _is_measured(fact, node) and not _is_liar(voids, fact, node):
                    witness = _outlived(fact, node, claimed)
                    tally.compare((life.ingress, node), fact.at_s, fact.at_s, witness)
        if life.routed and life.ends:
            witness = _failed(life, hurt)
            tally.compare(life.nodes, life.from_s, life.to_s, witness)
    return tally.finding()


def _claims(fact: Fact) -> Mapping[str, int]:
    claims: Mapping[str, int] = fact.event.data["claims"]
    return claims


def _false(fact: Fact, node: str) -> bool:
    return int(_claims(fact).get(node, 0)) > int(fact.event.data["held"].get(node, 0))


def _is_measured(fact: Fact, node: str) -> bool:
    return not _false(fact, node) or node in fact.event.data.get("false_s", {})


def _is_liar(voids: Voids, fact: Fact, node: str) -> bool:
    """Whether the node has published on purpose what is not so."""
    return voids.covers(Id.CONVERGE, node, fact.at_s - _LIARS_MEMORY_S, fact.at_s)


def _hops(life: Life, end: Fact) -> Witness | None:
    hops = int(end.event.data["hops"])
    if hops <= HOPS_MAX:
        return None
    return Witness(
        expected=f"at most {HOPS_MAX} hop, whatever is claimed",
        found=f"{hops} hops to {end.event.data['node']}",
        events=(*(each.index for each in (life.routed or life.invokes)[:1]), end.index),
        node=str(end.event.data["node"]),
        request=life.request,
    )


def _misled(life: Life, hurt: _Hurt) -> Witness | None:
    """More than one hop that nothing explains but a claim that was believed and false."""
    hops = [
        fact
        for fact in life.routed
        if (node := str(fact.event.data["node"])) != life.ingress
        and _false(fact, node)
        and not hurt.any_of(life, (node, life.ingress))
    ]
    if len(hops) <= HOPS_MAX:
        return None
    return Witness(
        expected=f"at most {HOPS_MAX} hop for false claims",
        found=f"sent to {', '.join(str(fact.event.data['node']) for fact in hops)} in turn",
        events=tuple(fact.index for fact in hops[: HOPS_MAX + 1]),
        node=life.ingress,
        request=life.request,
    )


def _outlived(fact: Fact, node: str, claimed: int) -> Witness | None:
    if not _false(fact, node):
        return None
    data = fact.event.data
    age_s, false_s = data.get("age_s", {}).get(node), data["false_s"][node]
    if age_s is None or (false_s is not None and false_s <= age_s + SLACK_S):
        return None
    since = "never held as much" if false_s is None else f"had it last {false_s:.1f} s before"
    return Witness(
        expected=f"the digest of {node} is {age_s:.1f} s old, so that its claim of {claimed} "
        f"tokens was true {age_s + SLACK_S:.1f} s ago or later",
        found=f"its cache {since}, and holds {data['held'].get(node, 0)}",
        events=(fact.index,),
        node=node,
        request=fact.event.subject,
    )


def _failed(life: Life, hurt: _Hurt) -> Witness | None:
    """A failure with nothing to blame but a claim that was believed and false."""
    end = life.ends[0]
    if end.event.what is not What.FAIL or end.event.data.get("expected"):
        return None
    for fact in life.routed:
        node = str(fact.event.data["node"])
        if node != life.ingress and _false(fact, node):
            if hurt.any_of(life, (node, life.ingress)):
                return None
            return Witness(
                expected=f"a false claim of {node} costs a hop and no more",
                found=f"the request failed: {end.event.data.get('code')}",
                events=(fact.index, end.index),
                node=node,
                request=life.request,
            )
    return None


class _Hurt:
    """When nodes were hurt by more than false claims."""

    def __init__(self, run: Run) -> None:
        planned = {fault.id: fault for fault in run.schedule.faults}
        ends = {fact.event.subject: fact.at_s for fact in facts(run, What.FAULT_END)}
        self._spans: list[tuple[frozenset[str], float, float]] = []
        for begun in facts(run, What.FAULT_BEGIN):
            fault = planned.get(begun.event.subject)
            if fault and fault.fault.family not in _HARMLESS:
                to_s = ends.get(fault.id, float("inf")) + TAIL_S
                self._spans.append((frozenset(fault.nodes), begun.at_s, to_s))

    def any_of(self, life: Life, nodes: tuple[str, ...]) -> bool:
        return any(
            hurt & set(nodes) and from_s <= life.to_s and life.from_s <= to_s
            for hurt, from_s, to_s in self._spans
        )
