"""NO-WORSE: with the overlay hurt, the first token comes about as soon as without an overlay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.faults.fault import Mode
from chaos.faults.link import Jitter, Latency
from chaos.faults.process import SlowCpu
from chaos.faults.worker import SlowGpu, Stall
from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, Life, facts, lives
from chaos.invariants.tally import Tally
from chaos.run import Run

REQUESTS_MIN = 10
"""A quantile of fewer says nothing."""

BUDGET_S = 0.05
SILENCE_S = 1.5
"""The peer's own (``overlay.ingress.IngressLimits``): two round trips come on top of the first."""

LATE_MIN = 2
"""So many may come late in any run: a 99th percentile of fewer than 300 is made of one or two."""

JITTER_SPREADS = 3.0

NOTICED_S = 4.0
"""That a peer's engine has become slower shows in its load hints, one every 2 s, and in answers; a
request that was sent there before could not know."""


@dataclass(frozen=True, slots=True)
class _Pair:
    life: Life
    first: Fact
    ttft_s: float
    twin_s: float


def check(run: Run) -> Finding:
    """p99 of the time to first token against that of the same requests in the overlay-off twin."""
    tally = Tally(Id.NO_WORSE, run)
    pairs = _pairs(run, tally)
    if len(pairs) < REQUESTS_MIN:
        tally.exercised = 0
        return tally.finding()
    worst = sorted(pairs, key=lambda pair: pair.ttft_s)
    p99 = worst[_judged(len(worst))]
    twin_p99_s = percentile([pair.twin_s for pair in pairs])
    bound_s = _bound_s(run, twin_p99_s, worst[_judged(len(worst)) :])
    if p99.ttft_s > bound_s:
        limit = run.schedule.limits.ttft_ratio_p99_max
        tally.add(
            Witness(
                expected=f"p99 of the time to first token is at most {bound_s:.3f} s: {limit:g} "
                f"times the {twin_p99_s:.3f} s without an overlay, plus the forward budget",
                found=f"it is {p99.ttft_s:.3f} s over {len(pairs)} requests",
                events=(p99.life.invokes[0].index, p99.first.index),
                node=p99.life.ingress,
                request=p99.life.request,
            )
        )
    return tally.finding(share_of_bound=p99.ttft_s / bound_s)


def allowed_s(run: Run) -> float | None:
    """What the 99th percentile may be in this run; None where too few requests are compared."""
    pairs = sorted(_pairs(run, Tally(Id.NO_WORSE, run)), key=lambda pair: pair.ttft_s)
    if len(pairs) < REQUESTS_MIN:
        return None
    twin_p99_s = percentile([pair.twin_s for pair in pairs])
    return _bound_s(run, twin_p99_s, pairs[_judged(len(pairs)) :])


def _pairs(run: Run, tally: Tally) -> list[_Pair]:
    pairs: list[_Pair] = []
    slowed = _slowed(run)
    for life in lives(run).values():
        first, twin_s = _first(life), run.twin.ttft_s.get(life.request)
        if first is None or twin_s is None or not life.invokes:
            continue
        if life.invokes[0].event.data.get("whole"):
            continue  # there is nothing before the whole answer
        if any(_met(life, first, nodes, at_s) for nodes, at_s in slowed):
            tally.voided += 1
            continue
        # The ingress's state counts, up to the first token.
        if tally.compare((life.ingress,), life.from_s, first.at_s, None):
            pairs.append(_Pair(life, first, first.at_s - life.invokes[0].at_s, twin_s))
    return pairs


def _slowed(run: Run) -> list[tuple[frozenset[str], float]]:
    """Nodes whose engines became slower, and when."""
    planned = {each.id: each for each in run.schedule.faults if isinstance(each.fault, SlowGpu)}
    return [
        (frozenset(planned[fact.event.subject].nodes), fact.at_s)
        for fact in facts(run, What.FAULT_BEGIN)
        if fact.event.subject in planned
    ]


