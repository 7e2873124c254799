"""How a tenant changes: each change makes the content of its next EPOCH object.

Rules
1. Who comes gets the present epoch's key: version + 1. Who comes can read what was published in
   this epoch, and nothing of the epochs before.
2. Who goes must not have the next key: epoch + 1 with a fresh key, version 1.
3. The chain secret stays, so that nothing cached is lost. A *hard* rotation replaces it as well,
   for a compromise: block names, cache salts and all that was cached are void then.
4. The object id stays in every case. So the newest object takes the older one's place wherever it
   is kept, those that are left out learn that they are, and nobody else learns what has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from security.certificate import IssuerId
from security.epoch import (
    EPOCH_NUMBER_MAX,
    MEMBERS_MAX,
    EpochContent,
    EpochHeader,
    TenantEpoch,
    object_id_of,
)
from security.errors import LimitExceeded, NotAMember
from security.keys import Secret, check_sealing_public
from security.peer_id import PeerId
from security.tenant import TenantId, TenantName
from security.tenant_keys import SECRET_BYTES, TenantKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTenant:
    """A tenant and the EPOCH object that its members have now, as its steward keeps them."""

    content: EpochContent
    epoch_object: bytes

    def has_room(self, peer_id: PeerId) -> bool:
        """Whether that host is on the roster, or can come on it."""
        members = self.content.members
        return peer_id in members or len(members) < MEMBERS_MAX


def first_content(
    tenant_id: TenantId, nonce: bytes, name: TenantName, secret: Secret, *, public: bool
) -> EpochContent:
    """A tenant in its first epoch, without members."""
    epoch_key, chain_secret = secret(SECRET_BYTES), secret(SECRET_BYTES)
    return EpochContent(
        tenant_id=tenant_id,
        nonce=nonce,
        name=name,
        epoch=1,
        version=1,
        members=MappingProxyType({}),
        epoch_key=epoch_key,
        chain_secret=chain_secret,
        object_id=object_id_of(chain_secret, tenant_id),
        public=public,
    )


def with_member(content: EpochContent, peer_id: PeerId, sealing_public: bytes) -> EpochContent:
    """The host is on the roster, with this key.

    Raises:
        MalformedObject: when nothing can be sealed to that key.
        LimitExceeded: when the version's number has come to its end.
    """
    check_sealing_public(sealing_public)
    return replace(
        content,
        version=_next(content.version),
        members=MappingProxyType({**content.members, peer_id: sealing_public}),
    )


def without_member(content: EpochContent, peer_id: PeerId, secret: Secret) -> EpochContent:
    """The host is on the roster no longer, and the epoch is a new one.

    Raises:
        NotAMember: when it is not on it.
        LimitExceeded: when the epoch's number has come to its end.
    """
    if peer_id not in content.members:
        raise NotAMember(f"that host is no member of tenant {content.name}")
    members = {each: key for each, key in content.members.items() if each != peer_id}
    return replace(rotated(content, secret, hard=False), members=MappingProxyType(members))


def rotated(content: EpochContent, secret: Secret, *, hard: bool) -> EpochContent:
    """The same roster in a new epoch; ``hard``: with a new chain secret too.

    Raises:
        LimitExceeded: when the epoch's number has come to its end.
    """
    return replace(
        content,
        epoch=_next(content.epoch),
        version=1,
        epoch_key=secret(SECRET_BYTES),
        chain_secret=secret(SECRET_BYTES) if hard else content.chain_secret,
    )


def caught_up(content: EpochContent, known: TenantEpoch, secret: Secret) -> EpochContent:
    """The next content of a tenant of which newer news is known than the steward's state has.

    A steward that was restored from an older copy has forgotten what it signed since. The roster is
    that of the news. Secrets of its own that are not today's any more are not used again: they are
    drawn anew, in a new epoch.

    Raises:
        LimitExceeded: when the epoch's or version's number has come to its end.
    """
    keys = TenantKeys.derive(
        tenant_id=content.tenant_id,
        epoch=known.epoch,
        epoch_key=content.epoch_key,
        chain_secret=content.chain_secret,
    )
    newest = replace(content, epoch=known.epoch, version=known.version, members=known.members)
    if keys == known.keys:
        return replace(newest, version=_next(known.version))
    return rotated(newest, secret, hard=keys.chain_key != known.keys.chain_key)


def is_behind(
    kept: Iterable[KeptTenant], steward: IssuerId, header: EpochHeader, data: bytes
) -> bool:
    """Whether a steward has signed another object of a tenant that its state knows nothing of.

    That is a newer one, or one of the same number that is not the one that it keeps.
    """
    return header.steward == steward and any(
        (header.epoch, header.version) >= (tenant.content.epoch, tenant.content.version)
        and data != tenant.epoch_object
        for tenant in kept
        if tenant.content.object_id == header.object_id
    )


def _next(number: int) -> int:
    if number >= EPOCH_NUMBER_MAX:
        raise LimitExceeded("this tenant has used up its numbers: make a new one")
    return number + 1
