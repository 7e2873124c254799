"""Faults of what a peer has stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import NODE_AND_LIVE, Family, Fault
from chaos.faults.process import DOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.DISK


@dataclass(frozen=True, slots=True, kw_only=True)
class Full(DiskFault):
    """No write succeeds."""

    kind = "full"
    modes = NODE_AND_LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class TornWrite(DiskFault):
    """The machine loses power in the middle of a batch, and starts again."""

    kind = "torn_write"
    voids = DOWN
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LostUnsynced(DiskFault):
    """The machine loses power, and what was not written durably; it starts again."""

    kind = "lost_unsynced"
    voids = DOWN
    instant = True
