"""Faults by peers that hold valid keys and say what is not so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import EVERY_MODE, SIMULATED, Family, Fault, Void, Where, quantity
from chaos.invariants.invariant import Id

FALSE_CLAIMS = (Void(Id.CONVERGE, Where.TARGET, "claims_differ"),)
"""What the target publishes is not what it holds; the others must still agree on what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.METADATA


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleDigest(MetadataFault):
    """The target's digest stands still while its cache goes on."""

    kind = "stale_digest"
    modes = EVERY_MODE
    voids = FALSE_CLAIMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(MetadataFault):
    """The target sends again the gossip that it was sent before, to everybody."""

    kind = "replay"
    modes = SIMULATED
    every_ms: float = quantity(500, unit="ms", low=1, high=60_000, draw=(100, 5000))


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRollback(MetadataFault):
    """The target signs news of itself under numbers that it has used before."""

    kind = "sequence_rollback"
    modes = SIMULATED
    back: float = quantity(5, unit="numbers", low=1, high=1e6, draw=(1, 100))
    every_ms: float = quantity(1000, unit="ms", low=1, high=60_000, draw=(100, 5000))


@dataclass(frozen=True, slots=True, kw_only=True)
class OverClaim(MetadataFault):
    """The target publishes every prompt of the workload as cached; it holds none of them more.

    It takes its own clients in with it: they wait for what it does not hold.
    """

    kind = "over_claim"
    modes = SIMULATED
    voids = (*FALSE_CLAIMS, Void(Id.NO_WORSE, Where.TARGET, "claims_differ"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderClaim(MetadataFault):
    """The target publishes nothing new of what it caches."""

    kind = "under_claim"
    modes = SIMULATED
    voids = FALSE_CLAIMS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnStorm(MetadataFault):
    """The target stores and evicts made-up prefixes without pause."""

    kind = "churn_storm"
    modes = SIMULATED
    voids = FALSE_CLAIMS
    blocks_per_s: float = quantity(200, unit="blocks/s", low=1, high=100_000, draw=(20, 2000))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGap(MetadataFault):
    """What the server beside the target tells of its cache is lost for a while.

    The gap shows with the first event after it: from then on the claims are told as inexact, and
    each request that finds less than was thought puts some of it right. At the end the server's
    cache is cleared, and all is exact again.
    """

    kind = "event_gap"
    needs_remote = True
    voids = (*FALSE_CLAIMS, Void(Id.NO_WORSE, Where.TARGET, "events_lost"))
    gap_s: float = quantity(4, unit="s", low=0, high=3600, draw=(0.5, 20))
