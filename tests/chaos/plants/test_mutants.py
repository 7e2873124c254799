"""The proof that checkers can fail, and that the sweep's own faults do not switch them off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from click.testing import CliRunner

from chaos import mutants
from chaos.examine import examine
from chaos.invariants.catalogue import CHECKS, check_of
from chaos.invariants.invariant import Id, Status
from chaos.mutants import Bench, Mutant, is_voided, voided_shares
from chaos.scenario.load import find, load
from chaos.scenario.plan import plan
from chaos.tried import BROKEN, Found, Tried, tried_of
from chaos.verdict import Verdict

SEEDS = range(1, 7)


def of(seed: int, *violated: Id, verdict: str = "", **counts: int) -> Tried:
    findings = [
        Found(
            invariant=check.id,
            status=Status.VIOLATED if check.id in violated else Status.HELD,
            exercised=counts.get("exercised", 10),
            voided=counts.get("voided", 0),
        )
        for check in CHECKS
    ]
    word = verdict or (Verdict.VIOLATED if violated else Verdict.VALID).word
    return Tried(name="", seed=seed, verdict=word, findings=tuple(findings), error="it broke")


@pytest.fixture(scope="module")
def ordinary() -> list[Tried]:
    """Sweep seeds in a short form."""
    scenario = replace(load(find(mutants.SWEEP)), duration_s=20.0, settle_s=32.0)
    return [tried_of(examine(plan(scenario, seed)), str(seed)) for seed in SEEDS]


def test_no_invariant_is_voided_in_more_than_half_of_the_sweep_s_runs(
    ordinary: list[Tried],
) -> None:
    shares = voided_shares(ordinary)
    assert {name: share for name, share in shares.items() if share > 0.5} == {}


def test_every_invariant_of_simulation_is_exercised_by_the_sweep(ordinary: list[Tried]) -> None:
    exercised = {
        found.invariant for tried in ordinary for found in tried.findings if found.exercised
    }
    assert exercised == set(Id) - {Id.CLEAN}


def test_a_run_counts_as_voided_where_voids_took_more_than_they_left() -> None:
    tries = [of(1, exercised=4, voided=5), of(2, exercised=5, voided=5), of(3), of(4)]
    assert set(voided_shares(tries).values()) == {0.25}
    assert voided_shares([]) == {}
    assert is_voided(Found(invariant=Id.LIVE, status=Status.NOT_EXERCISED, voided=1))


class _Bench(Bench):
    """Runs nothing: ``shows`` says what each pair of plant and seed would show."""

    shows: dict[tuple[str | None, int], Tried]

    async def try_one(self, task: object, seed: int) -> Tried:
        return self.shows.get((task.plant, seed), of(seed))  # type: ignore[attr-defined]


def own(*, without: Tried, with_it: Tried) -> Mutant:
    bench = _Bench(jobs=1, budget_s=60.0)
    check = check_of(Id.OUTPUT)
    bench.shows = {(None, 1): without, (check.plant, 1): with_it}
    mutant = Mutant(check, seeds=1)
    trio.run(bench.own, mutant)
    return mutant


def test_a_bug_is_found_where_its_own_invariant_alone_breaks() -> None:
    mutant = own(without=of(1), with_it=of(1, Id.OUTPUT))
    assert mutant.own == "found"
    assert mutant.found


@pytest.mark.parametrize(
    ("without", "with_it", "word"),
    [
        (of(1), of(1), "missed"),
        (of(1), of(1, Id.LIVE), "missed"),
        (of(1), of(1, Id.OUTPUT, Id.LIVE), "also LIVE"),
        (of(1, Id.OUTPUT), of(1, Id.OUTPUT), "violated without it"),
        (of(1, verdict="unknown"), of(1, Id.OUTPUT), "unknown without it"),
        (of(1, verdict=BROKEN), of(1, Id.OUTPUT), "broken without it"),
    ],
)
def test_anything_else_is_not_found(without: Tried, with_it: Tried, word: str) -> None:
    mutant = own(without=without, with_it=with_it)
    assert mutant.own == word
    assert not mutant.found


def test_a_bug_that_no_sweep_seed_shows_is_missed() -> None:
    mutant = own(without=of(1), with_it=of(1, Id.OUTPUT))
    mutant.seeds = None
    assert not mutant.found


def test_one_bug_is_proved_from_end_to_end() -> None:
    result = CliRunner().invoke(mutants.main, ["old-heads", "--seeds", "3", "--budget-s", "1"])
    assert result.exit_code == 1, "its time was over before the sweep: missed, and said"
    assert "own scenario: found" in result.output
    assert "missed" in result.output
