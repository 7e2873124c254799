"""Options that several subcommands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from overlay.errors import ConfigError
from overlay.home import HOME_VARIABLE, Home, home_path
from overlay.units import parse_duration

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


def reason_option(command: F) -> F:
    """Adds ``--reason`` of a revocation; the command gets ``reason: str``."""
    return click.option(
        "--reason",
        default="",
        metavar="TEXT",
        help="For people; every peer of the overlay can read it.",
    )(command)


def tenant_option(text: str) -> Callable[[F], F]:
    """Adds ``--tenant``; the command gets ``tenant: str``, empty where none was named."""
    return click.option("--tenant", default="", metavar="NAME", help=text)


def chosen_home(home: str | None) -> Path:
    """The folder that is meant."""
    return home_path(home, os.environ)


def existing_home(home: str | None) -> Home:
    """The folder that is meant, opened. Raises HomeError, saying what to run first."""
    return Home(chosen_home(home))


def read_stdin(chars_max: int = -1) -> str:
    """Standard input to its end, or so much of it. Raises ConfigError when it is no text."""
    try:
        return sys.stdin.read(chars_max)
    except UnicodeDecodeError:
        raise ConfigError("standard input is not UTF-8 text") from None


def duration_of(flag: str, text: str) -> float:
    """Seconds that a flag of a command gives. Raises ConfigError, naming the flag."""
    try:
        seconds = parse_duration(text)
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from None
    if seconds <= 0:
        raise ConfigError(f"{flag}: must be more than 0")
    return seconds


def print_json(value: object) -> None:
    """Prints a message as JSON."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    click.echo(text.decode())
