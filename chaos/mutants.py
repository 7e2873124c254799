"""Proves that every checker can fail: ``python -m chaos.mutants`` (``make chaos-mutants``).

For each invariant, with the bug that is planted for it:

1. its own scenario must be valid without the bug, and with it violate that invariant and no other;
2. ordinary seeds of the sweep are tried until one shows the bug, which the same seed without the
   bug does not show; how many were needed is printed.

CLEAN is about real processes, and is proved where those are tested. At last the seeds that were run
without a bug are asked how often each invariant could not be compared for the faults' own voids.

Exit 1 where a bug is missed, a scenario is not valid without it, or an invariant is voided in more
than half of the runs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import click
import trio

from chaos.commands.tables import console_of, table_of
from chaos.invariants.catalogue import CHECKS, Check, check_of
from chaos.invariants.invariant import Id
from chaos.pool import Pool
from chaos.scenario.load import find, load
from chaos.scenario.scenario import Scenario
from chaos.stopwatch import Stopwatch
from chaos.tried import BROKEN, Found, Tried
from chaos.worker import Job, Task

SWEEP = "swarm"
SEEDS = 200
BUDGET_S = 660.0
"""Twelve minutes, less what is under way when it is over."""

LIMIT_S = 240.0
VOIDED_RUNS_MIN = 16
VOIDED_SHARE_MAX = 0.5


@dataclass(slots=True)
class Mutant:
    """What became of one planted bug. ``seeds`` is how many the sweep needed; None: in vain."""

    check: Check
    without: str = ""
    with_it: tuple[Id, ...] = ()
    tried: int = 0
    seeds: int | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def own(self) -> str:
        """What its own scenario showed, in a word."""
        if self.without != "valid":
            return f"{self.without or 'not run'} without it"
        if self.with_it == (self.check.id,):
            return "found"
        others = [each.value for each in self.with_it if each is not self.check.id]
        return f"also {', '.join(others)}" if self.check.id in self.with_it else "missed"

    @property
    def found(self) -> bool:
        """Whether all is as it should be."""
        return self.own == "found" and self.seeds is not None and not self.errors


@dataclass(slots=True)
class Bench:
    """Tries mutants, several runs at a time, until its time is over."""

    jobs: int
    budget_s: float
    watch: Stopwatch = field(default_factory=Stopwatch)
    ordinary: dict[int, Tried] = field(default_factory=dict)
    """Sweep seeds that were run without a bug."""

    @property
    def is_over(self) -> bool:
        return self.watch.read_s() > self.budget_s

    async def try_one(self, task: Task, seed: int) -> Tried:
        """One run."""
        tries: list[Tried] = []
        await Pool(task=task, count=1, limit_s=LIMIT_S).run(_jobs([seed]), tries.append)
        return tries[0]

    async def own(self, mutant: Mutant) -> None:
        """The bug's own scenario, without it and with it."""
        scenario = load(find(mutant.check.scenario))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._own, mutant, scenario, None)
            nursery.start_soon(self._own, mutant, scenario, mutant.check.plant)

    async def _own(self, mutant: Mutant, scenario: Scenario, plant: str | None) -> None:
        tried = await self.try_one(Task(scenario=scenario, plant=plant), scenario.seed)
        if tried.verdict == BROKEN:
            mutant.errors.append(tried.error.splitlines()[-1])
        if plant is None:
            mutant.without = tried.verdict
        else:
            mutant.with_it = tried.violated

    async def sweep(self, mutant: Mutant, seeds: int) -> None:
        """Ordinary seeds until the bug shows."""
        scenario = load(find(SWEEP))
        wanted, shown = mutant.check.id, list[int]()

        def left() -> Iterator[Job]:
            for seed in range(1, seeds + 1):
                if shown or self.is_over:
                    return
                yield _job(seed)

        def on_tried(tried: Tried) -> None:
            mutant.tried += 1
            if tried.verdict == BROKEN:
                mutant.errors.append(f"seed {tried.seed}: {tried.error.splitlines()[-1]}")
            elif wanted in tried.violated:
                shown.append(tried.seed)

        task = Task(scenario=scenario, plant=mutant.check.plant)
        jobs = left()
        while mutant.seeds is None and not self.is_over and mutant.tried < seeds:
            await Pool(task=task, count=self.jobs, limit_s=LIMIT_S).run(jobs, on_tried)
            if not shown:
                return
            for seed in sorted(shown):
                if wanted not in (await self.without(scenario, seed)).violated:
                    mutant.seeds = seed
                    return
            first, shown[:] = mutant.tried + 1, []
            jobs = _rest(left(), first)

    async def without(self, scenario: Scenario, seed: int) -> Tried:
        """A sweep seed without a bug; run once."""
        if seed not in self.ordinary:
            self.ordinary[seed] = await self.try_one(Task(scenario=scenario), seed)
        return self.ordinary[seed]

    async def fill(self, runs: int) -> None:
        """So many sweep seeds without a bug."""
        wanted = [seed for seed in range(1, runs + 1) if seed not in self.ordinary]
        pool = Pool(task=Task(scenario=load(find(SWEEP))), count=self.jobs, limit_s=LIMIT_S)

        def on_tried(tried: Tried) -> None:
            self.ordinary[tried.seed] = tried

        await pool.run((_job(seed) for seed in wanted if not self.is_over), on_tried)


