"""Virtual time: trio's mock clock for durations, an offset for the wall clock."""

from __future__ import annotations

import trio

SIMULATION_EPOCH_UNIX_S = 1_800_000_000.0
"""Wall-clock time at virtual second 0 (January 2027); any fixed value would do."""


class VirtualClock:
    """``overlay.ports.Clock`` under ``trio.testing.MockClock``; a peer may be off by an offset."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.offset_s = offset_s

    def now_s(self) -> float:
        return trio.current_time()

    def unix_s(self) -> float:
        return SIMULATION_EPOCH_UNIX_S + trio.current_time() + self.offset_s
