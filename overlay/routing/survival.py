"""How likely old news of a cache still holds: learned from what was found there.

News that a peer holds a prefix (its digest, or our own request that we sent there) fades as the
peer evicts. How fast depends on its cache and its traffic, so no half-life is assumed for long:
for each doubling of age a moving average is kept of the share of the promised tokens that were
delivered.
"""

from __future__ import annotations

import math

AGE_FIRST_S = 0.25
BINS = 16
"""Ages from a quarter of a second to about two hours, each bin twice the one before."""

AGE_LAST_S = AGE_FIRST_S * 2 ** (BINS - 1)

WEIGHT = 0.1

PRIOR_HALF_LIFE_S = 60.0
"""Until something is learned: a cache turns over in minutes rather than seconds."""


class Survival:
    """Share of promised tokens that is found, by the age of the promise."""

    def __init__(self, half_life_s: float = PRIOR_HALF_LIFE_S) -> None:
        self._kept: list[float] = [
            0.5 ** (AGE_FIRST_S * 2.0**each / half_life_s) for each in range(BINS)
        ]

    def observe(self, age_s: float, kept: float) -> None:
        """A promise of that age was kept to that share (0 to 1)."""
        each = _bin(age_s)
        self._kept[each] += WEIGHT * (min(1.0, max(0.0, kept)) - self._kept[each])

    def expect(self, age_s: float) -> float:
        """The share that is expected of a promise of that age; 0 of one never made (infinity)."""
        if age_s == math.inf:
            return 0.0
        return float(self._kept[_bin(age_s)])


def _bin(age_s: float) -> int:
    if age_s <= AGE_FIRST_S:
        return 0
    if age_s >= AGE_LAST_S:
        return BINS - 1
    return math.ceil(math.log2(age_s / AGE_FIRST_S))
