"""``rhizome chaos invariants``."""

from __future__ import annotations

import click

from chaos.commands.options import json_option, print_json
from chaos.commands.tables import console_of, table_of
from chaos.modes.registry import imported


@click.command("invariants")
@json_option
def command(as_json: bool) -> None:  # noqa: FBT001 - click's
    """List what is checked in every run, and the bug that is planted to prove each check.

    \b
    Example: rhizome chaos invariants --json
    Example: rhizome chaos run promise-output --plant wrong-token-after-hit
    """  # noqa: D301 - click's mark
    checks = imported("chaos.invariants.catalogue", "checkers").CHECKS
    if as_json:
        print_json(
            [
                {
                    "id": check.id.value,
                    "statement": check.statement,
                    "plant": check.plant,
                    "scenario": check.scenario,
                }
                for check in checks
            ]
        )
        return
    table = table_of("id", "statement", "plant", "scenario")
    for check in checks:
        table.add_row(check.id.value, check.statement, check.plant, check.scenario)
    console_of().print(table)
