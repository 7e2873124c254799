"""Marks that follow from a history, and those that a scenario may ask for."""

from __future__ import annotations

from dataclasses import replace

from chaos.faults.catalogue import FAULTS
from chaos.history import Event, What
from chaos.run import SEEN, marks
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Scenario
from chaos.scenario.validate import known_marks
from tests.chaos.fakes import run_of

RUN = run_of(plan(Scenario(name="x"), 1))
ANSWER = {"hops": 0, "cached_tokens": 0, "attempts": 1, "resumes": 0}


def marks_of(*events: Event) -> frozenset[str]:
    return marks(replace(RUN, events=events))


def ok(**changed: int) -> Event:
    return Event(2.0, What.OK, "r1", {**ANSWER, **changed})


def routed(claimed: int, held: int) -> Event:
    data = {"node": "n2", "claims": {"n2": claimed}, "held": {"n2": held}}
    return Event(1.0, What.ROUTED, "r1", data)


def test_marks_follow_from_answers() -> None:
    assert marks_of(ok()) == frozenset()
    assert marks_of(ok(hops=1)) == frozenset()
    assert marks_of(ok(cached_tokens=16)) == frozenset()
    assert marks_of(ok(hops=1, cached_tokens=16)) == {"remote_hit"}
    assert marks_of(ok(attempts=2)) == {"second_try"}
    assert marks_of(ok(resumes=1)) == {"resumed"}
    assert marks_of(Event(3.0, What.CONVERGED, "", {"after_s": 1.0})) == {"converged"}
    assert marks_of(Event(3.0, What.MARK, "lie_seen", {})) == {"lie_seen"}


def test_a_stale_claim_has_recovered_when_it_was_false_and_its_request_was_answered() -> None:
    assert marks_of(routed(64, 32), ok()) == {"stale_claim_recovered"}
    assert marks_of(routed(64, 64), ok()) == frozenset()
    assert marks_of(routed(64, 32)) == frozenset()


def test_a_scenario_may_ask_for_every_detection_that_a_fault_promises() -> None:
    promised = {void.instead for fault in FAULTS for void in fault.voids}
    shown = {mark for fault in FAULTS for mark in fault.shows}
    assert set(known_marks()) == promised | shown | SEEN.keys()
