"""Which links the topology faults cut."""

from __future__ import annotations

import pytest

from chaos.cuts import cut_links
from chaos.faults.fault import Fault
from chaos.faults.security import RevokedInPartition
from chaos.faults.topology import Bridge, Isolate, OneWay, Partition, RingMajorities
from chaos.scenario.schedule import PlannedFault

FIVE = ("n1", "n2", "n3", "n4", "n5")


def cuts(fault: Fault, names: tuple[str, ...] = FIVE, **aim: object) -> set[tuple[str, str]]:
    planned = PlannedFault(id="f", fault=fault, at=0.0, for_s=1.0, **aim)  # type: ignore[arg-type]
    return set(cut_links(planned, names))


def both(*pairs: str) -> set[tuple[str, str]]:
    ends = [tuple(pair.split("-")) for pair in pairs]
    return {(a, b) for a, b in ends} | {(b, a) for a, b in ends}


def test_a_partition_cuts_between_groups_and_leaves_who_is_in_none() -> None:
    assert cuts(Partition(), groups=(("n1", "n2"), ("n3",))) == both("n1-n3", "n2-n3")


def test_an_isolated_node_has_no_link_at_all() -> None:
    assert cuts(Isolate(), nodes=("n2",)) == both("n2-n1", "n2-n3", "n2-n4", "n2-n5")


def test_a_bridge_sees_both_halves() -> None:
    assert cuts(Bridge(), nodes=("n3",)) == both("n1-n4", "n1-n5", "n2-n4", "n2-n5")


def test_who_is_revoked_in_a_partition_is_cut_off_with_half_of_the_others() -> None:
    cut = cuts(RevokedInPartition(), nodes=("n2",))
    assert cut == both("n1-n4", "n1-n5", "n1-n2", "n3-n4", "n3-n5", "n3-n2")


def test_links_that_are_named_are_the_ones() -> None:
    assert cuts(OneWay(), links=(("n1", "n2"),)) == {("n1", "n2")}


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 9, 11])
def test_on_a_ring_each_sees_a_majority_and_no_two_the_same(count: int) -> None:
    names = tuple(f"n{number}" for number in range(1, count + 1))
    cut = cuts(RingMajorities(), names, nodes=names)
    sees = {a: {a, *(b for b in names if b != a and (b, a) not in cut)} for a in names}
    assert all(len(seen) > count / 2 for seen in sees.values())
    assert len({frozenset(seen) for seen in sees.values()}) == count
    assert cut == {(b, a) for a, b in cut}


def test_three_cannot_see_different_majorities() -> None:
    names = ("n1", "n2", "n3")
    assert cuts(RingMajorities(), names, nodes=names) == set()
