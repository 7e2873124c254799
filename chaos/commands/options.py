"""Options and arguments that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from chaos.faults.fault import Mode

F = TypeVar("F", bound=Callable[..., Any])

OUT = Path("chaos-out")
"""Where results go unless ``--out`` says otherwise."""


def json_option(command: F) -> F:
    """Adds ``--json``; the command gets ``as_json: bool``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, one document, on standard output."
    )(command)


def file_argument(command: F) -> F:
    """Adds FILE: a scenario file, or the bare name of one that is shipped."""
    return click.argument("file", metavar="FILE")(command)


def failure_argument(command: F) -> F:
    """Adds FAILURE: a failure file or a folder with one."""
    return click.argument("path", metavar="FAILURE", type=click.Path(path_type=Path))(command)


def seed_option(command: F) -> F:
    """Adds ``--seed``; None is the scenario's own."""
    return click.option(
        "--seed", type=click.IntRange(min=0), metavar="N", help="[default: the scenario's own]"
    )(command)


def mode_option(command: F) -> F:
    """Adds ``--mode``; the command gets ``mode: str | None``, see :func:`mode_of`."""
    return click.option(
        "--mode",
        type=click.Choice([mode.value for mode in Mode]),
        help="Where to run.  [default: the scenario's own]",
    )(command)


def plant_option(command: F) -> F:
    """Adds ``--plant``."""
    return click.option(
        "--plant",
        metavar="NAME",
        help="Switch a planted bug on; `rhizome chaos invariants` names them.",
    )(command)


def out_option(command: F) -> F:
    """Adds ``--out``; the command gets ``out: Path | None``."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help=f"Where results go.  [default: a folder below {OUT}]",
    )(command)


def mode_of(name: str | None) -> Mode | None:
    """The mode that is meant."""
    return None if name is None else Mode(name)


def print_json(value: object) -> None:
    """Prints JSON values as one document."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
