"""Certificates that end and are renewed in a run, and an issuer that is down too long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.errors import ScenarioError
from chaos.faults import process
from chaos.faults.fault import Mode
from chaos.history import What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Id, Status
from chaos.modes.node.runner import run_node
from chaos.run import Run
from chaos.scenario.load import find, load
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, Scenario, Workload
from overlay.renewer import Renewer
from tests.chaos.node.runs import entry, of

LIFE_S = 16.0
DOWN_FROM_S, DOWN_S = 2.0, 34.0
WARM_UP_S = 5.0
SCENARIO = Scenario(
    name="test",
    cluster=Cluster(nodes=3, certificate_s=LIFE_S),
    workload=Workload(requests_per_s=4.0, documents=2),
    warm_up_s=WARM_UP_S,
    duration_s=45.0,
    settle_s=45.0,
    faults=(entry(process.Crash(), "n1", at=DOWN_FROM_S, for_s=DOWN_S),),
)


def failed(run: Run) -> set[Id]:
    return {finding.invariant for finding in check_all(run) if finding.status is Status.VIOLATED}


def elsewhere(run: Run, from_s: float, to_s: float) -> int:
    """Requests that another node than their ingress has begun to answer in that time."""
    ingress = {event.subject: event.data["ingress"] for event in of(run, What.INVOKE)}
    return sum(
        event.data["node"] != ingress[event.subject]
        for event in of(run, What.STARTED)
        if from_s <= event.at_s < to_s
    )


def test_an_issuer_that_is_down_for_two_lives_costs_the_links_and_nothing_else() -> None:
    run = run_node(plan(SCENARIO, 3))
    assert failed(run) == set()
    down_s = WARM_UP_S + DOWN_FROM_S
    up_s = down_s + DOWN_S
    ended_s = down_s + LIFE_S + 1  # the last renewal was before the issuer went
    assert elsewhere(run, 0, down_s + LIFE_S / 4) > 0
    assert elsewhere(run, ended_s, up_s) == 0, "links are refused"
    assert len([event for event in of(run, What.OK) if ended_s <= event.at_s < up_s]) > 10
    assert elsewhere(run, up_s + 5, 1e9) > 0, "and there again"


def test_a_peer_that_does_not_renew_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(renewer: Renewer) -> None:
        clock = renewer._clock
        renewer.plan.failed("on purpose", clock.now_s(), clock.unix_s())

    monkeypatch.setattr(Renewer, "renew", fail)
    assert Id.CONVERGE in failed(run_node(plan(SCENARIO, 3)))


def test_the_shipped_scenario_is_valid() -> None:
    assert failed(run_node(plan(load(find("issuer-down"))))) == set()


def test_other_modes_do_not_take_it() -> None:
    with pytest.raises(ScenarioError, match="certificate_s, which is of node mode only"):
        plan(replace(SCENARIO, faults=()), 1, mode=Mode.CORE)
