"""Judged runs that no peer took part in: their facts follow from the schedule by a rule.

OUTPUT is violated where a ``latency`` of 20 ms or more meets request ``r3``; a ``kill9`` breaks the
harness, a ``crash`` ends the process, and ``freeze`` makes another trace in every process.
"""

from __future__ import annotations

import hashlib
import os

from chaos.faults import clock, link, process
from chaos.history import Event, History, What
from chaos.invariants.invariant import Finding, Id, Witness, finding
from chaos.modes.registry import OnEvent
from chaos.run import Run, Totals, Twin
from chaos.scenario.data import schedule_json
from chaos.scenario.schedule import Schedule
from chaos.verdict import Judged, judge


class BrokenHarness(Exception):
    """What a ``kill9`` does."""


def run_of(schedule: Schedule, *, plant: str | None = None) -> Run:
    """A run in which every fault takes effect and every request is answered."""
    history = History(lambda: 1.0)
    history.add(What.PHASE, name="warm_up")
    history.add(What.PHASE, name="storm")
    for fault in schedule.faults:
        kind = fault.fault.kind
        history.add(What.FAULT_BEGIN, fault.id, kind=kind, nodes=list(fault.nodes))
    for request in schedule.requests:
        history.add(What.INVOKE, request.id, ingress=request.ingress, tenant=request.tenant)
        history.add(What.OK, request.id, node=request.ingress, hops=0, cached_tokens=0)
    for fault in schedule.faults:
        kind = fault.fault.kind
        history.add(What.FAULT_END, fault.id, kind=kind, effects=1, undone=True)
    history.add(What.PHASE, name="stopped")
    text = schedule_json(schedule)
    if any(isinstance(fault.fault, clock.Freeze) for fault in schedule.faults):
        text += str(os.getpid()).encode()
    return Run(
        schedule=schedule,
        events=tuple(history.events),
        twin=Twin(tokens={}, ttft_s={}),
        totals=Totals(
            simulated_s=3600.0,
            wall_s=0.01,
            deliveries=100,
            trace=hashlib.blake2b(text, digest_size=16).hexdigest(),
        ),
        plant=plant,
    )


def examine(
    schedule: Schedule, *, plant: str | None = None, on_event: OnEvent | None = None
) -> Judged:
    """The rule of this module, as ``chaos.examine.Examine``."""
    for fault in schedule.faults:
        if isinstance(fault.fault, process.Kill9):
            raise BrokenHarness("as it was asked to")
        if isinstance(fault.fault, process.Crash):
            os._exit(9)
    run = run_of(schedule, plant=plant)
    if on_event is not None:
        for event in run.events:
            on_event(event)
    return judge(run, (_output(run), finding(Id.TENANT, exercised=0, witnesses=())))


def _output(run: Run) -> Finding:
    slow = [
        fault.id
        for fault in run.schedule.faults
        if isinstance(fault.fault, link.Latency) and fault.fault.delay_ms >= 20
    ]
    begun = _index(run.events, What.FAULT_BEGIN, slow[0]) if slow else None
    ended = _index(run.events, What.OK, "r3")
    witnesses = []
    if begun is not None and ended is not None:
        witnesses.append(
            Witness(expected="1 2 3", found="1 2 4", events=(begun, ended), request="r3")
        )
    return finding(Id.OUTPUT, exercised=len(run.schedule.requests), witnesses=witnesses)


def _index(events: tuple[Event, ...], what: What, subject: str) -> int | None:
    found = (i for i, event in enumerate(events) if event.what is what and event.subject == subject)
    return next(found, None)
