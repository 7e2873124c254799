"""Delays that spread and hang together: a slow moment is followed by another one."""

from __future__ import annotations

import math
from random import Random


class Delays:
    """Draws how much later something comes.

    Args:
        delay_s: Seconds, in the mean.
        spread_s: Standard deviation, however much they hang together.
        correlation: Share of its difference from the mean that a draw keeps of the last one, 0 to
            less than 1.
        rng: Where it draws from, once for each answer.
    """

    def __init__(self, delay_s: float, spread_s: float, correlation: float, rng: Random) -> None:
        self._delay_s = delay_s
        self._spread_s = spread_s
        self._keep = correlation
        self._fresh = math.sqrt(1 - correlation**2)
        self._rng = rng
        self._last = 0.0

    def draw(self) -> float:
        """Seconds for the next one, not below 0."""
        self._last = self._keep * self._last + self._fresh * self._rng.gauss(0.0, 1.0)
        return max(0.0, self._delay_s + self._spread_s * self._last)
