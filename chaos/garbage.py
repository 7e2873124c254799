"""How often Python looks for garbage in cycles while a run is made and judged.

Nearly all that one makes comes and goes by reference counting, so that looking for cycles
often costs much and finds little.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLD = (100_000, 20, 50)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """While the block lasts, the collector runs seldom."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
