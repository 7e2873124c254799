"""Sweeps over child processes, whose runs follow a rule of ``tests.chaos.fakes``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chaos.errors import ScenarioError
from chaos.failure import read_failure
from chaos.faults.clock import Freeze, Skew
from chaos.faults.fault import Family, Fault
from chaos.faults.link import Latency
from chaos.faults.process import Crash, Kill9
from chaos.invariants.invariant import Id
from chaos.pool import Pool, fresh
from chaos.scenario.plan import plan
from chaos.scenario.scenario import FaultEntry, Scenario, Swarm, Systematic, Workload
from chaos.sweep import Plan, Swept, corpus_of, seeds_of, sweep
from chaos.tried import BROKEN, Tried
from chaos.worker import Job, Task

EXAMINE = "tests.chaos.fakes:examine"


def scenario_of(*faults: Fault) -> Scenario:
    entries = tuple(FaultEntry(fault=fault, at=1.0, target="all") for fault in faults)
    return Scenario(name="x", workload=Workload(requests_per_s=0.5), faults=entries)


def plan_of(scenario: Scenario, seeds: int, out: Path | None = None) -> Plan:
    return Plan(
        scenario=scenario,
        seeds=range(seeds),
        examine=EXAMINE,
        out=out,
        twice_every=0,
        limit_s=30,
    )


async def test_a_sweep_tries_every_seed_once_and_sums_up(tmp_path: Path) -> None:
    told: list[str] = []
    what = plan_of(scenario_of(Skew()), 6, tmp_path)
    swept = await sweep(what, lambda _, tried: told.append(tried.name))
    cover = swept.coverage
    assert sorted(told) == [f"seed-{seed}" for seed in range(6)]
    assert (cover.tries, cover.verdicts["valid"], swept.exit_code) == (6, 6, 0)
    assert cover.cluster_hours == 6
    assert cover.deliveries == 600
    assert cover.faults["skew"].had_effect == 6
    assert cover.invariants[Id.OUTPUT].held == 6
    assert cover.invariants[Id.TENANT].exercised_share == 0
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert data["whole"] is True
    assert data["coverage"]["cluster_hours"] == 6
    assert len((tmp_path / "tries.jsonl").read_text().splitlines()) == 6


async def test_a_failing_seed_is_kept_so_that_it_can_be_replayed(tmp_path: Path) -> None:
    swept = await sweep(plan_of(scenario_of(Latency(delay_ms=40)), 2, tmp_path))
    assert swept.exit_code == 1
    assert sorted(tried.name for tried in swept.failed) == ["seed-0", "seed-1"]
    failure = read_failure(tmp_path / "seed-1")
    assert failure.invariant is Id.OUTPUT
    assert failure.schedule == plan(scenario_of(Latency(delay_ms=40)), 1)
    assert failure.scenario == scenario_of(Latency(delay_ms=40))


async def test_new_states_are_kept_as_a_corpus_that_a_later_sweep_begins_with(
    tmp_path: Path,
) -> None:
    scenario = Scenario(
        name="x",
        workload=Workload(requests_per_s=0.5),
        swarm=Swarm(families=(Family.CLOCK,), include_probability=0.9, draw_cluster=False),
    )
    first = replace(plan_of(scenario, 8, tmp_path), jobs=1)
    swept = await sweep(first)
    corpus = corpus_of(tmp_path / "corpus")
    assert 1 <= len(corpus) < 8
    again = await sweep(replace(first, schedules=corpus, seeds=range(0), out=None))
    assert again.coverage.signatures == swept.coverage.signatures
    with pytest.raises(ScenarioError, match="holds no schedule"):
        corpus_of(tmp_path / "none")


async def test_a_harness_that_breaks_on_a_seed_goes_on_with_the_next() -> None:
    swept = await sweep(plan_of(scenario_of(Kill9()), 3))
    assert [tried.verdict for tried in swept.failed] == [BROKEN] * 3
    assert "BrokenHarness: as it was asked to" in swept.failed[0].error
    assert swept.exit_code == 70


async def test_a_process_that_dies_is_replaced() -> None:
    swept = await sweep(plan_of(scenario_of(Crash()), 3))
    assert len(swept.failed) == 3
    assert all("ended with 9" in tried.error for tried in swept.failed)


async def test_a_seed_that_takes_too_long_is_given_up() -> None:
    what = replace(plan_of(scenario_of(Skew()), 1), limit_s=0.001)
    swept = await sweep(what)
    assert swept.failed[0].error == "it took longer than 0.001 s"


async def test_a_sample_runs_again_in_a_fresh_process_and_must_make_the_same_trace() -> None:
    what = replace(plan_of(scenario_of(Skew()), 4), twice_every=2)
    swept = await sweep(what)
    assert (swept.coverage.run_twice, swept.exit_code) == (2, 0)
    swept = await sweep(replace(what, scenario=scenario_of(Freeze())))
    assert swept.coverage.not_deterministic == 2
    assert swept.exit_code == 3


async def test_fresh_processes_have_hash_seeds_of_their_own() -> None:
    job = Job(name="x", schedule=plan(scenario_of(Skew()), 1))
    tries = await fresh(Task(examine=EXAMINE), job, limit_s=30)
    assert len({tried.trace for tried in tries}) == 1
    job = Job(name="x", schedule=plan(scenario_of(Freeze()), 1))
    tries = await fresh(Task(examine=EXAMINE), job, limit_s=30)
    assert len({tried.trace for tried in tries}) == 2


def children() -> set[str]:
    """Child processes of this one, the ended ones that nobody waited for among them."""
    found = Path("/proc/self/task").glob("*/children")
    return {pid for each in found for pid in each.read_text().split()}


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="child processes are read in /proc"
)
async def test_a_cancelled_sweep_leaves_no_process_and_says_what_was_done(tmp_path: Path) -> None:
    before = children()
    what = plan_of(scenario_of(Skew()), 100_000, tmp_path)
    seen: list[Tried] = []
    started: set[str] = set()
    with trio.CancelScope() as scope:

        def stop(_: Swept, tried: Tried) -> None:
            seen.append(tried)
            if len(seen) == 3:
                started.update(children() - before)
                scope.cancel()

        await sweep(what, stop)
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert (data["whole"], data["coverage"]["tries"]) == (False, len(seen))
    assert started
    assert not children() - before


async def test_a_pool_takes_schedules_as_well_as_seeds() -> None:
    schedules = [plan(scenario_of(Latency(delay_ms=float(ms))), 1) for ms in (5, 40)]
    jobs = iter([Job(name=f"s{n}", schedule=each) for n, each in enumerate(schedules)])
    found: dict[str, Tried] = {}
    pool = Pool(task=Task(examine=EXAMINE), count=2, limit_s=30)
    await pool.run(jobs, lambda tried: found.update({tried.name: tried}))
    assert {name: tried.verdict for name, tried in found.items()} == {
        "s0": "valid",
        "s1": "violated",
    }


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:5", range(5)), ("7", range(7, 8)), ("3:4", range(3, 4))]
)
def test_seeds_are_written_as_a_range_or_one(text: str, seeds: range) -> None:
    assert seeds_of(text, scenario_of()) == seeds


@pytest.mark.parametrize("text", ["", "5:5", "5:2", "-1:3", "a:b", "all", "1:2:3"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="seeds are written 0:500"):
        seeds_of(text, scenario_of())


def test_seeds_of_an_enumeration_end_with_it() -> None:
    scenario = replace(scenario_of(), systematic=Systematic(kinds=("freeze",)))
    assert seeds_of("all", scenario) == range(15)
    with pytest.raises(ScenarioError, match="has 15 schedules"):
        seeds_of("0:16", scenario)
