"""All single faults, or all ordered pairs of faults, at landmarks; the seed is the index.

Most bugs need few nodes and few faults in the right order, so small cases are enumerated instead of
sampled. Times are landmarks of the workload, as the clock says little about what a peer is doing.
A single fault is tried at every place of the cluster (each node, each direction of a link, each
node parted from the others). In a pair the first fault is at the first place and the second at the
same place or the next one; where both wait for one landmark, the second waits for its next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chaos.errors import ScenarioError
from chaos.faults.catalogue import FAULTS, fault_named
from chaos.faults.fault import Aim, Fault
from chaos.scenario.scenario import Cluster, FaultEntry, Landmark, Scenario, Systematic
from chaos.scenario.schedule import PlannedFault
from chaos.scenario.selectors import every_link, planned

LANDMARKS = (
    Landmark("answered", None, 3),
    Landmark("forwarded", None, 2),
    Landmark("digest_published", None, 4),
)
PAIR_PLACES = 2


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a fault is put: one of the three, by its aim."""

    nodes: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()


def count(scenario: Scenario) -> int:
    """How many schedules the enumeration has: seeds are 0 to one less. 0 without one."""
    grid = scenario.systematic
    if grid is None:
        return 0
    kinds, marks = _kinds(grid, scenario), len(_landmarks(grid))
    if grid.depth == 1:
        return marks * sum(len(_places(kind, scenario.cluster)) for kind in kinds)
    return (len(kinds) * marks) ** 2 * PAIR_PLACES


def faults_at(scenario: Scenario, index: int) -> tuple[PlannedFault, ...]:
    """The faults of one index. Raises ``ScenarioError`` outside the enumeration."""
    grid = scenario.systematic
    assert grid is not None
    total = count(scenario)
    if not 0 <= index < total:
        raise ScenarioError(
            f"{scenario.name} has {total} schedules: take a seed from 0 to {total - 1}, not {index}"
        )
    if grid.depth == 1:
        return (_single(grid, scenario, index),)
    return _pair(grid, scenario, index)


def _single(grid: Systematic, scenario: Scenario, index: int) -> PlannedFault:
    names, marks = scenario.cluster.names, _landmarks(grid)
    for kind in _kinds(grid, scenario):
        places = _places(kind, scenario.cluster)
        size = len(places) * len(marks)
        if index < size:
            mark = marks[index // len(places)]
            return _planned(kind, "first", mark, places[index % len(places)], grid, names)
        index -= size
    raise AssertionError(index)


def _pair(grid: Systematic, scenario: Scenario, index: int) -> tuple[PlannedFault, PlannedFault]:
    names = scenario.cluster.names
    kinds, marks = _kinds(grid, scenario), _landmarks(grid)
    index, place = divmod(index, PAIR_PLACES)
    index, second_mark = divmod(index, len(marks))
    index, first_mark = divmod(index, len(marks))
    first_kind, second_kind = divmod(index, len(kinds))
    first, second = kinds[first_kind], kinds[second_kind]
    then = marks[second_mark]
    if first_mark == second_mark:
        then = replace(then, count=then.count + 1)
    beside = _places(second, scenario.cluster)
    return (
        _planned(
            first, "first", marks[first_mark], _places(first, scenario.cluster)[0], grid, names
        ),
        _planned(second, "second", then, beside[place % len(beside)], grid, names),
    )


def _planned(
    kind: type[Fault],
    order: str,
    at: Landmark,
    place: _Place,
    grid: Systematic,
    names: Sequence[str],
) -> PlannedFault:
    entry = FaultEntry(fault=kind(), at=at, for_s=grid.for_s)
    return planned(
        entry,
        f"{order}-{kind.kind}",
        names=names,
        nodes=place.nodes,
        links=place.links,
        groups=place.groups,
    )


def _places(kind: type[Fault], cluster: Cluster) -> list[_Place]:
    names = cluster.names
    if kind.needs_remote:
        return [_Place(nodes=(name,)) for name in cluster.remote]
    if kind.aim is Aim.LINKS:
        return [_Place(links=(link,)) for link in every_link(names)]
    if kind.aim is Aim.GROUPS:
        rest = [tuple(other for other in names if other != name) for name in names]
        return [_Place(groups=((name,), rest[i])) for i, name in enumerate(names)]
    return [_Place(nodes=(name,)) for name in names]


def _kinds(grid: Systematic, scenario: Scenario) -> list[type[Fault]]:
    kinds = [fault_named(kind) for kind in grid.kinds] or list(FAULTS)
    cluster = scenario.cluster
    return [
        kind
        for kind in kinds
        if kind.works_in(scenario.mode, cluster.network)
        and (cluster.remote or not kind.needs_remote)
    ]


def _landmarks(grid: Systematic) -> tuple[Landmark, ...]:
    return grid.landmarks or LANDMARKS
