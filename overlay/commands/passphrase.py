"""A passphrase from a file or the terminal; never from the command line, which others see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from overlay.errors import ConfigError
from security.root_key import PASSPHRASE_CHARS_MAX

F = TypeVar("F", bound=Callable[..., Any])


def passphrase_option(text: str) -> Callable[[F], F]:
    """Adds ``--passphrase-file``; the command gets ``passphrase_file: str | None``."""
    return click.option("--passphrase-file", metavar="FILE", default=None, help=text)


def passphrase_of(file: str | None, *, twice: bool) -> str:
    """The first line of a file, or what is typed in; ``twice`` where it is a new one.

    Raises:
        ConfigError: When the file cannot be read, or has no text.
    """
    if file is None:
        typed: str = click.prompt(
            "Passphrase of the root key", hide_input=True, confirmation_prompt=twice, err=True
        )
        return typed
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            line = str(opened.readline(PASSPHRASE_CHARS_MAX + 2)).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"--passphrase-file: {file} cannot be read: {words}") from None
    if not line:
        raise ConfigError(f"--passphrase-file: {file} is empty")
    return line
