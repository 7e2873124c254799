"""What an audit shows on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from overlay.audit.run import ACROSS_RANGE, WITHIN_MIN, SideChannels
from overlay.audit.statistics import Separation


def show(result: SideChannels, console: Console) -> None:
    """Prints every attack with its interval and its rule."""
    low, high = ACROSS_RANGE
    inside = f"interval inside [{low:.2f}, {high:.2f}]"
    table = Table("attack", "isolation", "AUC", "95 %", "samples", "rule")
    for attack, isolation, found, rule in (
        ("guessed prompt, own tenant", "shared", result.within, f"{WITHIN_MIN} or more"),
        ("guessed prompt, other tenant", "shared", result.across, inside),
        ("eviction", "shared", result.eviction_shared, "shown only"),
        ("eviction", "strict", result.eviction, inside),
        ("load beside a hit or a miss", "shared", result.load_shared, "shown only"),
        ("load beside a hit or a miss", "strict", result.load_strict, inside),
    ):
        table.add_row(
            attack, isolation, f"{found.auc:.3f}", interval(found), str(found.samples), rule
        )
    console.print(table)
    for name, (kept, gone) in result.cached.items():
        console.print(
            f"eviction, {name}: the attacker found {kept} tokens of its own cached where the "
            f"victim sent nothing new, {gone} where it did"
        )
    console.print(f"seed {result.seed}, {result.took_s / 60:.1f} minutes")


def interval(found: Separation) -> str:
    """The bounds, in words."""
    return f"{found.low:.3f} to {found.high:.3f}"
