"""Virtual time: trio's mock clock for durations, a wall clock of its own for each host.

The wall clock can be wrong in several ways at once: each is a distortion under a key, and taking
one away leaves the others. The monotonic clock is trio's and stays right.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

SIMULATION_EPOCH_UNIX_S = 1_800_000_000.0
"""Wall-clock time at virtual second 0 (January 2027); any fixed value would do."""

Distortion = Callable[[float], float]
"""Virtual seconds to the seconds by which the wall clock is ahead then."""


class VirtualClock:
    """``overlay.ports.Clock`` under ``trio.testing.MockClock``; a peer may be off by an offset."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.offset_s = offset_s
        self._distortions: dict[str, tuple[Distortion, Callable[[], None]]] = {}

    def now_s(self) -> float:
        return trio.current_time()

    def unix_s(self) -> float:
        now_s = trio.current_time()
        right_s = SIMULATION_EPOCH_UNIX_S + now_s + self.offset_s
        if not self._distortions:
            return right_s
        for ahead, on_read in tuple(self._distortions.values()):
            on_read()
            right_s += ahead(now_s)
        return right_s

    def distort(
        self, key: str, ahead: Distortion, on_read: Callable[[], None] = lambda: None
    ) -> None:
        """Makes the wall clock wrong, on top of what is wrong already; ``on_read`` at each look."""
        self._distortions[key] = (ahead, on_read)

    def restore(self, key: str) -> None:
        """Takes one distortion away. Unknown: no effect."""
        self._distortions.pop(key, None)


def ahead_by(offset_s: float) -> Distortion:
    """Off by so many seconds."""
    return lambda _: offset_s


def drifting(ppm: float, since_s: float) -> Distortion:
    """Too fast by so many millionths since then."""
    return lambda now_s: (now_s - since_s) * ppm * 1e-6


def strobing(amplitude_s: float, period_s: float, since_s: float) -> Distortion:
    """Right for half of each period, and ahead for the other half."""
    return lambda now_s: amplitude_s if (now_s - since_s) % period_s >= period_s / 2 else 0.0


def frozen(since_s: float) -> Distortion:
    """Standing still since then."""
    return lambda now_s: since_s - now_s
