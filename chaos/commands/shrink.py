"""``rhizome chaos shrink``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from chaos.commands.options import failure_argument, json_option, out_option, print_json
from chaos.commands.tables import console_of
from chaos.commands.words import aimed, lasting, settings, when
from chaos.examine import examine
from chaos.failure import FILE, failure_data, read_failure, write_failure
from chaos.result import TIMELINE
from chaos.scenario.data import scenario_toml, timeline
from chaos.scenario.load import SHIPPED
from chaos.shrink import Budget, Progress, Shrunk, shrink
from chaos.stopwatch import Stopwatch

FOLDER = "shrunk"
REFRESH_S = 0.1


@click.command("shrink")
@failure_argument
@out_option
@click.option(
    "--runs", type=click.IntRange(min=1), default=400, show_default=True, help="Runs at most."
)
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=600, show_default=True, help="Time at most."
)
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="In live mode, runs before a schedule counts as not failing.",
)
@json_option
def command(
    path: Path,
    out: Path | None,
    runs: int,
    seconds: float,
    attempts: int,
    as_json: bool,  # noqa: FBT001 - click's
) -> None:
    """Leave parts out of a failure while it still violates the same invariant.

    The result is a timeline scenario: copy it to chaos/scenarios/regressions when the bug is
    mended, so that it never comes back. In the order: what comes after the violation, faults,
    requests, nodes, targets, durations, values.

    \b
    Example: rhizome chaos shrink chaos-out/swarm-17
    Example: rhizome chaos shrink chaos-out/swarm-17/failure.json --seconds 120
    """  # noqa: D301 - click's mark
    failure = read_failure(path)
    console = console_of(err=as_json)
    watch = Stopwatch()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        shown = Stopwatch()

        def tell(progress: Progress) -> None:
            nonlocal shown
            if console.is_terminal and shown.read_s() > REFRESH_S:
                shown = Stopwatch()
                live.update(_line(progress), refresh=True)

        shrunk = shrink(
            failure,
            examine,
            now_s=watch.read_s,
            budget=Budget(runs=runs, seconds=seconds),
            attempts=attempts,
            on_progress=tell,
        )
    folder = out or (path if path.is_dir() else path.parent) / FOLDER
    write_failure(shrunk.failure, folder / FILE)
    about = about_of(shrunk)
    scenario = scenario_toml(timeline(shrunk.failure.schedule, about=about))
    (folder / TIMELINE).write_text(scenario, encoding="utf-8")
    if as_json:
        print_json(
            {
                "events_before": shrunk.events_before,
                "events": shrunk.events,
                "runs": shrunk.runs,
                "seconds": round(shrunk.seconds, 3),
                "scenario": str(folder / TIMELINE),
                "failure": failure_data(shrunk.failure),
            }
        )
        return
    _show(shrunk, console)
    console.print(f"\nscenario: {folder / TIMELINE}", soft_wrap=True, markup=False)
    console.print(
        f"keep it:  cp {folder / TIMELINE} {SHIPPED / 'regressions'}/NAME.toml",
        soft_wrap=True,
        markup=False,
    )


def about_of(shrunk: Shrunk) -> str:
    """What the shrunk scenario says of itself: the promise, and what contradicted it."""
    failure = shrunk.failure
    return (
        f"Once violated {failure.invariant.value}: expected {failure.witness.expected}; found "
        f"{failure.witness.found}."
    )


def _line(progress: Progress) -> Text:
    return Text(
        f"{progress.runs} runs, {progress.seconds:.0f} s, {progress.stage}: {progress.faults} "
        f"faults, {progress.requests} requests, {progress.nodes} nodes left",
        no_wrap=True,
        overflow="ellipsis",
    )


def _show(shrunk: Shrunk, console: Console) -> None:
    failure = shrunk.failure
    schedule = failure.schedule
    ended = "nothing more can be left out" if failure.minimal else "the budget ended there"
    console.print(
        f"{shrunk.events_before} events became {shrunk.events} ({len(schedule.faults)} faults, "
        f"{len(schedule.requests)} requests) in {shrunk.runs} runs and {shrunk.seconds:.0f} s: "
        f"{ended}\n\n"
        f"{schedule.cluster.nodes} nodes, {schedule.duration_s:g} s storm",
    )
    for fault in schedule.faults:
        console.print(
            f"  fault    {fault.fault.kind} at {aimed(fault, schedule.cluster.names)}, "
            f"{when(fault)}, {lasting(fault)} {settings(fault.fault)}",
            markup=False,
        )
    for request in schedule.requests:
        console.print(
            f"  request  {request.id} at {request.ingress}, {request.at_s:g} s, tenant "
            f"{request.tenant}, document {request.document} ({request.document_tokens} tokens), "
            f"{request.max_tokens} tokens wanted",
            markup=False,
        )
    console.print(f"\n[bold red]{failure.invariant.value} violated[/]")
    console.print(f"  expected  {failure.witness.expected}", markup=False)
    console.print(f"  found     {failure.witness.found}", markup=False)
