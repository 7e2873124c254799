"""A short live run: three real processes, and a fault of each kind of means."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from chaos.errors import ChaosError, ScenarioError
from chaos.faults import disk, link, metadata, process, security, topology, worker
from chaos.faults.fault import Fault, Mode
from chaos.history import Event, What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Id, Status
from chaos.modes.live.heal import processes_of
from chaos.modes.live.runner import run_live
from chaos.modes.live.tag import PREFIX
from chaos.outcome import fault_outcomes
from chaos.plants.catalogue import PLANTS
from chaos.run import marks
from chaos.scenario.scenario import Cluster, Expect, Limits, Workload
from chaos.scenario.schedule import PlannedFault, Schedule
from chaos.scenario.workload import plan_requests
from chaos.verdict import Verdict, judge

pytestmark = pytest.mark.processes

STORM_S = 12.0
RATIO_MAX = 20.0
"""Times are not what this looks at, and other tests may run beside it."""


def planned(fault: Fault, at_s: float, for_s: float, *nodes: str) -> PlannedFault:
    return PlannedFault(id=fault.kind, fault=fault, at=at_s, for_s=for_s, nodes=nodes)


FAULTS = (
    planned(disk.Full(), 0.5, 11, "n1"),
    planned(metadata.StaleDigest(), 0.5, 6, "n3"),
    planned(security.GarbageBytes(connections_per_s=5), 0.5, 4, "n3"),
    planned(process.Kill9(), 2, 2, "n2"),
    planned(worker.EngineCrash(), 5, 0, "n1"),
    PlannedFault(
        id="latency",
        fault=link.Latency(delay_ms=20),
        at=0.5,
        for_s=3,
        nodes=("n1", "n3"),
        links=(("n1", "n3"), ("n3", "n1")),
    ),
    PlannedFault(
        id="one_way",
        fault=topology.OneWay(),
        at=8,
        for_s=3,
        nodes=("n1", "n3"),
        links=(("n1", "n3"),),
    ),
    planned(process.StopCont(), 8, 2, "n2"),
)


def schedule(*, cluster: Cluster | None = None, faults: tuple[PlannedFault, ...] = ()) -> Schedule:
    cluster = cluster or Cluster(nodes=3)
    work = Workload(requests_per_s=3, documents=3, document_tokens=128, max_tokens=8)
    return Schedule(
        name="slice",
        mode=Mode.LIVE,
        seed=1,
        cluster=cluster,
        limits=Limits(ttft_ratio_p99_max=RATIO_MAX),
        expect=Expect(marks=("remote_hit", "converged")),
        warm_up_s=4,
        duration_s=STORM_S,
        settle_s=45,
        core=(),
        requests=plan_requests(work, cluster, seed=1, duration_s=STORM_S),
        faults=faults,
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def left_of(folder: Path) -> list[object]:
    """Processes of runs of this test process, and folders of any in its own place."""
    mine = [pid for pid, run in processes_of() if run.startswith(f"{os.getpid()}-")]
    return [*mine, *folder.glob(f"{PREFIX}*")]


async def test_promises_are_kept_by_real_processes(temporary: Path) -> None:
    run = await run_live(schedule(faults=FAULTS))
    judged = judge(run, check_all(run))
    broken = [found for found in judged.findings if found.status is Status.VIOLATED]
    assert not broken, (broken, run.notes)
    assert judged.verdict is Verdict.VALID, judged.missing_marks
    assert {found.invariant for found in judged.findings if found.status is Status.HELD} >= {
        Id.OUTPUT,
        Id.MONOTONE,
        Id.TENANT,
        Id.CONVERGE,
        Id.ACCOUNT,
        Id.AVAILABLE,
        Id.LIVE,
        Id.CLEAN,
    }
    for outcome in fault_outcomes(run):
        assert outcome.applied, outcome
        assert outcome.effects, outcome
        assert outcome.undone, outcome
    assert "ingress_lost" in marks(run)
    assert not left_of(temporary)


async def test_an_error_of_the_harness_ends_all_and_is_told(temporary: Path) -> None:
    seen: list[int] = []

    def on_event(event: Event) -> None:
        if event.what is What.NODE_UP:
            seen.extend(pid for pid, _ in processes_of())
            raise ChaosError("told to fail")

    with pytest.raises(ExceptionGroup) as caught:
        await run_live(schedule(cluster=Cluster(nodes=2)), on_event=on_event)
    assert caught.group_contains(ChaosError, match="told to fail")
    assert seen
    assert not left_of(temporary)


async def test_a_cluster_that_does_not_come_up_says_why(temporary: Path) -> None:
    cluster = Cluster(nodes=1, engine="embedded", model=str(temporary / "no-such-model"))
    with pytest.raises(ExceptionGroup) as caught:
        await run_live(schedule(cluster=cluster))
    assert caught.group_contains(ChaosError, match="the cluster did not come up: n1")
    assert not left_of(temporary)


async def test_a_planted_bug_of_a_peer_is_refused() -> None:
    with pytest.raises(ScenarioError, match="needs mode node"):
        await run_live(schedule(), plant=PLANTS["wrong-token-after-hit"])
