"""Random faults on top of a scenario, and random settings below it (swarm testing).

Every family is on with probability 1/2, and so is each of its faults, so that runs differ in what
they leave out: a fault that hides another's effect is absent half of the time. A run is kind or
hostile. In a kind one, faults that hurt nodes keep to a fixed minority, so that a majority can
work, and sometimes only that majority is healed. A hostile one may hit everybody at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

from chaos.entropy import stream_seed
from chaos.faults.catalogue import FAULTS
from chaos.faults.fault import Aim, Fault, Mode
from chaos.invariants.invariant import Id
from chaos.scenario.scenario import Cluster, Expect, FaultEntry, Scenario, Swarm, Workload
from chaos.scenario.schedule import PlannedFault
from chaos.scenario.selectors import Link, every_link, planned
from overlay.routing import POLICIES

HOSTILE_FRACTION = 0.3
REMOTE_FRACTION = 0.3
"""Share of the clusters in which some nodes have a remote server."""
UNTIL_HEAL_FRACTION = 0.15
CORE_FRACTION = 0.4
"""Share of the kind runs in which only the majority is healed."""
FAULT_MIN_S = 1.0
LOAD_MAX = 0.35
"""Requests keep the engines busy for at most so much of the time, were nothing cached."""
CONTEXT_SPARE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Weather:
    """What one seed's faults keep to: who may be hurt, and whom healing makes whole."""

    hostile: bool
    victims: tuple[str, ...]
    core: tuple[str, ...]


def weather(scenario: Scenario, seed: int) -> Weather:
    """How hostile a seed is, and to whom."""
    names = scenario.cluster.names
    rng = Random(stream_seed(seed, "swarm", "weather"))
    hostile = rng.random() < HOSTILE_FRACTION
    size = (len(names) - 1) // 2
    drawn = set(rng.sample(names, rng.randint(1, size) if size else 0))
    partial = rng.random() < CORE_FRACTION
    if hostile or not drawn:
        return Weather(True, names, scenario.core)
    victims = tuple(name for name in names if name in drawn)
    rest = tuple(name for name in names if name not in drawn)
    return Weather(False, victims, scenario.core or (rest if partial else ()))


def draw_faults(scenario: Scenario, seed: int, around: Weather) -> tuple[PlannedFault, ...]:
    """The faults of a seed, in the catalogue's order; each from streams of its own kind."""
    swarm = scenario.swarm or Swarm()
    found: list[tuple[float, int, PlannedFault]] = []
    families = [
        family
        for family in swarm.families
        if Random(stream_seed(seed, "swarm-family", family.value)).random()
        < swarm.include_probability
    ]
    for number, kind in enumerate(FAULTS):
        possible = kind.works_in(scenario.mode, scenario.cluster.network)
        if kind.needs_remote:
            possible = bool(set(around.victims) & set(scenario.cluster.remote))
        if kind.family not in families or not possible:
            continue
        rng = Random(stream_seed(seed, "swarm-fault", kind.kind))
        if rng.random() >= swarm.include_probability:
            continue
        rank = rng.random()
        found.append((rank, number, _draw(kind, scenario, rng, around)))
    kept = sorted(found, key=lambda each: each[0])[: swarm.faults_max]
    return tuple(fault for _, _, fault in sorted(kept, key=lambda each: each[1]))


def _draw(kind: type[Fault], scenario: Scenario, rng: Random, around: Weather) -> PlannedFault:
    fault = kind.drawn(rng)
    at_s = round(rng.uniform(0.0, 0.8 * scenario.duration_s), 2)
    longest = max(FAULT_MIN_S, scenario.duration_s / 2)
    for_s = round(math.exp(rng.uniform(math.log(FAULT_MIN_S), math.log(longest))), 2)
    until_heal = rng.random() < UNTIL_HEAL_FRACTION
    entry = FaultEntry(fault=fault, at=at_s, for_s=None if until_heal else for_s)
    names = scenario.cluster.names
    fault_id = f"swarm-{kind.kind}"
    if kind.aim is Aim.LINKS:
        return planned(entry, fault_id, names=names, links=_links(names, rng))
    if kind.aim is Aim.GROUPS:
        return planned(entry, fault_id, names=names, groups=_groups(names, rng, around))
    victims = around.victims
    if kind.needs_remote:
        victims = tuple(name for name in victims if name in scenario.cluster.remote)
    size = 1 if rng.random() < 0.6 else rng.randint(1, len(victims))
    return planned(entry, fault_id, names=names, nodes=rng.sample(victims, size))


def _links(names: tuple[str, ...], rng: Random) -> tuple[Link, ...]:
    """One link one way, one both ways, those of one node, or all."""
    links = every_link(names)
    form = rng.choice(("one", "both", "node", "out", "all"))
    a, b = rng.choice(links)
    if form == "one":
        return ((a, b),)
    if form == "both":
        return ((a, b), (b, a))
    if form == "node":
        return tuple(link for link in links if a in link)
    if form == "out":
        return tuple(link for link in links if link[0] == a)
    return links


