"""BOUNDED: queues, sockets, memory, gossip and indexes have caps, and return to where they were."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, facts, phase_at
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """Every sampled gauge against its cap; the last one of each healed node against its baseline.

    A gauge without a baseline need not return to anything.
    """
    tally = Tally(Id.BOUNDED, run)
    last: dict[tuple[str, str], Fact] = {}
    for fact in facts(run, What.GAUGE):
        event = fact.event
        before = last.get((event.subject, str(event.data["name"])))
        last[event.subject, str(event.data["name"])] = fact
        if event.data["cap"] is not None:
            witness = _over(before, fact)
            tally.compare((event.subject,), event.at_s, event.at_s, witness)
    settled = phase_at(run, "settled")
    core = run.schedule.core or run.schedule.cluster.names
    healed = phase_at(run, "healed")
    if settled is None or healed is None:
        return tally.finding()
    for (node, _), fact in sorted(last.items()):
        if fact.event.data["baseline"] is None or node not in core or fact.at_s < healed.at_s:
            continue
        tally.compare((node,), fact.at_s, fact.at_s, _not_back(healed, fact))
    return tally.finding()


def _over(before: Fact | None, fact: Fact) -> Witness | None:
    data = fact.event.data
    if data["value"] <= data["cap"]:
        return None
    return Witness(
        expected=f"{data['name']} of {fact.event.subject} is at most {data['cap']:g}",
        found=f"it is {data['value']:g}",
        events=(fact.index,) if before is None else (before.index, fact.index),
        node=fact.event.subject,
    )


def _not_back(healed: Fact, fact: Fact) -> Witness | None:
    data = fact.event.data
    if data["value"] <= data["baseline"]:
        return None
    return Witness(
        expected=f"{data['name']} of {fact.event.subject} is back at {data['baseline']:g} when the "
        "run has settled",
        found=f"it is {data['value']:g}",
        events=(healed.index, fact.index),
        node=fact.event.subject,
    )
