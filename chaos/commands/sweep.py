"""``rhizome chaos sweep``."""

from __future__ import annotations

from pathlib import Path

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chaos.commands.options import (
    OUT,
    file_argument,
    json_option,
    mode_of,
    mode_option,
    out_option,
    plant_option,
    print_json,
)
from chaos.commands.tables import console_of, table_of
from chaos.commands.words import duration
from chaos.coverage import Coverage
from chaos.faults.catalogue import FAULTS
from chaos.faults.fault import Mode
from chaos.invariants.invariant import Id
from chaos.modes.registry import plant_named
from chaos.scenario.load import find, load
from chaos.sweep import LIMIT_S, TWICE_EVERY, Plan, Swept, corpus_of, seeds_of, sweep
from chaos.tried import Tried
from overlay.errors import ConfigError
from overlay.units import parse_duration

EVERY_S = 10.0
"""Where the output is no terminal, progress is told so often."""
TICK_S = 0.5
EXIT_INTERRUPTED = 130
ERROR_LINES_MAX = 6


@click.command("sweep")
@file_argument
@click.option(
    "--seeds", default="0:100", show_default=True, metavar="A:B", help="B is out; or `all`."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes at a time."
)
@mode_option
@plant_option
@click.option("--for", "for_", metavar="TIME", help="Begin no new seed after so long, as 5min.")
@click.option(
    "--limit",
    type=click.FloatRange(min=1),
    default=LIMIT_S,
    show_default=True,
    help="Give a seed up after so many seconds.",
)
@click.option(
    "--twice-every",
    type=click.IntRange(min=0),
    default=TWICE_EVERY,
    show_default=True,
    help="Run one seed in so many a second time in a fresh process; 0 for none.",
)
@click.option(
    "--corpus",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="First try the schedules that an earlier sweep kept in its folder `corpus`.",
)
@out_option
@json_option
def command(
    file: str,
    seeds: str,
    jobs: int,
    mode: str | None,
    plant: str | None,
    for_: str | None,
    limit: float,
    twice_every: int,
    corpus: Path | None,
    out: Path | None,
    as_json: bool,  # noqa: FBT001 - click's
) -> int:
    """Run many seeds of a scenario in child processes, and say what they covered.

    Each seed that violates something leaves a folder with its failure.json. Interrupting ends the
    children and still says what was done.

    \b
    Example: rhizome chaos sweep swarm --seeds 0:500 --jobs 2
    Example: rhizome chaos sweep swarm --seeds 0:100000 --mode core --for 5min
    Example: rhizome chaos sweep singles --seeds all
    """  # noqa: D301 - click's mark
    scenario = load(find(file))
    if plant is not None:
        plant_named(plant)
    what = Plan(
        scenario=scenario,
        seeds=seeds_of(seeds, scenario),
        jobs=jobs,
        mode=mode_of(mode),
        plant=plant,
        schedules=() if corpus is None else corpus_of(corpus),
        for_s=None if for_ is None else _seconds(for_),
        limit_s=limit,
        twice_every=0 if scenario.mode is Mode.LIVE else twice_every,
        out=out or OUT / f"sweep-{scenario.name}",
    )
    console = console_of(err=as_json)
    shown = Shown(console, what)
    interrupted = False
    with shown:
        try:
            swept = trio.run(sweep, what, shown.progress)
        except* KeyboardInterrupt:
            interrupted = True
        if interrupted:
            swept = shown.last or Swept(planned=len(what.seeds))
    if as_json:
        print_json(swept.data(what))
    else:
        console.print(f"seeds {what.seeds.start}:{what.seeds.stop} of {scenario.name}")
        show_swept(swept, console, everything=scenario.swarm is not None)
        console.print(f"files: {what.out}", soft_wrap=True, markup=False)
    return EXIT_INTERRUPTED if interrupted else swept.exit_code


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise click.UsageError(f"--for: {error}") from None


