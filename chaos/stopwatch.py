"""Wall time of a run, for its totals only: nothing inside a simulation may see it."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def read_s(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._began_s
