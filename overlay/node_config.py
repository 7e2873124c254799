"""What one peer is told: its settings and its identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from overlay.address import Address
from overlay.choices import Isolation
from overlay.gossip.gossip import GossipConfig
from overlay.home import Files
from overlay.identity import Identity
from overlay.ingress import IngressLimits
from overlay.quotas import QuotaLimits
from overlay.renewer import Keep
from overlay.transport.limits import Limits
from overlay.trust.keeper import KeepRoots
from overlay.zone import ZoneRule
from security.certificate import LEAF_LIFETIME_S


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What one peer is told.

    ``epochs`` are EPOCH objects that its home folder holds; ``isolation`` is None for an engine
    that isolates in a way of its own. ``issuer`` holds the authority, on an issuer's host, whose
    certificates last ``leaf_s``. ``enrolment`` is where the issuer of this host's own can be asked
    for the next, and ``keep`` stores that, ``keep_roots`` the root bundles that were taken.
    ``expects_others`` says that there are other hosts in the overlay, whoever they are: this one
    has joined another's, or is told where one is.
    """

    identity: Identity
    epochs: tuple[bytes, ...]
    listen: tuple[Address, ...]
    advertise: Callable[[tuple[Address, ...]], tuple[Address, ...]] = lambda bound: bound
    policy: str = "cost"
    zone: str | None = None
    zone_rules: tuple[ZoneRule, ...] = ()
    ingress: IngressLimits = field(default_factory=IngressLimits)
    quotas: QuotaLimits = field(default_factory=QuotaLimits)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 30.0
    engine_tenant: str | None = None
    engine_shared: bool = False
    isolation: Isolation | None = None
    allow_variants: bool = False
    issuer: Files | None = None
    leaf_s: float = LEAF_LIFETIME_S
    enrolment: tuple[Address, ...] = ()
    keep: Keep = lambda identity, addresses: None  # noqa: ARG005 - a host without a disk
    keep_roots: KeepRoots = lambda bundles: None  # noqa: ARG005 - the same
    expects_others: bool = False
