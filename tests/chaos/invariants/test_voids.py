from __future__ import annotations

from chaos.faults.client import SlowReader
from chaos.faults.process import Kill9
from chaos.faults.worker import SlowGpu
from chaos.history import What
from chaos.invariants import available
from chaos.invariants.invariant import Id, Status, Witness
from chaos.invariants.tally import Tally
from chaos.invariants.voids import TAIL_S, Voids
from tests.chaos.invariants.histories import Story

BROKEN = Witness(expected="this", found="that", events=(0, 1))


def test_a_void_lasts_from_the_fault_to_a_while_after_it() -> None:
    voids = Voids(Story().fault(Kill9(), "n2", from_s=20, to_s=30).run())
    assert not voids.covers(Id.AVAILABLE, "n2", 19.9)
    assert voids.covers(Id.AVAILABLE, "n2", 20.0)
    assert voids.covers(Id.AVAILABLE, "n2", 30.0 + TAIL_S)
    assert not voids.covers(Id.AVAILABLE, "n2", 30.1 + TAIL_S)
    assert voids.covers(Id.AVAILABLE, "n2", 0.0, 20.0)


def test_a_void_is_of_its_invariant_and_its_nodes_only() -> None:
    voids = Voids(Story().fault(Kill9(), "n2").run())
    assert not voids.covers(Id.AVAILABLE, "n1", 25.0)
    assert not voids.covers(Id.OUTPUT, "n2", 25.0)
    assert voids.nodes(Id.AVAILABLE) == {"n2"}


def test_a_fault_that_was_planned_and_did_not_happen_voids_nothing() -> None:
    story = Story().fault(Kill9(), "n2")
    story.facts = [fact for fact in story.facts if fact.what is not What.FAULT_BEGIN]
    assert not Voids(story.run()).covers(Id.AVAILABLE, "n2", 25.0)


def test_a_fault_that_never_ended_voids_to_the_end() -> None:
    story = Story().fault(Kill9(), "n2")
    story.facts = [fact for fact in story.facts if fact.what is not What.FAULT_END]
    assert Voids(story.run()).covers(Id.AVAILABLE, "n2", 1e6)


def test_a_voided_fact_is_not_exercised() -> None:
    run = Story().fault(SlowGpu(), "n2").run()
    tally = Tally(Id.NO_WORSE, run)
    assert not tally.compare(("n1", "n2"), 25.0, 26.0, None)
    found = tally.finding()
    assert (found.exercised, found.voided, found.status) == (0, 1, Status.NOT_EXERCISED)


def test_a_broken_promise_under_a_void_demands_the_detection() -> None:
    story = Story().fault(Kill9(), "n2", name="the-kill")
    tally = Tally(Id.AVAILABLE, story.run())
    assert not tally.compare(("n2",), 25.0, 26.0, BROKEN)
    found = tally.finding()
    assert found.status is Status.VIOLATED
    assert "ingress_lost" in found.witnesses[0].expected


def test_a_broken_promise_under_a_void_that_was_detected_is_none() -> None:
    story = Story().fault(Kill9(), "n2", mark="ingress_lost")
    tally = Tally(Id.AVAILABLE, story.run())
    tally.compare(("n2",), 25.0, 26.0, BROKEN)
    assert tally.finding().status is Status.NOT_EXERCISED


def test_one_undetected_fault_is_told_of_once() -> None:
    tally = Tally(Id.AVAILABLE, Story().fault(Kill9(), "n2").run())
    for _ in range(3):
        tally.compare(("n2",), 25.0, 26.0, BROKEN)
    assert len(tally.finding().witnesses) == 1


def test_what_no_void_covers_stays_checked() -> None:
    story = Story().phases().fault(Kill9(), "n2", mark="ingress_lost")
    story.fault(SlowReader(), "n1")
    story.invoke("r1", 25.0, ingress="n1").answer("r1", 25.1, (), end=What.FAIL, code="broken")
    assert available.check(story.run()).status is Status.VIOLATED
