"""``rhizome demo``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from overlay.commands.watched import exit_code, heard
from overlay.control.messages import TokenReply
from overlay.demo.cluster import PeerProcess, rhizome
from overlay.demo.report import show
from overlay.demo.run import POLICIES, POLICIES_MORE, TENANTS, DemoResult, run_demo
from overlay.errors import ConfigError

T = TypeVar("T")

TOLD_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""What ends the demo besides Ctrl-C."""


@click.command("demo")
@click.option(
    "--seed", default=1, show_default=True, help="Order of the questions and which peer is asked."
)
@click.option("--short", is_flag=True, help="Only the policies cost, random and local.")
@click.option(
    "--model",
    metavar="PATH|ID",
    help="Model folder or hub id.  [default: the installed SmolLM2-135M-Instruct]",
)
@click.option(
    "--keep", is_flag=True, help="Leave the three peers running and say how to talk to them."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write everything observed to this file.",
)
def command(seed: int, short: bool, model: str | None, keep: bool, json_path: Path | None) -> None:  # noqa: FBT001 - click's
    """Run three peers on this machine that answer from each other's prefix caches.

    \b
    Example: rhizome demo --short --json demo.json
    """  # noqa: D301 - click's mark
    if json_path is not None and not os.access(json_path.parent, os.W_OK):
        raise ConfigError(f"--json: {json_path.parent} is no folder that can be written to")
    console = Console()
    policies = POLICIES if short else (*POLICIES, *POLICIES_MORE)
    try:
        result, folder = watched_run(console, seed, policies, model, keep=keep)
    except ToldToEnd as told:
        click.echo(f"rhizome: {told}; the peers and their files are gone", err=True)
        raise click.exceptions.Exit(told.exit_code) from None
    show(result, console)
    if json_path is not None:
        json_path.write_text(json.dumps(result.public(), indent=1) + "\n")
    if keep:
        trio.run(how_to_talk, console, result.peers, folder)
    else:
        console.print(
            "\nYour own cluster: `rhizome init && rhizome peer`, and on each further host"
        )
        console.print(
            '`rhizome join TICKET && rhizome peer`; then `rhizome ask "…"` on any of them.'
        )
    failed = [name for name, verdict in result.checks.items() if verdict is False]
    if failed:
        raise click.ClickException(f"checks failed: {', '.join(failed)}")


def watched_run(
    console: Console, seed: int, policies: Sequence[str], model: str | None, *, keep: bool
) -> tuple[DemoResult, Path]:
    """Runs the demo under a progress bar.

    Raises:
        ToldToEnd: When a signal came; nothing is left then.
    """
    with Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("starting", total=None)

        def say(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        async def main() -> tuple[DemoResult, Path]:
            return await run_demo(seed=seed, policies=policies, model=model, keep=keep, say=say)

        return trio.run(until_told_to_end, main)


class ToldToEnd(Exception):
    """A signal asked to end; what was made is gone."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = exit_code(number)


async def until_told_to_end(main: Callable[[], Awaitable[T]]) -> T:
    """Runs ``main``; SIGTERM and SIGHUP (a closed terminal) end it as Ctrl-C does.

    A signal that is ignored, as under ``nohup``, stays so.

    Raises:
        ToldToEnd: When one of them came.
    """
    listened = heard(TOLD_SIGNALS)
    told: list[int] = []
    made: list[T] = []
    async with trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(*listened) as signals:
                task_status.started()
                async for number in signals:
                    told.append(number)
                    if number == signal.SIGHUP:
                        forget_terminal()
                    nursery.cancel_scope.cancel()

        if listened:
            await nursery.start(listen)
        made.append(await main())
        nursery.cancel_scope.cancel()
    if not made:
        raise ToldToEnd(told[0])
    return made[0]


def forget_terminal() -> None:
    """What is still printed goes nowhere: writing to a terminal that was closed is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


async def how_to_talk(console: Console, peers: list[PeerProcess], folder: Path) -> None:
    """Prints ready examples for the peers that were left running."""
    home = peers[0].home
    output = await rhizome("token", "create", "--json", "--home", str(home), "--tenant", TENANTS[0])
    token = msgspec.json.decode(output, type=TokenReply)
    console.print("\nThe three peers are still running. Talk to them:", highlight=False)
    click.echo(f'  rhizome ask --home {home} --tenant {TENANTS[0]} "Who built the lighthouse?"')
    click.echo(
        f"  curl {token.base_url}/chat/completions -H 'Authorization: Bearer {token.api_key}' "
        "-H 'Content-Type: application/json' "
        """-d '{"messages": [{"role": "user", "content": "Hello"}]}'"""
    )
    click.echo(
        f"  python -c \"import openai; c = openai.OpenAI(base_url='{token.base_url}', "
        f"api_key='{token.api_key}'); print(c.chat.completions.create(model='', "
        "messages=[{'role': 'user', 'content': 'Hello'}]).choices[0].message.content)\""
    )
    click.echo("End them with:")
    for peer in peers:
        click.echo(f"  rhizome leave --home {peer.home}")
    click.echo(f"  rm -r {folder}")