def _met(life: Life, first: Fact, slowed: frozenset[str], at_s: float) -> bool:
    """Whether a request was at a node that became slower while it was there, or just before."""
    return any(
        fact.event.data["node"] in slowed and at_s <= first.at_s and fact.at_s - at_s <= NOTICED_S
        for fact in life.routed
        if fact.at_s <= first.at_s
    )


def _first(life: Life) -> Fact | None:
    """The first token; of a client that left without one, the moment until which it waited."""
    if life.first_token is None and life.end and life.end.event.what is What.CANCELLED:
        return life.end
    return life.first_token


def percentile(values: Sequence[float]) -> float:
    """The 99th percentile by nearest rank."""
    return sorted(values)[_rank(len(values))]


def _rank(count: int) -> int:
    return max(0, math.ceil(0.99 * count) - 1)


def _judged(count: int) -> int:
    """The place of the time that is held to the bound: the percentile, less the late ones."""
    return max(0, min(_rank(count), count - 1 - LATE_MIN))


def _bound_s(run: Run, twin_p99_s: float, worst: Sequence[_Pair]) -> float:
    """What p99 may be; silence is allowed for where a peer kept any of the worst waiting.

    That an engine stands still is known after as long at the earliest.

    In live mode nobody tells whether one did.
    """
    one_way_s = run.schedule.cluster.delay_ms / 1000 + _slower_s(run)
    budget_s = BUDGET_S + 2 * 2 * one_way_s
    stalls = _stalls(run)
    silent_s = max((max(_silent_s(pair), _stalled_s(pair, stalls)) for pair in worst), default=0.0)
    if run.schedule.mode is Mode.LIVE:
        silent_s = SILENCE_S
    if silent_s > budget_s:
        budget_s += min(silent_s, SILENCE_S)
    return run.schedule.limits.ttft_ratio_p99_max * twin_p99_s + budget_s


def _silent_s(pair: _Pair) -> float:
    """How long a peer had the request that was sent on to another before its first token.

    One that says that it will be late, or refuses, does so at once and is no silent one.
    """
    tries = [fact.at_s for fact in pair.life.routed if fact.at_s <= pair.first.at_s]
    return max((later - sooner for sooner, later in pairwise(tries)), default=0.0)


def _stalls(run: Run) -> list[tuple[frozenset[str], float, float]]:
    """Nodes whose engines stood still, from when to when."""
    planned = {each.id: each for each in run.schedule.faults if isinstance(each.fault, Stall)}
    ends = {fact.event.subject: fact.at_s for fact in facts(run, What.FAULT_END)}
    return [
        (frozenset(planned[name].nodes), fact.at_s, ends.get(name, math.inf))
        for fact in facts(run, What.FAULT_BEGIN)
        if (name := fact.event.subject) in planned
    ]


def _stalled_s(pair: _Pair, stalls: Sequence[tuple[frozenset[str], float, float]]) -> float:
    """How long a request was at an engine that stood still, before its first token."""
    tries = [fact for fact in pair.life.routed if fact.at_s <= pair.first.at_s]
    held = (
        min(to_s, pair.first.at_s) - max(from_s, fact.at_s)
        for nodes, from_s, to_s in stalls
        for fact in tries
        if fact.event.data["node"] in nodes
    )
    return max(held, default=0.0)


def _slower_s(run: Run) -> float:
    """How much longer a message took at most: round trips are part of the forward budget."""
    extra_ms = 0.0
    for planned in run.schedule.faults:
        match planned.fault:
            case Latency(delay_ms=delay_ms) | SlowCpu(delay_ms=delay_ms):
                extra_ms = max(extra_ms, delay_ms)
            case Jitter(delay_ms=delay_ms, spread_ms=spread_ms):
                extra_ms = max(extra_ms, delay_ms + JITTER_SPREADS * spread_ms)
            case _:
                pass
    return extra_ms / 1000