def _groups(names: tuple[str, ...], rng: Random, around: Weather) -> tuple[tuple[str, ...], ...]:
    """Two halves, three parts in a hostile run, or the victims against the others."""
    if not around.hostile:
        others = tuple(name for name in names if name not in around.victims)
        return around.victims, others
    parts = 3 if len(names) >= 3 and rng.random() < 0.3 else 2
    mixed = rng.sample(names, len(names))
    made = [set(mixed[number::parts]) for number in range(parts)]
    return tuple(tuple(name for name in names if name in group) for group in made)


def draw_settings(scenario: Scenario, seed: int) -> Scenario:
    """The scenario with cluster and workload drawn around what it says.

    Nodes and tenants that anything refers to by name stay. Requests stay few enough for the
    engines to follow, as a cluster that drowns in honest work shows nothing.
    """
    rng = Random(stream_seed(seed, "swarm", "settings"))
    cluster = _cluster(scenario, rng)
    if scenario.mode is Mode.NODE and not cluster.remote:
        cluster = _servers(cluster, Random(stream_seed(seed, "swarm", "remote")))
    work = _workload(scenario.workload, cluster, rng)
    need = work.document_tokens + 2 * work.question_tokens + work.max_tokens
    blocks = max(cluster.cache_blocks, 4 * math.ceil((need + CONTEXT_SPARE_TOKENS) / 16))
    return replace(
        scenario,
        cluster=replace(cluster, cache_blocks=blocks),
        workload=work,
        expect=_expected(scenario, cluster.policy),
    )


def _expected(scenario: Scenario, policy: str) -> Expect:
    """What holds under a policy: one that does not weigh times promises none (NO-WORSE)."""
    expect = scenario.expect
    if policy == scenario.cluster.policy:
        return expect
    kept = tuple(each for each in expect.invariants if each is not Id.NO_WORSE)
    return replace(expect, invariants=kept)


def _cluster(scenario: Scenario, rng: Random) -> Cluster:
    base = scenario.cluster
    named = scenario.faults or scenario.core or scenario.requests or base.outside or base.late
    drawn_nodes = max(3, base.nodes + rng.choice((-2, -1, 0, 0, 1, 2)))
    nodes = base.nodes if named or base.slow else drawn_nodes
    drawn_tenants = tuple("abc"[: rng.choice((1, 2, 2, 3))])
    tenants = base.tenants if named else drawn_tenants
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    some, other, third = (rng.choice(names) for _ in range(3))
    outside: dict[str, tuple[str, ...]] = {}
    if len(tenants) > 1 and rng.random() < 0.3:
        outside[some] = (rng.choice(tenants),)
    slow = {other: round(rng.uniform(2.0, 6.0), 1)} if rng.random() < 0.3 else {}
    late_s = round(rng.uniform(0.0, 0.5 * scenario.duration_s), 1)
    late = {third: late_s} if rng.random() < 0.2 else {}
    return replace(
        base,
        nodes=nodes,
        tenants=tenants,
        slots=rng.choice((1, 2, 4, 8)),
        cache_blocks=rng.choice((128, 256, 512, 1024, 2048, 4096)),
        prefill_tokens_per_s=_log(rng, 2000, 20_000),
        decode_ms_per_token=_log(rng, 2, 30),
        delay_ms=_log(rng, 0.05, 20),
        policy=base.policy if rng.random() < 0.7 else rng.choice(POLICIES).name,
        outside=base.outside or outside,
        slow=base.slow or slow,
        late=base.late or late,
    )


def _servers(cluster: Cluster, rng: Random) -> Cluster:
    """Some clusters have remote servers beside some of their nodes; from a stream of their own."""
    if rng.random() >= REMOTE_FRACTION:
        return cluster
    drawn = set(rng.sample(cluster.names, rng.randint(1, (len(cluster.names) + 1) // 2)))
    return replace(
        cluster,
        remote=tuple(name for name in cluster.names if name in drawn),
        remote_salts=rng.random() < 0.7,
        remote_tells_ids=rng.random() < 0.5,
        remote_exact=rng.random() < 0.7,
    )


def _workload(base: Workload, cluster: Cluster, rng: Random) -> Workload:
    rate = base.requests_per_s * _log(rng, 0.4, 2.0)
    document = int(base.document_tokens * _log(rng, 0.25, 2.0))
    document = max(1, min(document, cluster.context_tokens // 2))
    work = replace(
        base,
        documents=rng.choice((1, 2, 4, 8, 16)),
        document_tokens=document,
        max_tokens=max(1, int(base.max_tokens * _log(rng, 0.25, 3.0))),
        cancel_fraction=rng.choice((0.0, 0.0, 0.05, 0.2)),
        hot_fraction=rng.choice((0.0, 0.0, 0.5, 0.9)),
    )
    prefill_s = (document + work.question_tokens) / cluster.prefill_tokens_per_s
    decode_s = work.max_tokens * cluster.decode_ms_per_token / 1000 / cluster.slots
    most = LOAD_MAX * cluster.nodes / (prefill_s + decode_s)
    return replace(work, requests_per_s=round(min(rate, most), 2))


def _log(rng: Random, low: float, high: float) -> float:
    """Log-uniform, to three digits."""
    return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
