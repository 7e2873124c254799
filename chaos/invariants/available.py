"""AVAILABLE: a request that a peer could answer alone never fails because of other peers."""

from __future__ import annotations

import math

from chaos.cuts import cut_links
from chaos.faults import security
from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, Life, facts, lives
from chaos.invariants.tally import Tally
from chaos.invariants.voids import TAIL_S
from chaos.run import Run
from chaos.scenario.schedule import PlannedFault

DEADLINE = "deadline_exceeded"
BROKEN = "stream_broken"

FOR_GOOD = (security.RevokedKeepsTalking, security.RevokedInPartition)
"""Faults after which a node is cut off from all others."""


def check(run: Run) -> Finding:
    """The share of requests that were answered, among those that their ingress could answer alone.

    What it could do alone is what it did in the overlay-off twin. Requests that were at fault
    themselves, were cancelled, or whose ingress was lost, count neither way. One that needs an
    engine with the whole body counts where no fault touches its ingress or any such engine, or cuts
    one off from the other.
    """
    tally = Tally(Id.AVAILABLE, run)
    servers = _Servers(run)
    timeouts_s = {request.id: request.timeout_s for request in run.schedule.requests}
    failures: list[tuple[Life, Witness]] = []
    answered = 0
    for life in lives(run).values():
        end = life.end
        if end is None or not life.invokes:
            continue
        if not _could_alone(run, life, timeouts_s) and not servers.could(life):
            continue
        if end.event.what is What.OK:
            answered += tally.compare((life.ingress,), life.from_s, life.to_s, None)
        elif _counts(life, end):
            failures.append((life, _witness(life, end)))
    minimum = run.schedule.limits.success_fraction_min
    if _is_below(tally, failures, answered, minimum):
        for life, witness in failures:
            tally.compare((life.ingress,), life.from_s, life.to_s, witness)
    else:
        for life, _ in failures:
            tally.compare((life.ingress,), life.from_s, life.to_s, None)
    return tally.finding()


class _Servers:
    """Engines that are given whole bodies, and when faults touch which nodes."""

    def __init__(self, run: Run) -> None:
        self._cluster = run.schedule.cluster
        planned = {fault.id: fault for fault in run.schedule.faults}
        ends = {fact.event.subject: fact.at_s for fact in facts(run, What.FAULT_END)}
        self._touched: list[tuple[PlannedFault, float, float]] = []
        for begun in facts(run, What.FAULT_BEGIN):
            fault = planned.get(begun.event.subject)
            if fault is not None:
                lasts = isinstance(fault.fault, FOR_GOOD)
                to_s = math.inf if lasts else ends.get(fault.id, math.inf)
                self._touched.append((fault, begun.at_s, to_s))

    def could(self, life: Life) -> bool:
        """Whether nothing kept one of them from answering a request that needs one."""
        asked, cluster = life.invokes[0].event.data, self._cluster
        able = [
            name
            for name in cluster.remote
            if asked.get("tools")
            and name not in cluster.late
            and asked["tenant"] not in cluster.outside.get(name, ())
            and cluster.could_alone(name, asked["tenant"], tools=True)
        ]
        there = {life.ingress, *able}
        return bool(able) and not any(
            self._touches(fault, there) and from_s <= life.to_s and life.from_s <= to_s + TAIL_S
            for fault, from_s, to_s in self._touched
        )

    def _touches(self, fault: PlannedFault, there: set[str]) -> bool:
        cut = cut_links(fault, self._cluster.names)
        return not there.isdisjoint(fault.nodes) or any(there.issuperset(link) for link in cut)


def _counts(life: Life, end: Fact) -> bool:
    """Whether it failed through no fault of its own.

    An answer that broke off at an engine that tells no token ids cannot go on at another.
    """
    broke_off = end.event.data.get("code") == BROKEN and life.blind
    return end.event.what is What.FAIL and not end.event.data.get("expected") and not broke_off


def _is_below(
    tally: Tally, failures: list[tuple[Life, Witness]], answered: int, minimum: float
) -> bool:
    """Whether too few were answered; a voided failure is judged by its detection all the same."""
    counted = [
        life for life, _ in failures if not tally.is_voided((life.ingress,), life.from_s, life.to_s)
    ]
    total = answered + len(counted)
    return len(counted) < len(failures) or (bool(total) and answered / total < minimum)


def _could_alone(run: Run, life: Life, timeouts_s: dict[str, float]) -> bool:
    twin = run.twin.ttft_s
    if not twin:
        return True
    ttft_s = twin.get(life.request)
    if ttft_s is None:
        return False
    end = life.end
    if end is None or end.event.data.get("code") != DEADLINE:
        return True
    tokens = int(life.invokes[0].event.data.get("max_tokens", 0))
    cluster = run.schedule.cluster
    slower = cluster.slow.get(life.ingress, 1.0)
    decode_s = tokens * slower * cluster.decode_ms_per_token / 1000
    return ttft_s + decode_s < timeouts_s.get(life.request, float("inf"))


def _witness(life: Life, end: Fact) -> Witness:
    data = end.event.data
    tried = ", ".join(str(fact.event.data["node"]) for fact in life.routed) or "nobody"
    return Witness(
        expected=f"{life.ingress} could have answered alone",
        found=f"it failed with {data.get('code')} ({data.get('message', '')}) after {tried}",
        events=(life.invokes[0].index, end.index),
        node=life.ingress,
        request=life.request,
    )
