"""LIVE: no deadlock: requests progress in each window, peers end in time, cancelled scopes exit."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, Life, facts, lives, phase_at
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """What did not end in time; how long peers took to end; and, healed, every request's pauses."""
    tally = Tally(Id.LIVE, run)
    share = 0.0
    grace_s = run.schedule.limits.grace_s
    for fact in facts(run, What.STUCK, What.STOPPED):
        event = fact.event
        if event.what is What.STUCK:
            tally.compare((event.subject,), event.at_s, event.at_s, _stuck(run, fact))
        else:
            share = max(share, float(event.data["took_s"]) / grace_s)
            witness = _slow_end(fact, grace_s)
            tally.compare((event.subject,), event.at_s, event.at_s, witness)
    return tally.finding(share_of_bound=max(share, _progress(run, tally)))


def _stuck(run: Run, fact: Fact) -> Witness:
    subject = fact.event.subject
    begun = (What.INVOKE, What.NODE_UP)
    first = next(
        (i for i, e in enumerate(run.events) if e.what in begun and e.subject == subject), None
    )
    return Witness(
        expected=f"{subject} ends: {fact.event.data['why']}",
        found=f"it had not after {fact.event.data['for_s']:g} s",
        events=(fact.index,) if first is None else (first, fact.index),
        node=subject if subject in run.schedule.cluster.names else "",
        request="" if subject in run.schedule.cluster.names else subject,
    )


def _slow_end(fact: Fact, grace_s: float) -> Witness | None:
    took_s = float(fact.event.data["took_s"])
    if took_s <= grace_s:
        return None
    return Witness(
        expected=f"{fact.event.subject} ends within {grace_s:g} s of being asked to",
        found=f"it took {took_s:.1f} s",
        events=(fact.index,),
        node=fact.event.subject,
    )


def _progress(run: Run, tally: Tally) -> float:
    """Compares the pauses of requests after healing; returns the longest over its bound."""
    healed = phase_at(run, "healed")
    if healed is None:
        return 0.0
    core = run.schedule.core or run.schedule.cluster.names
    over_s = run.events[-1].at_s
    longest = 0.0
    for life in lives(run).values():
        if life.ingress not in core or (life.ends and life.to_s < healed.at_s):
            continue
        pause_s, witness = _longest_pause(run, life, healed, over_s)
        longest = max(longest, pause_s / run.schedule.limits.progress_s)
        tally.compare((life.ingress,), healed.at_s, over_s, witness)
    return longest


def _longest_pause(
    run: Run, life: Life, healed: Fact, over_s: float
) -> tuple[float, Witness | None]:
    steps = sorted(
        (*life.invokes, *life.routed, *life.started, *life.tokens, *life.ends[:1]),
        key=lambda fact: fact.index,
    )
    worst_s, before, after = 0.0, steps[0], steps[0]
    for here, there in zip(steps, [*steps[1:], None], strict=True):
        if there is None and life.ends:
            break
        until_s = over_s if there is None else there.at_s
        pause_s = until_s - max(here.at_s, healed.at_s)
        if pause_s > worst_s:
            worst_s, before, after = pause_s, here, there or here
    bound_s = run.schedule.limits.progress_s
    if worst_s <= bound_s:
        return worst_s, None
    return worst_s, Witness(
        expected=f"a request at a healed node moves on within {bound_s:g} s",
        found=f"nothing happened to it for {worst_s:.1f} s",
        events=(before.index, after.index),
        node=life.ingress,
        request=life.request,
    )
