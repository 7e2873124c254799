"""Voids are exceptions: what faults take out of the comparison is the lesser part of a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.examine import examine
from chaos.faults.fault import Mode
from chaos.invariants.invariant import Id
from chaos.mutants import VOIDED_SHARE_MAX, voided_shares
from chaos.scenario.load import find, load
from chaos.scenario.plan import plan
from chaos.tried import Tried, tried_of

SEEDS = range(31, 36)


@pytest.fixture(scope="module")
def tries() -> list[Tried]:
    """A slice of the ordinary sweep."""
    swarm = load(find("swarm"))
    schedules = [plan(swarm, seed, mode=Mode.CORE) for seed in SEEDS]
    return [tried_of(examine(each), f"seed-{each.seed}") for each in schedules]


def test_no_invariant_is_voided_in_more_than_half_of_a_sweep(tries: list[Tried]) -> None:
    assert all(share <= VOIDED_SHARE_MAX for share in voided_shares(tries).values())


def test_every_invariant_of_simulation_is_exercised_in_it(tries: list[Tried]) -> None:
    seen = {found.invariant for tried in tries for found in tried.findings if found.exercised}
    assert seen == set(Id) - {Id.CLEAN}


def test_an_invariant_that_faults_mostly_void_is_told(tries: list[Tried]) -> None:
    def voided(tried: Tried) -> Tried:
        findings = tuple(
            replace(found, voided=found.exercised + 1) if found.invariant is Id.TENANT else found
            for found in tried.findings
        )
        return replace(tried, findings=findings)

    shares = voided_shares([voided(tried) for tried in tries])
    assert shares[Id.TENANT] == 1.0
    assert shares[Id.OUTPUT] <= VOIDED_SHARE_MAX
