"""Options that several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from overlay.home import HOME_VARIABLE, Home, home_path

F = TypeVar("F", bound=Callable[..., Any])


def home_option(command: F) -> F:
    """Adds ``--home``; the command gets ``home: str | None``."""
    return click.option(
        "--home",
        metavar="FOLDER",
        help=f"State folder of this peer.  [default: ${HOME_VARIABLE}, or the platform's place]",
    )(command)


def json_option(command: F) -> F:
    """Adds ``--json``; the command gets ``as_json: bool``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, one document, on standard output."
    )(command)


def chosen_home(home: str | None) -> Path:
    """The folder that is meant."""
    return home_path(home, os.environ)


def existing_home(home: str | None) -> Home:
    """The folder that is meant, opened. Raises HomeError, saying what to run first."""
    return Home(chosen_home(home))


def print_json(value: object) -> None:
    """Prints a message as JSON."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    click.echo(text.decode())
