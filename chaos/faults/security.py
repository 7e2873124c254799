"""Attacks: by strangers, by admitted peers, and by peers that are admitted no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import NODE_AND_LIVE, SIMULATED, Family, Fault, Void, Where, quantity
from chaos.faults.process import DOWN
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
class RevokedTwice(RevokedInPartition):
    """As revoked_in_partition, and one of the half with the target revokes it too, in other words.

    Both statements hold everywhere afterwards.
    """

    kind = "revoked_twice"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevoked(SecurityFault):
    """A client asks the target with a token of its own, which is revoked at another node.

    From when the target knows of it no request of that client is taken.
    """

    kind = "token_revoked"
    shows = ("token_refused",)
    every_ms: float = quantity(1000, unit="ms", low=1, high=60_000, draw=(500, 4000))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonedHost(SecurityFault):
    """A copy of the target's folder runs beside it, elsewhere, until the end.

    Of the two exactly one ends. If it is the target, it is started again when the copy is gone.
    """

    kind = "cloned_host"
    voids = (*DOWN, Void(Id.PHANTOM, Where.TARGET, "clone_ran"))
    shows = ("clone_ended",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredCopy(SecurityFault):
    """A backup of the target's folder is made, and put in its place at the end.

    Tickets that an issuer's backup takes for unused are void then.
    """

    kind = "restored_copy"
    voids = DOWN
    shows = ("tickets_voided",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRotated(SecurityFault):
    """A tenant of the target begins a new epoch: a new key, with the same members."""

    kind = "tenant_rotated"
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRotatedHard(SecurityFault):
    """As tenant_rotated, with other names for blocks: nothing cached before is used again."""

    kind = "tenant_rotated_hard"
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRotated(SecurityFault):
    """The overlay gets another root, which the first target tells; at the end the old one goes.

    Where a host has not taken the new one by then, both stay in force.
    """

    kind = "root_rotated"
    shows = ("root_let_go",)
