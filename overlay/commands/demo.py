"""``rhizome demo``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from overlay.control.messages import TokenReply
from overlay.demo.cluster import PeerProcess, rhizome
from overlay.demo.report import show
from overlay.demo.run import POLICIES, POLICIES_MORE, TENANTS, DemoResult, run_demo


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
    console = Console()
    policies = POLICIES if short else (*POLICIES, *POLICIES_MORE)
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

        result, folder = trio.run(main)
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
