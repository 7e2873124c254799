"""Phases, requests, healing and the end of runs of whole simulated peers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chaos.errors import ChaosError
from chaos.faults.client import SlowReader
from chaos.faults.clock import Offset
from chaos.faults.fault import Fault
from chaos.faults.link import Latency, Loss
from chaos.faults.process import Kill9, RestartSame, StopCont
from chaos.faults.security import CrossTenantProbe, RevokedInPartition
from chaos.faults.topology import Isolate, Partition
from chaos.faults.worker import SlowGpu
from chaos.history import Event, What
from chaos.modes import storm
from chaos.modes.node import runner
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.scenario import Cluster, Landmark
from overlay.node import Node
from tests.chaos.node.quiet import Quiet
from tests.chaos.node.runs import (
    CALM,
    check_well_formed,
    entry,
    of,
    only,
    quiet_run,
    schedule,
)


def test_a_calm_run_answers_everything_as_a_lone_cold_engine_would() -> None:
    run = quiet_run()
    check_well_formed(run)
    assert len(of(run, What.OK)) == len(run.schedule.requests) > 20
    assert len(of(run, What.NODE_UP)) == 3
    assert {event.data["took_s"] < 1 for event in of(run, What.STOPPED)} == {True}
    assert len(of(run, What.STOPPED)) == 3
    assert any(event.data["hops"] for event in of(run, What.OK)), "some were forwarded"
    assert any(event.data["cached_tokens"] for event in of(run, What.OK))
    assert run.twin.ttft_s.keys() == {request.id for request in run.schedule.requests}
    assert run.totals.simulated_s == pytest.approx(27.0, abs=1.0)
    assert run.totals.deliveries > 100


def test_events_are_told_as_they_happen() -> None:
    told: list[Event] = []
    run = runner.run_node(schedule(), on_event=told.append)
    assert tuple(told) == run.events


def test_a_restart_at_the_supervisors_second_starts_one_process() -> None:
    run = quiet_run(*(entry(RestartSame(), at=second) for second in (1.0, 2.0, 3.0, 4.0)))
    check_well_formed(run)
    assert len(of(run, What.NODE_UP, subject="n2")) == 5
    assert len(of(run, What.NODE_DOWN, subject="n2")) == 5


def test_a_late_node_joins_in_the_storm() -> None:
    scenario = replace(CALM, cluster=Cluster(nodes=3, late={"n3": 4.0}))
    run = quiet_run(scenario=scenario)
    check_well_formed(run)
    (up,) = of(run, What.NODE_UP, subject="n3")
    assert up.at_s == pytest.approx(9.0)
    entered = {e.subject for e in of(run, What.INVOKE) if e.data["ingress"] == "n3"}
    assert entered & {event.subject for event in of(run, What.OK)}


def test_a_fault_begins_and_ends_when_the_schedule_says() -> None:
    run = quiet_run(entry(Latency(delay_ms=20), "all", at=2.0, for_s=3.0))
    check_well_formed(run)
    assert only(run, What.FAULT_BEGIN).at_s == pytest.approx(7.0)
    end = only(run, What.FAULT_END)
    assert end.at_s == pytest.approx(10.0)
    assert end.data["effects"] > 0
    assert end.data["undone"] is True


def test_a_fault_without_a_duration_ends_at_healing() -> None:
    run = quiet_run(entry(Kill9(), for_s=None))
    check_well_formed(run)
    healed = next(e for e in of(run, What.PHASE) if e.data["name"] == "healed")
    assert only(run, What.FAULT_END).at_s == pytest.approx(17.0)
    up = of(run, What.NODE_UP, subject="n2")[-1]
    assert up.at_s <= healed.at_s
    assert of(run, What.CONVERGED)


def test_what_ails_nodes_outside_the_core_stays_until_the_run_stops() -> None:
    scenario = replace(CALM, core=("n1", "n2"), cluster=Cluster(nodes=3))
    run = quiet_run(entry(Kill9(), "all", at=10.0, for_s=None), scenario=scenario)
    assert [e.subject for e in of(run, What.NODE_UP) if e.at_s > 10] == ["n1", "n2"]
    settled = next(e for e in of(run, What.PHASE) if e.data["name"] == "settled")
    assert only(run, What.FAULT_END).at_s >= settled.at_s


@pytest.mark.parametrize("fault", [Partition(), Isolate()])
def test_links_inside_the_core_are_healed_and_others_are_not(fault: Fault) -> None:
    groups = (("n1",), ("n2",), ("n3",)) if isinstance(fault, Partition) else ()
    target = None if groups else "all"
    planned = schedule(entry(fault, target, groups=groups, for_s=None)).faults[0]
    names = ("n1", "n2", "n3")
    mended, left = storm.parts(planned, ("n1", "n2"), names)
    assert mended is not None
    assert set(mended.links) == {("n1", "n2"), ("n2", "n1")}
    assert left is not None
    assert set(left.links) == {("n1", "n3"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2")}
    assert storm.parts(planned, (), names) == (planned, None)


@pytest.mark.parametrize("fault", [CrossTenantProbe(), SlowReader()], ids=lambda f: f.kind)
def test_requests_of_a_fault_outside_the_core_end_with_healing_too(fault: Fault) -> None:
    """Else what is cached would be new for ever, and never all published."""
    planned = schedule(entry(fault, "n3", for_s=None)).faults[0]
    assert storm.parts(planned, ("n1", "n2"), ("n1", "n2", "n3")) == (planned, None)


def test_the_cut_of_a_revocation_ends_with_healing_wherever_its_target_is() -> None:
    """It cuts links between others: left in place, half of the core would never be told."""
    planned = schedule(entry(RevokedInPartition(), "n3", for_s=None)).faults[0]
    assert storm.parts(planned, ("n1", "n2"), ("n1", "n2", "n3")) == (planned, None)


def test_a_fault_waits_for_its_landmark_of_the_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answered(Quiet):
        def __init__(self, cluster: SimCluster) -> None:
            super().__init__(cluster)
            cluster.history.watchers.append(self._see)
            self._cluster_seen = cluster
            cluster.history.add(What.LANDMARK, "answered", node="n2")

        def _see(self, event: Event) -> None:
            if event.what is What.OK:
                self._cluster_seen.history.add(What.LANDMARK, "answered", node=event.data["node"])

    monkeypatch.setattr(runner, "make_observer", Answered)
    never = Landmark("answered", "n2", 10_000)
    planned = schedule(
        entry(Latency(), at=Landmark("answered", "n2", 2), for_s=1.0),
        entry(Loss(), at=never, for_s=1.0),
        entry(Offset(), at=Landmark("answered", None, 4), for_s=1.0),
    )
    run = runner.run_node(planned)
    storm_s = 5.0
    seen = [e for e in of(run, What.LANDMARK, subject="answered") if e.at_s >= storm_s]
    at_n2 = [e.at_s for e in seen if e.data["node"] == "n2"]
    begun = {e.subject: e.at_s for e in of(run, What.FAULT_BEGIN)}
    assert begun == {"latency-1": at_n2[1], "offset-1": seen[3].at_s}
    missed = only(run, What.FAULT_MISSED)
    assert (missed.subject, missed.data["why"]) == ("loss-1", "its landmark never came")


def test_a_fault_that_has_nothing_to_act_on_is_missed() -> None:
    run = quiet_run(entry(Kill9(), at=1.0, for_s=8.0), entry(RestartSame(), at=3.0))
    check_well_formed(run)
    missed = only(run, What.FAULT_MISSED)
    assert missed.subject == "restart_same-1"
    assert "down already" in missed.data["why"]
    assert only(run, What.FAULT_END, "restart_same-1").data["effects"] == 0


def test_a_fault_without_an_action_is_said_to_be_unsupported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "ACTIONS", {})
    run = quiet_run(entry(SlowGpu()))
    check_well_formed(run)
    assert only(run, What.FAULT_UNSUPPORTED).data["kind"] == "slow_gpu"
    assert of(run, What.FAULT_BEGIN) == []


def test_a_request_whose_ingress_dies_is_of_unknown_outcome() -> None:
    run = quiet_run(entry(Kill9(), at=6.0, for_s=4.0))
    check_well_formed(run)
    info = of(run, What.INFO)
    assert info
    invoked = {e.subject: e for e in of(run, What.INVOKE)}
    assert {invoked[event.subject].data["ingress"] for event in info} == {"n2"}
    lost = [e.data["request"] for e in of(run, What.MARK, subject="ingress_lost")]
    assert sorted(lost) == sorted(event.subject for event in info)


def test_a_stopped_process_neither_serves_nor_answers_until_it_goes_on() -> None:
    run = quiet_run(entry(StopCont(), at=2.0, for_s=6.0))
    check_well_formed(run)
    during = [e for e in of(run, What.OK, What.TOKENS) if 7.1 < e.at_s < 13.0]
    invoked = {e.subject: e.data["ingress"] for e in of(run, What.INVOKE)}
    assert during
    assert {invoked[event.subject] for event in during} == {"n1", "n3"}
    late = [e for e in of(run, What.OK) if invoked[e.subject] == "n2" and e.at_s >= 13.0]
    assert late, "what was asked of it is answered in the end"
    assert of(run, What.MARK, subject="ingress_silent")


def test_a_peer_that_ends_by_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(Quiet):
        def on_boot(self, host: SimHost, node: Node) -> None:
            run = node.knowledge.run

            async def run_and_break(*args: object, **kwargs: object) -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: run(*args, **kwargs))  # type: ignore[arg-type]
                    await trio.sleep(8)
                    raise ZeroDivisionError("a bug")

            if host.name == "n3" and host.starts == 1:
                node.knowledge.run = run_and_break  # type: ignore[method-assign, assignment]

    monkeypatch.setattr(runner, "make_observer", Breaks)
    run = runner.run_node(schedule())
    stuck = only(run, What.STUCK)
    assert stuck.subject == "n3"
    assert "ZeroDivisionError: a bug" in stuck.data["why"]
    assert run.notes
    assert of(run, What.NODE_UP, subject="n3")[-1].data["why"] == "supervised"


def test_a_peer_that_does_not_leave_is_stuck_and_the_run_ends_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deaf(Quiet):
        def on_boot(self, host: SimHost, node: Node) -> None:
            if host.name == "n2":
                node.drain = trio.sleep_forever  # type: ignore[method-assign]

    monkeypatch.setattr(runner, "make_observer", Deaf)
    run = runner.run_node(schedule())
    stuck = only(run, What.STUCK)
    assert (stuck.subject, stuck.data["for_s"]) == ("n2", 35.0)
    assert [event.subject for event in of(run, What.STOPPED)] == ["n1", "n3"]


def test_a_spin_ends_in_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spins(Quiet):
        async def watch(self) -> None:
            await trio.sleep(6)
            while True:
                await trio.lowlevel.checkpoint()

    monkeypatch.setattr(runner, "make_observer", Spins)
    run = runner.run_node(schedule())
    stuck = only(run, What.STUCK)
    assert (stuck.subject, stuck.at_s) == ("run", pytest.approx(6.0, abs=0.5))
    assert "turns" in stuck.data["why"]


def test_a_fault_of_the_harness_is_raised_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Quiet):
        async def watch(self) -> None:
            raise KeyError("typo")

    monkeypatch.setattr(runner, "make_observer", Broken)
    with pytest.raises(ChaosError, match="typo"):
        runner.run_node(schedule())
