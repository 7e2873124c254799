"""``rhizome chaos heal``."""

from __future__ import annotations

import sys

import click

from chaos.commands.options import json_option, print_json
from chaos.errors import Unsupported


@click.command("heal")
@json_option
def command(as_json: bool) -> int:  # noqa: FBT001 - click's
    """Remove what live runs left behind whose harness was killed.

    Processes and folders are found by the tag of their run, and by nothing else. A run whose
    harness still lives is left alone. Doing it again does nothing more.

    \b
    Example: rhizome chaos heal
    """  # noqa: D301 - click's mark
    if sys.platform != "linux":
        raise Unsupported("live mode needs Linux, and so there is nothing to heal")
    from chaos.modes.live.heal import heal

    removed = heal()
    if as_json:
        print_json([{"kind": each.kind, "run": each.run, "name": each.name} for each in removed])
        return 0
    for each in removed:
        click.echo(f"removed {each.kind} {each.name} of run {each.run}")
    if not removed:
        click.echo("nothing is left of any run")
    return 0
