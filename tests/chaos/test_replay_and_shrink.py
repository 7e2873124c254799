"""Failures: kept in a file, run again, and made small."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.errors import NotDeterministic, ScenarioError
from chaos.failure import Failure, failure_of, read_failure, write_failure
from chaos.faults.clock import Freeze, Skew
from chaos.faults.fault import Fault
from chaos.faults.link import Latency
from chaos.faults.process import Kill9
from chaos.invariants.invariant import Id
from chaos.outcome import fault_outcomes, request_outcomes, signatures
from chaos.replay import replay
from chaos.result import write_result
from chaos.scenario.data import timeline
from chaos.scenario.plan import plan
from chaos.scenario.scenario import FaultEntry, Scenario, Workload
from chaos.scenario.schedule import Schedule
from chaos.shrink import Budget, Shrunk, ddmin, shrink
from tests.chaos.fakes import examine, run_of

NOISE: tuple[Fault, ...] = tuple(Skew(ppm=float(100 + number)) for number in range(9))


def schedule_of(*faults: Fault, seed: int = 1) -> Schedule:
    entries = tuple(
        FaultEntry(fault=fault, at=1.5 * number, for_s=None, target="all", id=f"f{number}")
        for number, fault in enumerate(faults)
    )
    return plan(Scenario(name="x", workload=Workload(requests_per_s=1.0), faults=entries), seed)


def failing(*faults: Fault) -> Failure:
    return failure_of(examine(schedule_of(*(faults or (*NOISE, Latency(delay_ms=137.5))))))


def shrunk_from(failure: Failure, budget: Budget | None = None) -> Shrunk:
    return shrink(failure, examine, now_s=lambda: 0.0, budget=budget)


def test_a_failure_comes_back_from_its_file(tmp_path: Path) -> None:
    scenario = timeline(schedule_of(Latency(delay_ms=137.5)))
    failure = replace(failing(Latency(delay_ms=137.5)), scenario=scenario)
    write_failure(failure, tmp_path / "deep" / "failure.json")
    assert read_failure(tmp_path / "deep") == failure
    assert read_failure(tmp_path / "deep" / "failure.json") == failure
    data = json.loads((tmp_path / "deep" / "failure.json").read_text())
    assert set(data) == {
        *("schema", "seed", "schedule", "invariant", "witness", "trace", "revision", "plant"),
        *("before", "minimal", "scenario"),
    }
    assert data["invariant"] == "OUTPUT"
    assert len(data["before"]) == 5


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_what_is_no_failure_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "failure.json").write_text(text)
    with pytest.raises(ScenarioError, match=r"failure\.json"):
        read_failure(tmp_path)


def test_a_run_without_a_violation_is_no_failure() -> None:
    with pytest.raises(ScenarioError, match="nothing was violated"):
        failure_of(examine(schedule_of(Skew())))


def test_replay_makes_the_same_run_and_fails_again() -> None:
    replayed = replay(failing(), examine)
    assert (replayed.same_trace, replayed.failed, replayed.times) == (True, 1, 1)
    assert replayed.differs is None


def test_replay_of_the_same_code_with_another_trace_is_not_deterministic() -> None:
    failure = replace(failing(), trace="0" * 32)
    with pytest.raises(NotDeterministic, match="not deterministic"):
        replay(failure, examine)
    older = replace(failure, revision=replace(failure.revision, sources="older", commit="abc"))
    replayed = replay(older, examine)
    assert not replayed.same_trace
    assert replayed.differs is not None
    assert replayed.differs.startswith("code differs: abc then")
    python = replace(failure, revision=replace(failure.revision, python="3.0"))
    assert (replay(python, examine).differs or "").startswith("python differs: 3.0 then")


def test_shrinking_leaves_the_one_fault_and_request_that_matter() -> None:
    shrunk = shrunk_from(failing())
    schedule = shrunk.failure.schedule
    assert shrunk.events == 2
    assert shrunk.failure.minimal
    assert shrunk.events_before > 50
    (fault,), (request,) = schedule.faults, schedule.requests
    assert fault.fault == Latency()  # 50 ms, the plainest value
    assert len(fault.links) == 1
    assert fault.at == 0
    assert request.id == "r3"
    assert (request.document, request.document_tokens, request.max_tokens) == (0, 16, 1)
    assert schedule.cluster.nodes == 2
    assert schedule.duration_s < 5
    assert shrunk.failure.invariant is Id.OUTPUT
    assert plan(timeline(schedule)) == schedule


def test_shrinking_keeps_a_bigger_value_where_the_default_does_not_fail() -> None:
    def only_slow(schedule: Schedule, **rest: object) -> object:
        slow = [f for f in schedule.faults if isinstance(f.fault, Latency)]
        enough = slow and slow[0].fault.settings()["delay_ms"] >= 130
        return examine(schedule if enough else replace(schedule, faults=()))

    failure = failing()
    shrunk = shrink(failure, only_slow, now_s=lambda: 0.0)  # type: ignore[arg-type]  # a fake
    (fault,) = shrunk.failure.schedule.faults
    assert fault.fault.settings()["delay_ms"] == 137


def test_shrinking_ends_with_its_budget_and_says_so() -> None:
    shrunk = shrunk_from(failing(), Budget(runs=4))
    assert shrunk.runs == 4
    assert not shrunk.failure.minimal
    times = iter(range(1000))
    late = shrink(failing(), examine, now_s=lambda: 10.0 * next(times), budget=Budget(seconds=100))
    assert late.runs < 12
    assert not late.failure.minimal


def test_shrinking_what_does_not_fail_any_more_says_so() -> None:
    failure = failing()
    mended = replace(failure, schedule=replace(failure.schedule, faults=()))
    with pytest.raises(ScenarioError, match="does not violate OUTPUT any more"):
        shrunk_from(mended)


@given(culprits=st.sets(st.integers(0, 40), max_size=4))
def test_ddmin_finds_exactly_the_culprits(culprits: set[int]) -> None:
    def fails(kept: Sequence[int]) -> bool:
        return culprits <= set(kept)

    assert set(ddmin(list(range(41)), fails)) == culprits


def test_a_result_folder_holds_the_run_as_other_tools_read_it(tmp_path: Path) -> None:
    judged = examine(schedule_of(Latency(delay_ms=30)))
    assert write_result(judged, tmp_path) is not None
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["verdict"], result["exit_code"]) == ("violated", 1)
    assert [each["invariant"] for each in result["findings"]] == ["OUTPUT", "TENANT"]
    assert result["faults"][0]["effects"] == 1
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert len(lines) == len(judged.run.events)
    assert {"at_s", "what", "subject"} <= set(lines[0])
    held = examine(schedule_of(Skew()))
    assert write_result(held, tmp_path) is None
    assert not (tmp_path / "failure.json").exists()


def test_outcomes_count_faults_requests_and_the_states_that_faults_met() -> None:
    schedule = schedule_of(Skew(), Kill9(), Freeze())
    run = run_of(schedule)
    assert [(o.applied, o.effects, o.undone) for o in fault_outcomes(run)] == [(True, 1, True)] * 3
    counts = request_outcomes(run)
    assert counts["ok"] == len(schedule.requests)
    assert counts["open"] == 0
    assert signatures(run) == (
        "freeze|up|clock+process|idle",
        "kill9|up|clock|idle",
        "skew|up|calm|idle",
    )
