"""The hosts that an issuer has given certificates to, and what each of them gets."""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from security.certificate import RENEWAL_GRACE_S, parse_leaf
from security.errors import (
    Expired,
    HostUnknown,
    LimitExceeded,
    NameNotGranted,
    Revoked,
    UnknownHost,
)
from security.http_names import granted_names, not_granted
from security.peer_id import PeerId

HOSTS_MAX = 16_384


class HostRole(enum.StrEnum):
    """What a host was invited for."""

    PEER = "peer"
    ISSUER = "issuer"
    """It may ask the root's owner to make it an issuer, and is a peer as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledHost:
    """One of them. ``leaf_ends_unix_s`` is None where an older version did not write it down.

    ``sealing_public`` is the key that the host itself has shown, with a signature: empty for one
    that was adopted and has not come yet, to which nothing is sealed.
    ``http_names`` are those that the certificate of its HTTP face may have, each as it is spelled.
    """

    sealing_public: bytes
    leaf_ends_unix_s: int | None
    http_names: tuple[str, ...] = ()
    role: HostRole = HostRole.PEER

    def need_sealing(self) -> bytes:
        """Its sealing key. Raises UnknownHost when it has not shown it yet."""
        if not self.sealing_public:
            raise UnknownHost(
                "that adopted host has not shown its key yet: it does so when it comes back under "
                "this issuer, once its own is revoked or has ended"
            )
        return self.sealing_public

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
    hosts: Mapping[PeerId, EnrolledHost],
    leaf: bytes,
    sealing_public: bytes,
    now_unix_s: float,
    role: HostRole | None = None,
) -> Mapping[PeerId, EnrolledHost]:
    """These hosts and the one that has this certificate now.

    Where they are too many, those that can only join again are forgotten.

    Args:
        hosts: those that are enrolled.
        leaf: its certificate.
        sealing_public: its sealing key.
        now_unix_s: the time.
        role: what it was invited for; None where that is as before.

    Raises:
        LimitExceeded: when they are too many even so.
    """
    made = parse_leaf(leaf)
    kept = _with_room(hosts, made.peer_id, now_unix_s)
    before = kept.get(made.peer_id)
    kept[made.peer_id] = EnrolledHost(
        sealing_public=sealing_public,
        leaf_ends_unix_s=made.not_after_unix_s,
        http_names=() if before is None else before.http_names,
        role=role or (HostRole.PEER if before is None else before.role),
    )
    return MappingProxyType(kept)


def good_host(
    hosts: Mapping[PeerId, EnrolledHost], revoked: Container[str], peer_id: PeerId
) -> EnrolledHost:
    """A host that is enrolled and not revoked.

    Raises:
        Revoked, UnknownHost: when it is revoked, or no such host is enrolled.
    """
    if peer_id in revoked:
        raise Revoked("that host is revoked")
    found = hosts.get(peer_id)
    if found is None:
        raise UnknownHost("this issuer has enrolled no such host: let it join first")
    return found


def sealing_to_renew(host: EnrolledHost | None, shown: bytes, now_unix_s: float) -> bytes:
    """The sealing key of a host that gets its next certificate; ``shown`` where there is none.

    Raises:
        HostUnknown: when it is not enrolled, or no sealing key is known.
        Expired: when its last certificate ended too long ago.
    """
    if host is None:
        raise HostUnknown("this issuer has not enrolled that host")
    if not host.may_renew(now_unix_s):
        raise Expired("the host's certificate ended more than 30 days ago")
    sealing = host.sealing_public or shown
    if not sealing:
        raise HostUnknown("that host was adopted and has not shown its sealing key")
    return sealing


def with_http_names(
    hosts: Mapping[PeerId, EnrolledHost], peer_id: PeerId, names: Iterable[str], *, remove: bool
) -> Mapping[PeerId, EnrolledHost]:
    """These hosts, of which one may have more HTTP names, or fewer. Granted ones stay granted.

    Raises:
        UnknownHost: when no such host is enrolled.
        NameNotGranted: when one that is to be removed was not granted.
        MalformedName, LimitExceeded: as ``granted_names``.
    """
    host = hosts.get(peer_id)
    if host is None:
        raise UnknownHost("this issuer has enrolled no such host: let it join first")
    given = granted_names(names)
    if remove:
        strange = not_granted(given, host.http_names)
        if strange:
            raise NameNotGranted(f"{', '.join(strange)}: not granted to that host", tuple(strange))
        names_now = tuple(each for each in host.http_names if each not in given)
    else:
        names_now = granted_names([*host.http_names, *given])
    return MappingProxyType({**hosts, peer_id: replace(host, http_names=names_now)})


def with_adopted(
    hosts: Mapping[PeerId, EnrolledHost], peer_id: PeerId, now_unix_s: float
) -> Mapping[PeerId, EnrolledHost]:
    """These hosts and one that another issuer has enrolled; it gets no certificate yet.

    Its sealing key is not asked of anybody else: who has the other issuer's key could name his own.

    Raises:
        LimitExceeded: when they are too many.
    """
    kept = _with_room(hosts, peer_id, now_unix_s)
    kept.setdefault(peer_id, EnrolledHost(sealing_public=b"", leaf_ends_unix_s=None))
    return MappingProxyType(kept)


def _with_room(
    hosts: Mapping[PeerId, EnrolledHost], peer_id: PeerId, now_unix_s: float
) -> dict[PeerId, EnrolledHost]:
    kept = dict(hosts)
    if peer_id not in kept and len(kept) >= HOSTS_MAX:
        kept = {id_: host for id_, host in kept.items() if host.may_renew(now_unix_s)}
        if len(kept) >= HOSTS_MAX:
            raise LimitExceeded(f"an issuer keeps at most {HOSTS_MAX} hosts")
    return kept
