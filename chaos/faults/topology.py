"""Faults of who can reach whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import (
    EVERY_MODE,
    NODE_AND_LIVE,
    Aim,
    Family,
    Fault,
    quantity,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.TOPOLOGY


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(TopologyFault):
    """Groups that hear nothing of each other."""

    kind = "partition"
    aim = Aim.GROUPS
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWay(TopologyFault):
    """Nothing arrives in one direction."""

    kind = "one_way"
    aim = Aim.LINKS
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge(TopologyFault):
    """Two halves that only the target sees both of."""

    kind = "bridge"
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class RingMajorities(TopologyFault):
    """Each node sees a majority, and no two the same one."""

    kind = "ring_majorities"
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolate(TopologyFault):
    """The target hears nobody and nobody hears it."""

    kind = "isolate"
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Flap(TopologyFault):
    """Links go and come: down for ``duty`` of every period."""

    kind = "flap"
    aim = Aim.LINKS
    modes = NODE_AND_LIVE
    period_s: float = quantity(4, unit="s", low=0.1, high=600, draw=(0.5, 20))
    duty: float = quantity(0.5, unit="of the period", low=0, high=1, draw=(0.1, 0.9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Swizzle(TopologyFault):
    """Links of the target are cut one by one, and restored one by one in another order."""

    kind = "swizzle"
    step_s: float = quantity(1, unit="s", low=0.01, high=60, draw=(0.1, 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapGone(TopologyFault):
    """Discovery tells the target of nobody."""

    kind = "bootstrap_gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatRebind(TopologyFault):
    """The target comes from another address now: what it had open is dead, without a word."""

    kind = "nat_rebind"
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Eclipse(TopologyFault):
    """Discovery tells the target of made-up peers only, which it will dial for minutes."""

    kind = "eclipse"
    names: float = quantity(256, unit="peers", low=1, high=10_000, draw=(32, 512))
