"""A new overlay with all its hosts enrolled, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from chaos.entropy import SeededEntropy
from overlay.identity import Identity
from security.authority import Authority
from security.certificate import LEAF_LIFETIME_S, RootKey, make_issuer
from security.keys import HostKeys

MakeEntropy = Callable[[str], SeededEntropy]
"""A stream of randomness of its own for every purpose."""


def found(
    members: Mapping[str, Sequence[str]],
    tenants: Sequence[str],
    *,
    entropy: MakeEntropy,
    now_unix_s: float,
    leaf_s: float = LEAF_LIFETIME_S,
) -> tuple[Authority, dict[str, Identity]]:
    """Founds an overlay; ``members`` names the tenants of each host.

    Returns:
        Its authority, and the identity of every host in the order given.
    """
    drawn = entropy("authority")
    authority = Authority.create(drawn.secret, now_unix_s, tenants)
    identities: dict[str, Identity] = {}
    for name, its_tenants in members.items():
        authority, identities[name] = enrol(
            authority,
            its_tenants,
            keys=HostKeys.generate(entropy(f"keys {name}").secret),
            entropy=drawn,
            now_unix_s=now_unix_s,
            leaf_s=leaf_s,
        )
    return authority, identities


def enrol(
    authority: Authority,
    tenants: Sequence[str],
    *,
    keys: HostKeys,
    entropy: SeededEntropy,
    now_unix_s: float,
    leaf_s: float = LEAF_LIFETIME_S,
) -> tuple[Authority, Identity]:
    """Admits one more host to an overlay and to some of its tenants."""
    ids = tuple(authority.tenant_id(tenant) for tenant in tenants)
    authority, grant = authority.enrol(
        keys.peer_id, keys.sealing_public, ids, entropy.secret, now_unix_s, lifetime_s=leaf_s
    )
    identity = Identity(keys=keys, leaf=grant.leaf, issuer=grant.issuer, trust=authority.trust)
    return authority, identity


def another_issuer(authority: Authority, *, entropy: SeededEntropy, now_unix_s: float) -> Authority:
    """A second issuer under the same root, which keeps nothing yet and does not hold the root."""
    root = authority.root
    assert isinstance(root, RootKey)
    issuer = make_issuer(root, entropy.secret, now_unix_s)
    return Authority.joined(root.public_part, issuer)
