"""Attacks: by strangers, by admitted peers, and by peers that are admitted no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import NODE_AND_LIVE, SIMULATED, Family, Fault, Void, Where, quantity
from chaos.invariants.invariant import Id


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.SECURITY


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKeepsTalking(SecurityFault):
    """The target is revoked on every other node, and goes on as if it were not. For good."""

    kind = "revoked_keeps_talking"
    voids = (
        Void(Id.CONVERGE, Where.TARGET, "revocation_enforced"),
        Void(Id.NO_WORSE, Where.TARGET, "revocation_enforced"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedInPartition(SecurityFault):
    """The target and half of the others are cut off, and one of the other half revokes it.

    For good. Who was cut off with it is told by the others afterwards.
    """

    kind = "revoked_in_partition"
    voids = RevokedKeepsTalking.voids


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgedSignature(SecurityFault):
    """The target sends gossip of others with changed content under the old signature."""

    kind = "forged_signature"
    modes = SIMULATED
    every_ms: float = quantity(500, unit="ms", low=1, high=60_000, draw=(100, 5000))


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageBytes(SecurityFault):
    """Strangers connect to the target and send random bytes."""

    kind = "garbage_bytes"
    modes = NODE_AND_LIVE
    connections_per_s: float = quantity(5, unit="1/s", low=0.1, high=1000, draw=(0.5, 20))
    size_bytes: float = quantity(4096, unit="bytes", low=1, high=1e6, draw=(16, 100_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowloris(SecurityFault):
    """Strangers connect to the target and say one byte at a time."""

    kind = "slowloris"
    connections: float = quantity(20, unit="connections", low=1, high=1000, draw=(4, 100))
    gap_ms: float = quantity(1000, unit="ms", low=1, high=60_000, draw=(100, 10_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood(SecurityFault):
    """Strangers open connections to the target as fast as they are let."""

    kind = "flood"
    modes = NODE_AND_LIVE
    connections_per_s: float = quantity(200, unit="1/s", low=1, high=10_000, draw=(20, 500))


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossTenantProbe(SecurityFault):
    """A member of one tenant sends other tenants' prompts, and forwards in their names."""

    kind = "cross_tenant_probe"
    every_ms: float = quantity(1000, unit="ms", low=1, high=60_000, draw=(200, 5000))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoved(SecurityFault):
    """The target is taken off the roster of one of its tenants, and taken in again at the end."""

    kind = "member_removed"
