"""Core mode: every fault of it takes effect and is undone, and a seed gives one run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.errors import ChaosError, ScenarioError
from chaos.faults import link, process, topology
from chaos.faults.catalogue import FAULTS
from chaos.faults.disk import Full
from chaos.faults.fault import Fault, Mode
from chaos.history import History, What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Status
from chaos.modes.core.actions import ACTIONS
from chaos.modes.core.cluster import make_cluster
from chaos.modes.core.heap import AT_ONCE_MAX, Heap, HeapClock
from chaos.modes.core.runner import run_core
from chaos.modes.core.witness import Witness
from chaos.run import Run
from chaos.scenario.scenario import Cluster, FaultEntry, Scenario
from chaos.verdict import Verdict, judge
from inference.request import Namespace
from tests.chaos.node.runs import CALM, entry, of, only, schedule

CORE = replace(CALM, mode=Mode.CORE, settle_s=20.0)
KINDS = [kind for kind in FAULTS if Mode.CORE in kind.modes]
STRONG: dict[type[Fault], Fault] = {
    link.Loss: link.Loss(fraction=0.6),
    link.Duplicate: link.Duplicate(fraction=0.6),
    link.Reorder: link.Reorder(fraction=0.6),
}


def core_run(*faults: FaultEntry, scenario: Scenario = CORE, seed: int = 1) -> Run:
    return run_core(schedule(*faults, scenario=scenario, seed=seed))


def broken(run: Run) -> list[str]:
    return [each.invariant.value for each in check_all(run) if each.status is Status.VIOLATED]


def test_every_fault_of_this_mode_has_an_action() -> None:
    assert [kind.kind for kind in KINDS if kind not in ACTIONS] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_it_takes_effect_and_is_undone(kind: type[Fault]) -> None:
    nodes = 5 if kind is topology.RingMajorities else 3
    scenario = replace(CORE, cluster=Cluster(nodes=nodes))
    run = core_run(entry(STRONG.get(kind) or kind()), scenario=scenario)
    end = only(run, What.FAULT_END, f"{kind.kind}-1")
    assert end.data["effects"] > 0
    assert end.data["undone"] is True
    assert of(run, What.FAULT_MISSED) == []
    assert of(run, What.CONVERGED)
    assert run.notes == ()
    assert broken(run) == []


def test_a_calm_run_holds_every_promise_that_it_can_show() -> None:
    run = core_run()
    judged = judge(run, check_all(run))
    assert judged.verdict is Verdict.VALID
    unshown = {f.invariant.value for f in judged.findings if f.status is Status.NOT_EXERCISED}
    assert unshown == {"CLEAN"}
    assert {event.data["hops"] for event in of(run, What.OK)} == {0, 1}
    assert len(of(run, What.OK)) == len(run.schedule.requests)


def test_a_fault_that_the_mode_cannot_do_is_told_of() -> None:
    run = core_run(entry(Full()))
    assert only(run, What.FAULT_UNSUPPORTED, "full-1").data["kind"] == "full"


def test_an_answer_goes_on_elsewhere_when_its_peer_is_killed() -> None:
    """Resumed from the tokens that the client has: the answer is what one engine would give."""
    slow = replace(CORE.cluster, decode_ms_per_token=200.0, nodes=3)
    workload = replace(CORE.workload, requests_per_s=6.0)
    scenario = replace(CORE, cluster=slow, workload=workload)
    run = core_run(entry(process.Kill9(), at=6.0), scenario=scenario)
    assert any(event.data["resumes"] for event in of(run, What.OK))
    assert broken(run) == []


def test_what_a_frozen_host_is_told_waits_for_it() -> None:
    run = core_run(entry(process.StopCont(), at=4.0, for_s=2.0))
    assert len(of(run, What.OK)) == len(run.schedule.requests)


def test_what_an_earlier_boot_held_was_held() -> None:
    """A claim of before a restart is old news for a moment, and no lie."""
    heap = Heap()
    cluster = make_cluster(schedule(scenario=CORE), History(lambda: heap.now_s), heap)
    witness = Witness(cluster)
    for name in cluster.hosts:
        cluster.start(name, "test")
    heap.run_until(5.0)
    cluster.send(replace(cluster.schedule.requests[0], ingress="n2", tenant="a"))
    heap.run_until(9.0)
    namespace = Namespace(cluster.authority.tenant_id("a"))
    (name,) = [each for each in cluster.hosts if witness.truth(each).held(namespace)]
    block = next(iter(witness.truth(name).held(namespace)))
    cluster.kill(name, "test")
    cluster.start(name, "test")
    heap.run_until(11.0)
    assert not witness.truth(name).held(namespace)
    assert witness.truth(name).gone_for_s(namespace, block) == 2.0


def test_a_client_that_has_left_a_frozen_ingress_sees_no_token() -> None:
    leaving = replace(CORE.workload, cancel_fraction=1.0, requests_per_s=10.0)
    run = core_run(
        entry(process.StopCont(), at=3.0, for_s=4.0), scenario=replace(CORE, workload=leaving)
    )
    assert of(run, What.CANCELLED)
    assert broken(run) == []


def test_healing_a_core_leaves_what_is_outside() -> None:
    scenario = replace(CORE, core=("n1", "n2"), cluster=Cluster(nodes=3))
    run = core_run(entry(process.Kill9(), "n3", for_s=None), scenario=scenario)
    ups = [event.subject for event in of(run, What.NODE_UP)]
    assert ups.count("n3") == 1
    assert of(run, What.CONVERGED)


# -- the heap


def test_time_goes_on_in_order_and_equal_times_in_the_order_they_were_asked_for() -> None:
    heap, seen = Heap(), list[str]()
    heap.after(2.0, lambda: seen.append("late"))
    heap.after(1.0, lambda: seen.append("first"))
    heap.after(1.0, lambda: seen.append("second"))
    heap.run_until(1.5)
    assert (seen, heap.now_s) == (["first", "second"], 1.5)
    heap.run_until(3.0)
    assert seen[-1] == "late"
    assert HeapClock(heap, 5.0).unix_s() - HeapClock(heap).unix_s() == 5.0


def test_a_spin_ends_in_an_error() -> None:
    heap = Heap()

    def again() -> None:
        heap.after(0.0, again)

    again()
    with pytest.raises(ChaosError, match=f"a spin: {AT_ONCE_MAX + 1} events"):
        heap.run_until(1.0)


def test_a_wait_of_a_rounding_error_lets_time_pass() -> None:
    """What was due 1e-14 s later used to be looked at without end."""
    heap = Heap()
    heap.run_until(64.4674)
    due_s = 64.46740000000001
    seen = list[float]()

    def look() -> None:
        if heap.now_s < due_s:
            heap.after(due_s - heap.now_s, look)
        else:
            seen.append(heap.now_s)

    look()
    heap.run_until(65.0)
    assert len(seen) == 1


# -- plants


class _NotInEngine:
    name = "elsewhere"
    in_engine = False

    def engine(self, core: object) -> object:
        raise AssertionError


def test_a_planted_bug_of_a_part_that_is_left_out_is_refused() -> None:
    plant: object = _NotInEngine()
    with pytest.raises(ScenarioError, match="elsewhere needs mode node"):
        run_core(schedule(scenario=CORE), plant=plant)  # type: ignore[arg-type]
