"""Tables of what can be copied from a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

LINE_CHARS_MAX = 1000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> None:
    """Prints rows below the names of their columns, of which ``right`` stands to the right.

    Names and ids are there to be copied: a line may be longer than the terminal, never cut.
    """
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name == right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, width=LINE_CHARS_MAX).print(table)
