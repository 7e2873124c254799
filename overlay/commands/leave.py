"""``rhizome leave``."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import existing_home, home_option
from overlay.control.client import call
from overlay.control.messages import Leave, LeaveReply


@click.command("leave")
@home_option
def command(home: str | None) -> None:
    """Let the running peer finish its requests, say goodbye to the others, and end.

    \b
    Example: rhizome leave
    """  # noqa: D301 - click's mark
    trio.run(call, existing_home(home), Leave(), LeaveReply)
    click.echo("leaving: running requests are finished first")
