"""Faults of a host's wall clock. Its monotonic clock stays monotonic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import NODE_AND_LIVE, Family, Fault, quantity

DAYS_30_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.CLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew(ClockFault):
    """The clock runs too fast (or too slow, below 0)."""

    kind = "skew"
    ppm: float = quantity(200, unit="ppm", low=-500_000, high=500_000, draw=(-50_000, 50_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset(ClockFault):
    """The clock is off by so much for as long as the fault lasts."""

    kind = "offset"
    modes = NODE_AND_LIVE
    offset_s: float = quantity(30, unit="s", low=-DAYS_30_S, high=DAYS_30_S, draw=(-300, 300))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump(ClockFault):
    """The clock jumps once and stays there until the run heals."""

    kind = "jump"
    jump_s: float = quantity(60, unit="s", low=-DAYS_30_S, high=DAYS_30_S, draw=(-3600, 3600))


@dataclass(frozen=True, slots=True, kw_only=True)
class Strobe(ClockFault):
    """The clock jumps to and fro."""

    kind = "strobe"
    amplitude_s: float = quantity(10, unit="s", low=0, high=DAYS_30_S, draw=(0.01, 200))
    period_s: float = quantity(1, unit="s", low=0.01, high=600, draw=(0.1, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze(ClockFault):
    """The clock stands still."""

    kind = "freeze"
