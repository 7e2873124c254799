"""CONVERGE: healed, and with writes stopped, everybody knows what everybody holds, in time."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, facts, phase_at
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """The time from healing to agreement, and what is still not so at the end of settling.

    Only nodes that were healed count (``core``). A run that ends before the bound has passed, and
    before agreement, shows nothing.
    """
    tally = Tally(Id.CONVERGE, run)
    healed, settled = phase_at(run, "healed"), phase_at(run, "settled")
    if healed is None:
        return tally.finding()
    bound_s = run.schedule.limits.converge_s
    reached = next(iter(facts(run, What.CONVERGED)), None)
    if reached is not None:
        after_s = float(reached.event.data["after_s"])
        tally.compare((), healed.at_s, reached.at_s, _late(healed, reached, bound_s))
        _compare_ends(run, tally)
        return tally.finding(share_of_bound=after_s / bound_s)
    if settled is None or settled.at_s - healed.at_s < bound_s:
        return tally.finding()
    differences = _compare_ends(run, tally)
    if not differences:
        tally.compare(
            (),
            healed.at_s,
            settled.at_s,
            Witness(
                expected=f"agreement within {bound_s:g} s of healing",
                found=f"none had been reached after {settled.at_s - healed.at_s:.1f} s",
                events=(healed.index, settled.index),
            ),
        )
    return tally.finding()


def _late(healed: Fact, reached: Fact, bound_s: float) -> Witness | None:
    after_s = float(reached.event.data["after_s"])
    if after_s <= bound_s:
        return None
    return Witness(
        expected=f"agreement within {bound_s:g} s of healing",
        found=f"it took {after_s:.1f} s",
        events=(healed.index, reached.index),
    )


def _compare_ends(run: Run, tally: Tally) -> int:
    """Compares what stands at the end of settling; returns how many differences there are."""
    core = frozenset(run.schedule.core or run.schedule.cluster.names)
    differences = 0
    for fact in facts(run, What.DIVERGED, What.CLAIMS):
        event = fact.event
        if event.what is What.DIVERGED:
            nodes: tuple[str, ...] = (event.subject, str(event.data["origin"]))
            witness = _diverged(fact)
        else:
            nodes, witness = (event.subject,), _claims(fact)
        if core.issuperset(nodes):
            differences += witness is not None
            tally.compare(nodes, event.at_s, event.at_s, witness)
    return differences


def _diverged(fact: Fact) -> Witness | None:
    data = fact.event.data
    if not data["missing"] and not data["extra"]:
        return None
    return Witness(
        expected=f"{fact.event.subject} knows what {data['origin']} publishes for tenant "
        f"{data['tenant']}",
        found=f"it lacks {data['missing']} prefixes and has {data['extra']} too many",
        events=(fact.index,),
        node=fact.event.subject,
    )


def _claims(fact: Fact) -> Witness | None:
    data, node = fact.event.data, fact.event.subject
    if data["phantom"]:
        return Witness(
            expected=f"every prefix that {node} publishes for tenant {data['tenant']} is held",
            found=f"{data['phantom']} are not",
            events=(fact.index,),
            node=node,
        )
    if data["unpublished"] and not data["truncated"]:
        return Witness(
            expected=f"every run that {node} holds for tenant {data['tenant']} is published",
            found=f"the ends of {data['unpublished']} are not, and nothing was cut",
            events=(fact.index,),
            node=node,
        )
    return None
