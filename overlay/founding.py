"""How an overlay begins: ``rhizome init``, in an empty folder."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.home import Home, HomeFile
from overlay.identity import kept_keys, store_identity
from overlay.ports import Clock, Entropy
from overlay.root import seal_apart
from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes


def found_overlay(
    home: Home,
    tenants: Sequence[str],
    clock: Clock,
    entropy: Entropy,
    *,
    passphrase: str | None = None,
) -> Authority:
    """Begins an overlay in an empty folder: root, issuer, tenants, and this host as first member.

    With ``passphrase`` the root's key is kept apart from the issuer's, encrypted.

    One that was cut off before this host had its certificate is completed: its root key is never
    thrown away.

    Raises:
        HomeError, StorageError: When the folder cannot be written, or belongs to another overlay.
        SecurityError: When a tenant's name cannot be one.
    """
    now_unix_s = clock.unix_s()
    begun = home.read(HomeFile.AUTHORITY)
    if begun is None:
        authority = Authority.create(entropy.secret, now_unix_s, tenants)
        if passphrase is not None:
            authority = seal_apart(home, authority, passphrase, entropy)
    else:
        authority = authority_from_bytes(begun)
        for name in sorted(set(tenants) - set(authority.tenant_names)):
            authority, _ = authority.create_tenant(name, entropy.secret)
    if home.overlay_id() is not None:
        home.claim(authority.trust.overlay_id)
    keys = kept_keys(home, entropy)
    authority, grant = authority.enrol(
        keys.peer_id, keys.sealing_public, tuple(authority.tenants), entropy.secret, now_unix_s
    )
    home.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
    store_identity(home, keys, grant, now_unix_s)
    return authority
