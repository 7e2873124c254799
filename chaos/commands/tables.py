"""How the subcommands lay things out in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 110
"""Columns where the output is no terminal."""


def console_of(*, err: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    console = Console(stderr=err, highlight=False)
    return (
        console if console.is_terminal else Console(stderr=err, highlight=False, width=PIPED_WIDTH)
    )


def table_of(*columns: str, numbers: Sequence[int] = ()) -> Table:
    """An empty table without lines; columns of ``numbers`` stand to the right."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in numbers else "left")
    return table
