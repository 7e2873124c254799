"""Faults by which an engine answers wrongly: the checker sees it, and where it may not be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.faults import worker
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Finding, Id, Status
from chaos.run import Run, marks
from overlay.served import Advertised
from overlay.views import Views
from security.peer_id import PeerId
from tests.chaos.adversary.test_actions import of, run_with

WRONG: tuple[tuple[Fault, str], ...] = (
    (worker.KvCorrupt(), "wrong_block_used"),
    (worker.EarlyEos(), "ended_early"),
    (worker.WrongModel(), "other_model_used"),
    (worker.WrongModel(tokenizer=1), "other_model_used"),
)
EACH = pytest.mark.parametrize(("fault", "mark"), WRONG, ids=repr)


def findings(run: Run) -> dict[Id, Finding]:
    return {each.invariant: each for each in check_all(run)}


def without(run: Run, *kinds: What) -> Run:
    """The same history as if nobody had told of these."""
    return replace(run, events=tuple(e for e in run.events if e.what not in kinds))


@EACH
def test_the_checker_sees_it_where_no_fault_excuses_it(fault: Fault, mark: str) -> None:
    found = findings(without(run_with(fault), What.FAULT_BEGIN))
    assert found[Id.OUTPUT].status is Status.VIOLATED
    assert found[Id.ACCOUNT].status is Status.HELD
    assert mark in marks(run_with(fault))


@EACH
def test_it_is_excused_only_where_it_was_noticed(fault: Fault, mark: str) -> None:
    run = run_with(fault)
    unseen = replace(run, events=tuple(e for e in run.events if e.subject != mark))
    (witness,) = findings(unseen)[Id.OUTPUT].witnesses
    assert f"must be detected: mark {mark}" in witness.expected


@EACH
def test_only_answers_that_the_target_had_a_part_in_are_excused(fault: Fault, mark: str) -> None:
    del mark
    found = findings(run_with(fault))[Id.OUTPUT]
    assert found.exercised > 0
    assert found.voided > 0


@EACH
def test_what_was_said_is_carried_whole_whatever_it_was(fault: Fault, mark: str) -> None:
    """A token that is lost on its way is seen, though the answer is wrong anyway."""
    del mark
    run = run_with(fault)
    last = {e.subject: number for number, e in enumerate(run.events) if e.what is What.TOKENS}
    served = {e.data["request"] for e in of(run, What.SAID) if e.subject == "n1"}
    lost = next(last[e.subject] for e in of(run, What.OK) if e.subject in served)
    events = (*run.events[:lost], *run.events[lost + 1 :])
    found = findings(replace(run, events=events))[Id.ACCOUNT]
    assert [each.request for each in found.witnesses] == [run.events[lost].subject]


@pytest.mark.parametrize("tokenizer", [0, 1])
def test_another_model_serves_its_own_clients_alone(tokenizer: float) -> None:
    run = run_with(worker.WrongModel(tokenizer=tokenizer))
    (begin,) = of(run, What.FAULT_BEGIN)
    (end,) = of(run, What.FAULT_END)
    ingresses = {event.subject: event.data["ingress"] for event in of(run, What.INVOKE)}
    routed = [
        (ingresses[event.subject], event.data["node"])
        for event in of(run, What.ROUTED)
        if begin.at_s < event.at_s < end.at_s
    ]
    # Nobody is sent there from elsewhere, and it sends nobody elsewhere.
    assert {node for ingress, node in routed if ingress == "n1"} == {"n1"}
    assert "n1" not in {node for ingress, node in routed if ingress != "n1"}


def test_a_router_that_takes_another_model_for_its_own_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def any_of_that_name(
        self: Views, peer_id: PeerId, name: str, _: Advertised | None
    ) -> Advertised | None:
        return next((m for m in self._knowledge.models(peer_id) if m.name == name), None)

    monkeypatch.setattr(Views, "_served_there", any_of_that_name)
    run = run_with.__wrapped__(worker.WrongModel())
    (first, *_) = findings(run)[Id.OUTPUT].witnesses
    entered = {event.subject: event.data["ingress"] for event in of(run, What.INVOKE)}
    assert entered[first.request] != "n1"
