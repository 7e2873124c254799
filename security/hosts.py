"""The hosts that an issuer has given certificates to, and what each of them gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from security.certificate import RENEWAL_GRACE_S, parse_leaf
from security.errors import LimitExceeded
from security.peer_id import PeerId

HOSTS_MAX = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledHost:
    """One of them. ``leaf_ends_unix_s`` is None where an older version did not write it down."""

    sealing_public: bytes
    leaf_ends_unix_s: int | None

    def may_renew(self, now_unix_s: float) -> bool:
        """Whether its last certificate is in force or ended not too long ago."""
        ended = self.leaf_ends_unix_s
        return ended is None or now_unix_s <= ended + RENEWAL_GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a host gets. ``epochs`` are the present EPOCH objects of its tenants, to be gossiped."""

    peer_id: PeerId
    leaf: bytes
    issuer: bytes
    root: bytes
    epochs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admittance:
    """A redeemed ticket: ``answer`` goes to the joiner once the new state is stored."""

    answer: bytes
    grant: Grant


def with_host(
    hosts: Mapping[PeerId, EnrolledHost], leaf: bytes, sealing_public: bytes, now_unix_s: float
) -> Mapping[PeerId, EnrolledHost]:
    """These hosts and the one that has this certificate now.

    Where they are too many, those that can only join again are forgotten.

    Raises:
        LimitExceeded: when they are too many even so.
    """
    made = parse_leaf(leaf)
    kept = dict(hosts)
    if made.peer_id not in kept and len(kept) >= HOSTS_MAX:
        kept = {id_: host for id_, host in kept.items() if host.may_renew(now_unix_s)}
        if len(kept) >= HOSTS_MAX:
            raise LimitExceeded(f"an issuer keeps at most {HOSTS_MAX} hosts")
    kept[made.peer_id] = EnrolledHost(
        sealing_public=sealing_public, leaf_ends_unix_s=made.not_after_unix_s
    )
    return MappingProxyType(kept)
