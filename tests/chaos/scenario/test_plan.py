"""Plans: the same seed gives the same schedule, and leaving a part out re-deals nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from chaos.errors import ScenarioError
from chaos.faults.catalogue import FAULTS
from chaos.faults.fault import Family, Mode
from chaos.faults.link import Latency
from chaos.faults.process import Kill9
from chaos.scenario import systematic
from chaos.scenario.data import schedule_json
from chaos.scenario.plan import plan
from chaos.scenario.scenario import (
    Cluster,
    FaultEntry,
    Landmark,
    Scenario,
    Swarm,
    Systematic,
    Workload,
)
from chaos.scenario.selectors import members
from chaos.scenario.systematic import LANDMARKS

SWARM = Scenario(name="swarm", swarm=Swarm())


def test_a_seed_is_a_schedule() -> None:
    assert schedule_json(plan(SWARM, 7)) == schedule_json(plan(SWARM, 7))
    assert len({schedule_json(plan(SWARM, seed)) for seed in range(20)}) == 20
    with pytest.raises(ScenarioError, match="0 or more"):
        plan(SWARM, -1)


def test_leaving_a_fault_out_re_deals_nothing() -> None:
    faults = tuple(
        FaultEntry(fault=fault, at=float(number), target="one", id=f"f{number}")
        for number, fault in enumerate((Kill9(), Latency(), Kill9(), Latency()))
    )
    whole = plan(Scenario(name="x", faults=faults), 3)
    for left_out in range(len(faults)):
        rest = faults[:left_out] + faults[left_out + 1 :]
        part = plan(Scenario(name="x", faults=rest), 3)
        assert part.requests == whole.requests
        assert set(part.faults) == set(whole.faults) - {whole.faults[left_out]}


def test_one_family_less_changes_no_other_fault_of_a_swarm() -> None:
    fixed = Swarm(draw_cluster=False, faults_max=100, include_probability=1.0)
    fewer = replace(fixed, families=tuple(f for f in Family if f is not Family.LINK))
    cluster = Cluster(nodes=3, remote=("n1", "n2", "n3"))
    whole = plan(Scenario(name="x", cluster=cluster, swarm=fixed), 5).faults
    part = plan(Scenario(name="x", cluster=cluster, swarm=fewer), 5).faults
    assert len(whole) == sum(Mode.NODE in kind.modes for kind in FAULTS)
    assert part == tuple(f for f in whole if f.fault.family is not Family.LINK)


def test_requests_arrive_at_their_rate_and_enter_at_members() -> None:
    cluster = Cluster(outside={"n2": ("a",)}, late={"n3": 20.0})
    work = Workload(requests_per_s=5.0, cancel_fraction=0.2, hot_fraction=0.5)
    requests = plan(Scenario(name="x", cluster=cluster, workload=work, duration_s=200)).requests
    assert 850 < len(requests) < 1150
    assert [r.at_s for r in requests] == sorted(r.at_s for r in requests)
    assert all(r.ingress in members(r.tenant, cluster) for r in requests)
    assert all(r.at_s >= 23.0 for r in requests if r.ingress == "n3")
    cancelled = sum(r.cancel_after_s is not None for r in requests)
    assert 0.12 < cancelled / len(requests) < 0.28
    assert Counter(r.document for r in requests).most_common(1)[0][0] == 0


def test_each_family_is_in_half_of_a_swarms_seeds_and_each_fault_in_some() -> None:
    families: Counter[Family] = Counter()
    kinds: Counter[str] = Counter()
    seeds = 300
    few = Workload(requests_per_s=0.1)
    scenario = replace(SWARM, swarm=Swarm(faults_max=100), workload=few)
    for seed in range(seeds):
        faults = plan(scenario, seed).faults
        families.update({fault.fault.family for fault in faults})
        kinds.update(fault.fault.kind for fault in faults)
    for family in Family:
        assert 0.3 < families[family] / seeds < 0.7, family
    for kind in FAULTS:
        least = seeds / (30 if kind.needs_remote else 8)
        assert kinds[kind.kind] > least, kind.kind


def test_a_kind_seed_hurts_a_minority_and_a_hostile_one_may_hurt_all() -> None:
    sizes: set[int] = set()
    cores = 0
    for seed in range(120):
        schedule = plan(SWARM, seed)
        names = schedule.cluster.names
        hurt = {
            name
            for fault in schedule.faults
            if fault.fault.family in {Family.PROCESS, Family.DISK, Family.WORKER}
            for name in fault.nodes
        }
        sizes.add(len(hurt) * 2 // len(names))
        if schedule.core:
            cores += 1
            assert len(schedule.core) > len(names) / 2
            assert not hurt & set(schedule.core)
    assert sizes >= {0, 2}
    assert 10 < cores < 80


def test_core_mode_gets_only_what_it_can_do() -> None:
    for seed in range(30):
        schedule = plan(SWARM, seed, mode=Mode.CORE)
        assert schedule.mode is Mode.CORE
        assert all(Mode.CORE in fault.fault.modes for fault in schedule.faults)


def test_the_enumeration_of_singles_has_every_fault_at_every_place_once() -> None:
    scenario = Scenario(
        name="x",
        cluster=Cluster(nodes=3, remote=("n1", "n2", "n3")),
        workload=Workload(requests_per_s=0.1),
        systematic=Systematic(depth=1),
    )
    total = systematic.count(scenario)
    seen = {plan(scenario, index).faults for index in range(total)}
    assert len(seen) == total
    assert {faults[0].fault.kind for faults in seen} == {
        kind.kind for kind in FAULTS if Mode.NODE in kind.modes
    }
    assert len({plan(scenario, index).requests for index in range(5)}) == 1
    with pytest.raises(ScenarioError, match=f"take a seed from 0 to {total - 1}, not {total}"):
        plan(scenario, total)


def test_the_enumeration_of_pairs_has_both_orders_and_no_shared_moment() -> None:
    grid = Systematic(depth=2, kinds=("kill9", "latency"), landmarks=LANDMARKS[:2])
    scenario = Scenario(name="x", cluster=Cluster(nodes=3), systematic=grid)
    total = systematic.count(scenario)
    assert total == (2 * 2) ** 2 * 2
    pairs = [plan(scenario, index).faults for index in range(total)]
    assert len(set(pairs)) == total
    orders = {(first.fault.kind, second.fault.kind) for first, second in pairs}
    assert orders == {(a, b) for a in grid.kinds for b in grid.kinds}
    assert all(first.at != second.at for first, second in pairs)
    assert all(isinstance(fault.at, Landmark) for pair in pairs for fault in pair)