def _job(seed: int) -> Job:
    return Job(name=f"seed-{seed}", seed=seed)


def _jobs(seeds: list[int]) -> Iterator[Job]:
    return (_job(seed) for seed in seeds)


def _rest(jobs: Iterator[Job], first: int) -> Iterator[Job]:
    """Jobs from a seed on."""
    return (job for job in jobs if job.seed is not None and job.seed >= first)


def is_voided(found: Found) -> bool:
    """Whether voids took more out of a comparison than they left in it."""
    return found.voided > found.exercised


def voided_shares(tries: list[Tried]) -> dict[Id, float]:
    """For each invariant the share of the runs in which it was voided."""
    counts = Counter(
        found.invariant for tried in tries for found in tried.findings if is_voided(found)
    )
    return {check.id: counts[check.id] / len(tries) for check in CHECKS} if tries else {}


async def prove(bench: Bench, seeds: int, only: tuple[str, ...]) -> list[Mutant]:
    """Tries every planted bug of simulation, or some."""
    mutants = [
        Mutant(check)
        for check in CHECKS
        if check.id is not Id.CLEAN and (not only or check.plant in only)
    ]
    for mutant in mutants:
        await bench.own(mutant)
    for mutant in mutants:
        await bench.sweep(mutant, seeds)
        seed = "missed" if mutant.seeds is None else f"found at seed {mutant.seeds}"
        click.echo(
            f"{mutant.check.id.value:10} {mutant.check.plant:24} own scenario: {mutant.own}, "
            f"sweep: {seed} ({mutant.tried} run)"
        )
    await bench.fill(VOIDED_RUNS_MIN)
    return mutants


def _show(mutants: list[Mutant], shares: dict[Id, float], runs: int) -> None:
    table = table_of("invariant", "planted bug", "own scenario", "sweep seeds", "voided in")
    for mutant in mutants:
        seeds = f"missed in {mutant.tried}" if mutant.seeds is None else str(mutant.seeds)
        share = shares.get(mutant.check.id, 0.0)
        check = mutant.check
        table.add_row(check.id.value, check.plant, mutant.own, seeds, f"{share:.0%} of {runs} runs")
    clean = check_of(Id.CLEAN)
    table.add_row(clean.id.value, clean.plant, "live only", "live only", "live only")
    console_of().print(table)
    for mutant in mutants:
        for error in mutant.errors:
            click.echo(f"{mutant.check.plant}: {error}", err=True)


@click.command("mutants")
@click.option("--seeds", type=click.IntRange(min=1), default=SEEDS, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--budget-s", type=click.FloatRange(min=1), default=BUDGET_S, show_default=True)
@click.argument("plants", nargs=-1)
def main(seeds: int, jobs: int, budget_s: float, plants: tuple[str, ...]) -> None:
    """Prove that each checker finds the bug that is planted for it."""
    bench = Bench(jobs=jobs, budget_s=budget_s)
    mutants = trio.run(prove, bench, seeds, plants)
    tries = [tried for _, tried in sorted(bench.ordinary.items()) if tried.verdict != BROKEN]
    shares = voided_shares(tries)
    _show(mutants, shares, len(tries))
    often = [name.value for name, share in shares.items() if share > VOIDED_SHARE_MAX]
    if often:
        click.echo(f"voided in more than half of the runs: {', '.join(often)}", err=True)
    missed = [mutant.check.plant for mutant in mutants if not mutant.found]
    if missed:
        click.echo(f"missed: {', '.join(missed)}", err=True)
    click.echo(f"{bench.watch.read_s():.0f} s")
    sys.exit(bool(missed or often))


if __name__ == "__main__":
    main()
