"""Short live runs: real processes on loopback and in namespaces, faults of each kind of means."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from chaos.errors import ChaosError, ScenarioError, Unsupported
from chaos.faults import disk, link, metadata, process, security, topology, worker
from chaos.faults.fault import Fault, Mode, Network
from chaos.history import Event, What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Id, Status
from chaos.modes.live import namespace
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
from tests.chaos.live.namespaces import needs_namespaces

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


BOTH_WAYS = (("n1", "n2"), ("n2", "n1"))


def on_packets(fault: Fault, at_s: float, for_s: float) -> PlannedFault:
    return PlannedFault(
        id=fault.kind, fault=fault, at=at_s, for_s=for_s, nodes=("n1", "n2"), links=BOTH_WAYS
    )


PACKET_FAULTS = (
    on_packets(link.Loss(fraction=0.2), 0.2, 1.6),
    on_packets(link.Duplicate(fraction=0.5), 0.2, 1.6),
    on_packets(link.Reorder(fraction=0.3, gap_ms=20), 0.2, 1.6),
    on_packets(link.Corrupt(fraction=0.2), 0.2, 1.6),
    on_packets(link.Reset(), 2, 0),
    on_packets(topology.OneWay(), 2.4, 0.8),
    on_packets(link.Slice(), 1, 1),
)


def schedule(
    *,
    cluster: Cluster | None = None,
    faults: tuple[PlannedFault, ...] = (),
    storm_s: float = STORM_S,
    seen: tuple[str, ...] = ("remote_hit", "converged"),
) -> Schedule:
    cluster = cluster or Cluster(nodes=3)
    work = Workload(requests_per_s=3, documents=3, document_tokens=128, max_tokens=8)
    return Schedule(
        name="slice",
        mode=Mode.LIVE,
        seed=1,
        cluster=cluster,
        limits=Limits(ttft_ratio_p99_max=RATIO_MAX),
        expect=Expect(marks=seen),
        warm_up_s=storm_s / 3,
        duration_s=storm_s,
        settle_s=45,
        core=(),
        requests=plan_requests(work, cluster, seed=1, duration_s=storm_s),
        faults=faults,
    )


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


@needs_namespaces
async def test_promises_are_kept_over_a_network_that_loses_packets(temporary: Path) -> None:
    here = socket.if_nameindex()
    cluster = Cluster(nodes=2, network=Network.NAMESPACES)
    # That they converge says that they have found each other: by multicast, there is no other way.
    run = await run_live(
        schedule(cluster=cluster, faults=PACKET_FAULTS, storm_s=3.5, seen=("converged",))
    )
    judged = judge(run, check_all(run))
    broken = [found for found in judged.findings if found.status is Status.VIOLATED]
    assert not broken, (broken, run.notes)
    assert judged.verdict is Verdict.VALID, judged.missing_marks
    outcomes = {outcome.fault.kind: outcome for outcome in fault_outcomes(run)}
    assert outcomes.pop("slice").unsupported
    for outcome in outcomes.values():
        assert outcome.effects, outcome
        assert outcome.undone, outcome
    assert not left_of(temporary)
    assert socket.if_nameindex() == here


async def test_a_machine_without_namespaces_is_told_so_before_anything_is_made(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "TUN", temporary / "tun")
    cluster = Cluster(nodes=2, network=Network.NAMESPACES)
    with pytest.raises(Unsupported, match="is not to be had here: there is no"):
        await run_live(schedule(cluster=cluster))
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
