"""Selectors: what each means on five nodes, and what is said of one that means nothing."""

from __future__ import annotations

import pytest

from chaos.errors import ScenarioError
from chaos.faults.link import Latency
from chaos.faults.process import Kill9
from chaos.faults.topology import Partition
from chaos.scenario.scenario import Cluster, FaultEntry
from chaos.scenario.schedule import PlannedFault
from chaos.scenario.selectors import Ground, every_link, resolve

CLUSTER = Cluster(nodes=5, outside={"n4": ("b",)}, remote=("n1", "n5"))
GROUND = Ground(cluster=CLUSTER, core=("n1", "n2", "n3"), ingresses=("n2", "n5"))
NAMES = CLUSTER.names


def kill(target: str, seed: int = 1) -> tuple[str, ...]:
    entry = FaultEntry(fault=Kill9(), at=1.0, target=target)
    return resolve(entry, "f", GROUND, seed).nodes


def slow(target: str | None = None, links: tuple[str, ...] = (), seed: int = 1) -> PlannedFault:
    entry = FaultEntry(fault=Latency(), at=1.0, target=target, links=links)
    return resolve(entry, "f", GROUND, seed)


def part(target: str | None = None, groups: tuple[tuple[str, ...], ...] = ()) -> PlannedFault:
    entry = FaultEntry(fault=Partition(), at=1.0, target=target, groups=groups)
    return resolve(entry, "f", GROUND, 1)


@pytest.mark.parametrize(
    ("target", "nodes"),
    [
        ("all", NAMES),
        ("n3", ("n3",)),
        ("node:n3", ("n3",)),
        ("n4, n2", ("n2", "n4")),
        ("role:ingress", ("n2", "n5")),
        ("role:core", ("n1", "n2", "n3")),
        ("role:outside", ("n4", "n5")),
        ("role:remote", ("n1", "n5")),
        ("tenant:b", ("n1", "n2", "n3", "n5")),
        ("tenant:a", NAMES),
    ],
)
def test_selectors_of_nodes(target: str, nodes: tuple[str, ...]) -> None:
    assert kill(target) == nodes


def test_drawn_targets_follow_from_the_seed_and_the_fault() -> None:
    drawn = {kill("one", seed) for seed in range(40)}
    assert drawn == {(name,) for name in NAMES}
    assert all(kill("one", seed) == kill("one", seed) for seed in range(10))
    minorities = {kill("minority", seed) for seed in range(40)}
    assert {len(nodes) for nodes in minorities} == {2}
    assert len(minorities) > 5


def test_selectors_of_links() -> None:
    assert slow("link:n1>n2").links == (("n1", "n2"),)
    assert slow(links=("n1<>n2",)).links == (("n1", "n2"), ("n2", "n1"))
    assert slow(links=("n1>*",)).links == tuple(("n1", other) for other in NAMES[1:])
    assert slow("all").links == every_link(NAMES)
    assert set(slow("n2").links) == {link for link in every_link(NAMES) if "n2" in link}
    assert {slow("one", seed=seed).links for seed in range(200)} == {
        (link,) for link in every_link(NAMES)
    }
    assert slow(links=("n3>n1",)).nodes == ("n1", "n3")


def test_selectors_of_groups() -> None:
    assert part("n1,n2").groups == (("n1", "n2"), ("n3", "n4", "n5"))
    assert part("all").groups == tuple((name,) for name in NAMES)
    assert part(groups=(("n1",), ("n2",))).nodes == ("n1", "n2")
    assert len(part("minority").groups[0]) == 2


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("n6", "there is no target 'n6'"),
        ("al", "there is no target 'al', did you mean 'all'?"),
        ("role:corr", "did you mean 'role:core'?"),
        ("tenant:c", "there is no tenant 'c'"),
        ("node:n9", "there is no node 'n9'"),
        ("n1,,n2", "a target is empty"),
    ],
)
def test_a_selector_that_means_nothing_is_refused(target: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said.replace("?", r"\?")):
        kill(target)


def test_what_selects_nothing_is_refused() -> None:
    entry = FaultEntry(fault=Kill9(), at=1.0, target="role:outside")
    with pytest.raises(ScenarioError, match="selects no node"):
        resolve(entry, "f", Ground(cluster=CLUSTER), 1)
    with pytest.raises(ScenarioError, match="no minority"):
        resolve(
            FaultEntry(fault=Kill9(), at=1.0, target="minority"),
            "f",
            Ground(cluster=Cluster(nodes=2)),
            1,
        )
    with pytest.raises(ScenarioError, match="names no link"):
        slow(links=("n1>n1",))
    with pytest.raises(ScenarioError, match="needs `target`"):
        kill("")
    with pytest.raises(ScenarioError, match="not `links` as well"):
        slow("n1", links=("n1>n2",))
