"""An overlay, hosts and tenants for the tests of security, all from seeded keys."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from security.authority import Authority
from security.certificate import IssuerKey, RootKey, issue_leaf, make_issuer, make_root
from security.epoch import TenantEpoch, open_epoch
from security.keys import HostKeys
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.trust import Trust

NOW_S = 1_800_000_000.0
DAY_S = 86_400
NOTHING = RevocationSet()


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


class Overlay:
    """A root and an issuer, with their private keys: an adversary owns another one."""

    def __init__(self, seed: int = 1) -> None:
        self.secret = seeded(seed)
        self.root: RootKey = make_root(self.secret, NOW_S)
        self.issuer: IssuerKey = make_issuer(self.root, self.secret, NOW_S)
        self.trust = Trust.of(self.root.der, [self.issuer.der])
        self.overlay_id = self.root.overlay_id

    def host(self) -> HostKeys:
        return HostKeys.generate(self.secret)

    def leaf(self, keys: HostKeys, now_s: float = NOW_S) -> bytes:
        return issue_leaf(self.issuer, keys.peer_id, self.secret, now_s)

    def revoked(self, *ids: str) -> RevocationSet:
        return RevocationSet.of(
            open_revocation(make_revocation(self.issuer, one, NOW_S), self.trust) for one in ids
        )


@dataclass(frozen=True, kw_only=True)
class Member:
    """A host on the roster of tenant ``alpha``, as it sees itself."""

    authority: Authority
    keys: HostKeys
    leaf: bytes
    epoch_object: bytes
    tenant: TenantEpoch


def member(seed: int = 1) -> Member:
    """An overlay with the tenants alpha and beta, and one host that belongs to alpha alone."""
    secret = seeded(seed)
    authority = Authority.create(secret, NOW_S, ["alpha", "beta"])
    keys = HostKeys.generate(secret)
    authority, grant = authority.enrol(
        keys.peer_id, keys.sealing_public, [authority.tenant_id("alpha")], secret, NOW_S
    )
    opened = open_epoch(grant.epochs[0], authority.trust, keys, NOW_S, NOTHING)
    assert opened is not None
    return Member(
        authority=authority,
        keys=keys,
        leaf=grant.leaf,
        epoch_object=grant.epochs[0],
        tenant=opened.value,
    )