class Shown:
    """The progress of a sweep: a line that changes in a terminal, else a line now and then."""

    def __init__(self, console: Console, what: Plan) -> None:
        self._console = console
        self._what = what
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._told_s = 0.0
        self._new = 0
        self.last: Swept | None = None

    def __enter__(self) -> None:
        if self._console.is_terminal:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, swept: Swept, tried: Tried) -> None:
        """A try has ended."""
        self.last = swept
        if tried.failed:
            self._failed(tried)
        since_s = swept.wall_s - self._told_s
        if self._console.is_terminal and since_s > TICK_S:
            self._live.update(Text(self._line(swept), no_wrap=True), refresh=True)
        elif not self._console.is_terminal and since_s > EVERY_S:
            self._console.print(self._line(swept), soft_wrap=True)
        else:
            return
        self._told_s = swept.wall_s

    def _line(self, swept: Swept) -> str:
        cover = swept.coverage
        left_s = swept.eta_s or 0.0
        if self._what.for_s is not None:
            left_s = min(left_s, max(0.0, self._what.for_s - swept.wall_s))
        effective = sum(fault.had_effect > 0 for fault in cover.faults.values())
        return (
            f"{cover.tries}/{swept.planned}, {swept.rate:.2f}/s, {duration(left_s)} left; "
            f"{cover.cluster_hours:.2f} cluster-hours, {swept.deliveries_per_s:.0f} deliveries/s; "
            f"{effective} faults had effect, {len(cover.signatures)} states; {_words(cover)}"
        )

    def _failed(self, tried: Tried) -> None:
        what = ", ".join(each.value for each in tried.violated) or tried.verdict
        if not tried.deterministic:
            what += f"; another trace in a fresh process: {tried.twice}, here {tried.trace}"
        self._console.print(f"[red]{tried.name}[/]: {what}  {tried.kept}", soft_wrap=True)
        for line in tried.error.splitlines()[-ERROR_LINES_MAX:]:
            self._console.print(f"    {line}", markup=False)


def _words(cover: Coverage) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(cover.verdicts.items()))


def show_swept(swept: Swept, console: Console, *, everything: bool) -> None:
    """What a sweep covered and what failed; of ``everything``, the faults that it did not meet."""
    cover = swept.coverage
    console.print(invariants_table(cover))
    console.print()
    console.print(faults_table(cover))
    unmet = [kind.kind for kind in FAULTS if kind.kind not in cover.faults]
    if unmet and everything:
        console.print(f"never planned: {', '.join(unmet)}", markup=False)
    console.print(
        f"\n{cover.tries} of {swept.planned} tries in {duration(swept.wall_s)} "
        f"({swept.rate:.2f}/s): {_words(cover) or 'none ended'}\n"
        f"{cover.cluster_hours:.2f} simulated cluster-hours, {cover.deliveries} deliveries "
        f"({swept.deliveries_per_s:.0f}/s), {cover.requests.total()} requests, "
        f"{len(cover.signatures)} states in which faults began\n"
        f"run twice: {cover.run_twice}, not deterministic: {cover.not_deterministic}"
    )
    for tried in swept.failed:
        what = ", ".join(each.value for each in tried.violated) or tried.verdict
        if not tried.deterministic:
            what += ", not deterministic"
        kept = f"  rhizome chaos replay {tried.kept}" if tried.kept else ""
        console.print(f"[red]{tried.name}[/] {what}{kept}", soft_wrap=True)


def invariants_table(cover: Coverage) -> Table:
    """In how many runs each invariant was put to the test, and what came out."""
    columns = ("invariant", "held", "violated", "not exercised", "compared", "voided", "worst")
    table = table_of(*columns, numbers=range(1, 7))
    for each in Id:
        sums = cover.invariants.get(each)
        if sums is None:
            continue
        violated = f"[red]{sums.violated}[/]" if sums.violated else "0"
        share = "" if sums.worst_share is None else f"{sums.worst_share:.0%} of bound"
        row = (str(sums.held), violated, str(sums.not_exercised), str(sums.exercised))
        table.add_row(each.value, *row, str(sums.voided), share)
    return table


def faults_table(cover: Coverage) -> Table:
    """What became of each kind of fault."""
    columns = ("fault", "scheduled", "applied", "had effect", "undone", "missed", "unsupported")
    table = table_of(*columns, numbers=range(1, 7))
    for kind in FAULTS:
        sums = cover.faults.get(kind.kind)
        if sums is not None:
            counts = (sums.scheduled, sums.applied, sums.had_effect, sums.undone, sums.missed)
            table.add_row(kind.kind, *map(str, counts), str(sums.unsupported))
    return table
