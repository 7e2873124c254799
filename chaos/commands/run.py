"""``rhizome chaos run``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click
import trio

from chaos.commands.options import (
    OUT,
    file_argument,
    json_option,
    mode_of,
    mode_option,
    out_option,
    plant_option,
    print_json,
    seed_option,
)
from chaos.commands.phases import Phases
from chaos.commands.show import show
from chaos.commands.tables import console_of
from chaos.errors import NotDeterministic, ScenarioError
from chaos.examine import examine
from chaos.failure import FILE
from chaos.faults.fault import Mode
from chaos.modes.registry import plant_named
from chaos.pool import fresh
from chaos.result import REPORT, result_data, write_result
from chaos.scenario.load import find, load
from chaos.scenario.plan import plan
from chaos.scenario.schedule import Schedule
from chaos.worker import Job, Task

TWICE_LIMIT_S = 600.0


@click.command("run")
@file_argument
@seed_option
@mode_option
@plant_option
@out_option
@click.option(
    "--twice",
    is_flag=True,
    help="Run again in two fresh processes with different PYTHONHASHSEED; exit 3 if they differ.",
)
@json_option
def command(
    file: str,
    seed: int | None,
    mode: str | None,
    plant: str | None,
    out: Path | None,
    twice: bool,  # noqa: FBT001 - click's
    as_json: bool,  # noqa: FBT001
) -> int:
    """Run a scenario, and judge whether the overlay kept its promises.

    FILE is a path, or the bare name of a scenario that is shipped. The folder of the run holds
    report.html, result.json, history.jsonl, schedule.toml, and failure.json where something was
    violated.

    \b
    Example: rhizome chaos run partition
    Example: rhizome chaos run swarm --seed 17
    Example: rhizome chaos run promise-output --plant wrong-token-after-hit
    """  # noqa: D301 - click's mark
    scenario = load(find(file))
    if plant is not None:
        plant_named(plant)
    schedule = plan(scenario, seed, mode=mode_of(mode))
    if twice and schedule.mode is Mode.LIVE:
        raise ScenarioError("real processes are never exactly repeatable: leave --twice out")
    folder = out or OUT / f"{schedule.name}-{schedule.seed}"
    console = console_of(err=as_json)
    console.print(
        f"[bold]{schedule.name}[/]  {schedule.place}, seed {schedule.seed}, "
        f"{schedule.cluster.nodes} nodes, {len(schedule.faults)} faults, "
        f"{len(schedule.requests)} requests" + (f", planted {plant}" if plant else "")
    )
    phases = Phases(console)
    with phases if not as_json else nullcontext():
        judged = examine(schedule, plant=plant, on_event=None if as_json else phases)
    failure = write_result(judged, folder, scenario=scenario)
    if as_json:
        print_json(result_data(judged))
    else:
        console.print()
        show(judged, console, failure=folder / FILE if failure else None)
        console.print(f"report: {folder / REPORT}", soft_wrap=True, markup=False)
    if twice:
        same_everywhere(schedule, plant, judged.run.totals.trace)
        console.print("deterministic: three processes made the same trace")
    return judged.verdict.value


def same_everywhere(schedule: Schedule, plant: str | None, trace: str) -> None:
    """Runs a schedule in two fresh processes. Raises ``NotDeterministic`` where a trace differs."""

    async def both() -> list[str]:
        job = Job(name="again", schedule=schedule)
        tries = await fresh(Task(plant=plant), job, limit_s=TWICE_LIMIT_S)
        return [tried.trace or tried.error for tried in tries]

    traces = trio.run(both)
    if {trace, *traces} != {trace}:
        raise NotDeterministic(
            f"one schedule made different traces: {trace} here, and in fresh processes "
            f"{' and '.join(traces)}"
        )
