"""How well one measurement tells two cases apart: area under the ROC curve, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
INTERVAL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """``auc`` is the chance that a measurement of one case is above one of the other.

    0.5 tells nothing. ``low`` to ``high`` is its bootstrap interval of 95 %; ``samples`` counts
    each case.
    """

    auc: float
    low: float
    high: float
    samples: int

    def public(self) -> dict[str, object]:
        """As JSON has it."""
        interval = [round(self.low, 4), round(self.high, 4)]
        return {"auc": round(self.auc, 4), "ci95": interval, "samples": self.samples}

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval is inside."""
        return low <= self.low and self.high <= high


def separation(below: Sequence[float], above: Sequence[float], *, seed: int) -> Separation:
    """How far measurements of one case are above those of the other; as many of each.

    The interval is that of the percentiles of :data:`RESAMPLES` draws with replacement, each case
    for itself.
    """
    assert len(below) == len(above) > 0
    lower, upper = np.array(below, np.float64), np.array(above, np.float64)
    rng = np.random.default_rng(seed)
    count = len(lower)
    drawn = [
        auc(lower[rng.integers(count, size=count)], upper[rng.integers(count, size=count)])
        for _ in range(RESAMPLES)
    ]
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Separation(auc=auc(lower, upper), low=float(low), high=float(high), samples=count)


def auc(below: Floats, above: Floats) -> float:
    """The share of pairs in which the second is larger; a tie is half a pair."""
    ordered = np.sort(below)
    smaller = np.searchsorted(ordered, above, side="left")
    not_larger = np.searchsorted(ordered, above, side="right")
    return float((smaller + not_larger).mean() / 2 / len(below))
