"""``rhizome audit``: attacks on peers of this host, with what they measured."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from overlay.audit.report import interval, show
from overlay.audit.run import SAMPLES, SAMPLES_QUICK, SideChannels, run_side_channels
from overlay.audit.statistics import Separation
from overlay.commands.demo import ToldToEnd, until_told_to_end
from overlay.errors import ConfigError


@click.group("audit")
def command() -> None:
    """Attack peers on this host, and say what the attacks found.

    \b
    Example: rhizome audit side-channel --json found.json
    """  # noqa: D301 - click's mark


@command.command("side-channel")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write what was measured to this file.",
)
@click.option("--seed", default=1, show_default=True, help="Order of the cases, and all prompts.")
@click.option(
    "--quick",
    is_flag=True,
    help=f"{SAMPLES_QUICK} samples a case in place of {SAMPLES}: wide intervals, no judgement.",
)
def side_channel(json_path: Path | None, seed: int, quick: bool) -> None:  # noqa: FBT001 - click's
    """Measure what a tenant learns of another by the time to its own first token.

    Starts peers with SmolLM2-135M on loopback and an attacker beside a victim: guessed prompts,
    eviction, load. An AUC of 0.5 tells nothing, 1 everything. Takes about half an hour on two
    idle cores and longer on busy ones, on which less is learned. Exit code 1 where a rule does not
    hold; none is judged with --quick.

    \b
    Example: rhizome audit side-channel --json found.json
    """  # noqa: D301 - click's mark
    if json_path is not None and not os.access(json_path.parent, os.W_OK):
        raise ConfigError(f"--json: {json_path.parent} is no folder that can be written to")
    try:
        result = watched_run(seed, SAMPLES_QUICK if quick else SAMPLES)
    except ToldToEnd as told:
        click.echo(f"rhizome: {told}; the peers and their files are gone", err=True)
        raise click.exceptions.Exit(told.exit_code) from None
    show(result, Console())
    if json_path is not None:
        json_path.write_text(json.dumps(result.public(), indent=1) + "\n")
    if quick:
        click.echo(f"--quick: {SAMPLES_QUICK} samples a case judge nothing")
        return
    failures = result.failures()
    if failures:
        raise click.ClickException("; ".join(failures))


def watched_run(seed: int, samples: int) -> SideChannels:
    """Runs the attacks with their progress on standard error. Raises ToldToEnd at a signal."""
    console = Console(stderr=True)
    console.print(f"seed {seed}")
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(TextColumn("{task.description:<42}"), *columns, console=console) as progress:
        bars: dict[str, TaskID] = {}

        def say(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        def found(what: str, separation: Separation) -> None:
            console.print(f"{what}: AUC {separation.auc:.3f}, {interval(separation)}")

        async def main() -> SideChannels:
            return await run_side_channels(seed=seed, samples=samples, say=say, found=found)

        return trio.run(until_told_to_end, main)
