"""Names of faults: they name random streams, so they depend on nothing but the fault itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chaos.scenario.scenario import FaultEntry


def fault_ids(entries: Sequence[FaultEntry]) -> tuple[str, ...]:
    """The id of each entry: as written, else its kind and its number among its kind."""
    numbers: Counter[str] = Counter()
    made: list[str] = []
    for entry in entries:
        numbers[entry.fault.kind] += 1
        made.append(entry.id or f"{entry.fault.kind}-{numbers[entry.fault.kind]}")
    return tuple(made)
