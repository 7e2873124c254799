"""EPOCH: a tenant's roster and keys, signed by its steward and sealed to its members.

It is gossiped and kept by everybody, so that late joiners get it, and read by members only.

Rules
1. In the clear stand the overlay, the issuer, an opaque name of the tenant (a PRF under its
   secret), epoch and version, and sealed entries without labels: one a member, made up with entries
   for nobody to a power of two. Tenant, name and members are in the sealed roster, padded as well.
2. Each object has a key of its own, sealed by HPKE (RFC 9180: X25519, HKDF-SHA256,
   ChaCha20-Poly1305) to each member's sealing key; the roster is sealed with that key. The suite
   has a number on the wire, so that a later one can be told from it.
3. A roster is believed only from the tenant's steward: the TenantId inside commits to the issuer
   that signed the object.
4. There is one object for each (epoch, version): the steward keeps what it made. How one follows
   from the one before is in ``security/roster.py``.
5. The object id says nothing and stays for the tenant's life. It is bound to the roster by the
   roster's own seal and by the steward's signature, and to no secret that a rotation replaces.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from msgspec import Meta

from security.certificate import IssuerId, IssuerKey, OverlayId
from security.errors import (
    LimitExceeded,
    MalformedIdentity,
    MalformedObject,
    NotSteward,
    UnsupportedVersion,
)
from security.judge import judge_issuer
from security.keys import HostKeys, Secret
from security.peer_id import PeerId, parse_peer_id
from security.revocation import RevocationSet
from security.signed import Kind, Verified, sign_as_issuer, verify_issuer, vouch
from security.tenant import (
    ID_PATTERN,
    NAME_PATTERN,
    NONCE_BYTES,
    TenantId,
    TenantName,
    tenant_id_of,
)
from security.tenant_keys import SECRET_BYTES, TenantKeys, derive
from security.trust import Trust
from security.wire import decode

VERSION = 1
SUITE_X25519 = 1
"""DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305: what this version makes and reads."""

SUITE_X25519_MLKEM768 = 2
"""Reserved for the hybrid of X25519 and ML-KEM-768. Nothing makes or reads it."""

EPOCH_NUMBER_MAX = (1 << 32) - 1
MEMBERS_MAX = 1024
"""80 bytes and 40 us of trial opening a member; a key tree is needed above."""

MEMBERS_PADDED_MIN = 8
EPOCH_BYTES_MAX = 400 << 10
ROSTER_PADDED_MIN_BYTES = 1024
OBJECT_ID_BYTES = 16

_ENTRY_BYTES = 32 + SECRET_BYTES + 16
_ROSTER_NONCE = bytes(12)
"""Each object's key seals one roster."""

EpochNumber = Annotated[int, Meta(ge=1, le=EPOCH_NUMBER_MAX)]
Bytes32 = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
Entry = Annotated[bytes, Meta(min_length=_ENTRY_BYTES, max_length=_ENTRY_BYTES)]


class _Suited(msgspec.Struct, frozen=True, kw_only=True, tag="epoch"):
    """Any EPOCH object of this version; with another suite its entries have another form."""

    v: Annotated[int, Meta(ge=0, le=255)]
    suite: Annotated[int, Meta(ge=0, le=255)] = SUITE_X25519


class EpochBody(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="epoch",
):
    """What anybody can read."""

    v: Annotated[int, Meta(ge=0, le=255)]
    object_id: Annotated[bytes, Meta(min_length=OBJECT_ID_BYTES, max_length=OBJECT_ID_BYTES)]
    epoch: EpochNumber
    version: EpochNumber
    entries: Annotated[list[Entry], Meta(min_length=1, max_length=MEMBERS_MAX)]
    roster: Annotated[bytes, Meta(max_length=EPOCH_BYTES_MAX)]
    suite: Annotated[int, Meta(ge=SUITE_X25519, le=SUITE_X25519)] = SUITE_X25519


class RosterMember(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """A member and the key to which things are sealed for it."""

    peer_id: Annotated[str, Meta(max_length=64)]
    sealing: Bytes32


class Roster(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="roster",
):
    """What members can read."""

    v: Annotated[int, Meta(ge=0, le=255)]
    tenant_id: Annotated[str, Meta(pattern=ID_PATTERN)]
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    epoch_key: Bytes32
    chain_secret: Bytes32
    members: Annotated[list[RosterMember], Meta(max_length=MEMBERS_MAX)]
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochHeader:
    """What a relay knows of an EPOCH object. Newest is the highest (epoch, version)."""

    steward: IssuerId
    object_id: bytes
    epoch: int
    version: int

    def supersedes(self, other: EpochHeader) -> bool:
        """True when this is a newer object of the same tenant."""
        return (self.steward, self.object_id) == (other.steward, other.object_id) and (
            (self.epoch, self.version) > (other.epoch, other.version)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantEpoch:
    """A tenant as its members know it. ``members`` gives each member's public sealing key.

    ``public``: every host of the overlay is a member, and nothing is put into it unasked.
    """

    tenant_id: TenantId
    name: TenantName
    epoch: int
    version: int
    members: Mapping[PeerId, bytes]
    keys: TenantKeys
    header: EpochHeader
    public: bool = False

    def supersedes(self, other: TenantEpoch) -> bool:
        """True when this is newer knowledge of the same tenant."""
        return self.header.supersedes(other.header)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochContent:
    """What a steward puts into an EPOCH object; ``security/roster.py`` makes it."""

    tenant_id: TenantId
    nonce: bytes
    name: TenantName
    epoch: int
    version: int
    members: Mapping[PeerId, bytes]
    epoch_key: bytes = field(repr=False)
    chain_secret: bytes = field(repr=False)
    object_id: bytes
    public: bool = False


def object_id_of(chain_secret: bytes, tenant_id: TenantId) -> bytes:
    """The opaque name of a tenant's EPOCH objects, made once of its first chain secret."""
    return derive(chain_secret, b"object", bytes.fromhex(tenant_id), size_bytes=OBJECT_ID_BYTES)


def make_epoch(steward: IssuerKey, content: EpochContent, secret: Secret) -> bytes:
    """Seals and signs an EPOCH object.

    Args:
        steward: the tenant's issuer.
        content: roster and keys.
        secret: where the object's own key comes from.

    Raises:
        LimitExceeded: when there are too many members.
        NotSteward: when the tenant is another issuer's.
    """
    if len(content.members) > MEMBERS_MAX:
        raise LimitExceeded(f"a tenant has at most {MEMBERS_MAX} members")
    if tenant_id_of(steward.issuer_id, content.nonce) != content.tenant_id:
        raise NotSteward("another issuer keeps that tenant")
    header = EpochHeader(
        steward=steward.issuer_id,
        object_id=content.object_id,
        epoch=content.epoch,
        version=content.version,
    )
    context = _context(steward.overlay_id, header)
    content_key = secret(SECRET_BYTES)
    roster = ChaCha20Poly1305(content_key).encrypt(
        _ROSTER_NONCE, _pad(_encode_roster(content)), context
    )
    body = EpochBody(
        v=VERSION,
        object_id=content.object_id,
        epoch=content.epoch,
        version=content.version,
        entries=_seal_entries(content, content_key, context, secret),
        roster=roster,
    )
    return sign_as_issuer(steward, Kind.EPOCH, msgspec.msgpack.encode(body))


def read_epoch(
    data: bytes, trust: Trust, now_unix_s: float, revocations: RevocationSet
) -> Verified[EpochHeader]:
    """Checks an EPOCH object as a relay does, member or not.

    Raises:
        Malformed, Refused, UnsupportedVersion: one subclass a cause.
    """
    signed, body = _verify(data, trust, now_unix_s, revocations)
    return vouch(_header(signed, body), of=signed)


def open_epoch(
    data: bytes, trust: Trust, keys: HostKeys, now_unix_s: float, revocations: RevocationSet
) -> Verified[TenantEpoch] | None:
    """Checks an EPOCH object and opens it if this host is a member.

    Returns:
        The tenant, or None when nothing in it is sealed to us.

    Raises:
        Malformed, Refused, UnsupportedVersion: one subclass a cause; ``NotSteward`` when the
            issuer that signed it does not keep the tenant.
    """
    signed, body = _verify(data, trust, now_unix_s, revocations)
    header = _header(signed, body)
    context = _context(trust.overlay_id, header)
    content_key = _find_entry(body.entries, keys.sealing, context)
    if content_key is None:
        return None
    roster = _open_roster(body.roster, content_key, context)
    tenant_id = TenantId(roster.tenant_id)
    if tenant_id_of(header.steward, roster.nonce) != tenant_id:
        raise NotSteward("the issuer that signed this roster does not keep its tenant")
    members = _members(roster)
    if members.get(keys.peer_id) != keys.sealing_public:
        return None
    tenant = TenantEpoch(
        tenant_id=tenant_id,
        name=TenantName(roster.name),
        epoch=header.epoch,
        version=header.version,
        members=members,
        keys=TenantKeys.derive(
            tenant_id=tenant_id,
            epoch=header.epoch,
            epoch_key=roster.epoch_key,
            chain_secret=roster.chain_secret,
        ),
        header=header,
        public=roster.public,
    )
    return vouch(tenant, of=signed)


def _verify(
    data: bytes, trust: Trust, now_unix_s: float, revocations: RevocationSet
) -> tuple[Verified[bytes], EpochBody]:
    signed = verify_issuer(data, Kind.EPOCH, trust, size_max=EPOCH_BYTES_MAX)
    issuer = trust.issuer(IssuerId(signed.signer))
    judge_issuer(issuer, now_unix_s=now_unix_s, revocations=revocations)
    suite = decode(signed.value, _Suited, VERSION, "an EPOCH object").suite
    if suite != SUITE_X25519:
        raise UnsupportedVersion(f"an EPOCH object sealed with suite {suite}")
    return signed, decode(signed.value, EpochBody, VERSION, "an EPOCH object")


def _header(signed: Verified[bytes], body: EpochBody) -> EpochHeader:
    return EpochHeader(
        steward=IssuerId(signed.signer),
        object_id=body.object_id,
        epoch=body.epoch,
        version=body.version,
    )


def _context(overlay_id: OverlayId, header: EpochHeader) -> bytes:
    return (
        b"rhizome/epoch-seal/v1\0"
        + bytes.fromhex(overlay_id)
        + bytes.fromhex(header.steward)
        + header.object_id
        + struct.pack(">II", header.epoch, header.version)
    )


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _seal_entries(
    content: EpochContent, content_key: bytes, context: bytes, secret: Secret
) -> list[bytes]:
    suite = _suite()
    entries = [
        suite.encrypt(content_key, X25519PublicKey.from_public_bytes(sealing), context)
        for sealing in content.members.values()
    ]
    padded = max(MEMBERS_PADDED_MIN, 1 << (len(entries) - 1).bit_length() if entries else 0)
    while len(entries) < min(padded, MEMBERS_MAX):
        nobody = X25519PrivateKey.from_private_bytes(secret(SECRET_BYTES)).public_key()
        entries.append(suite.encrypt(content_key, nobody, context))
    # They begin with fresh public keys: sorted, their places say nothing.
    return sorted(entries)


def _find_entry(entries: list[bytes], sealing: X25519PrivateKey, context: bytes) -> bytes | None:
    suite = _suite()
    for entry in entries:
        try:
            content_key = suite.decrypt(entry, sealing, context)
        except (InvalidTag, ValueError):
            continue
        if len(content_key) == SECRET_BYTES:
            return content_key
    return None


def _encode_roster(content: EpochContent) -> bytes:
    return msgspec.msgpack.encode(
        Roster(
            v=VERSION,
            tenant_id=content.tenant_id,
            nonce=content.nonce,
            name=content.name,
            epoch_key=content.epoch_key,
            chain_secret=content.chain_secret,
            members=[
                RosterMember(peer_id=peer_id, sealing=sealing)
                for peer_id, sealing in sorted(content.members.items())
            ],
            public=content.public,
        )
    )


def _pad(plain: bytes) -> bytes:
    size = max(ROSTER_PADDED_MIN_BYTES, 1 << (len(plain) + 3).bit_length())
    return struct.pack(">I", len(plain)) + plain + bytes(size - 4 - len(plain))


def _open_roster(sealed: bytes, content_key: bytes, context: bytes) -> Roster:
    try:
        padded = ChaCha20Poly1305(content_key).decrypt(_ROSTER_NONCE, sealed, context)
        (size,) = struct.unpack_from(">I", padded)
    except (InvalidTag, struct.error):
        raise MalformedObject("the roster of an EPOCH object cannot be read") from None
    return decode(padded[4 : 4 + size], Roster, VERSION, "a roster")


def _members(roster: Roster) -> Mapping[PeerId, bytes]:
    try:
        members = {parse_peer_id(one.peer_id): one.sealing for one in roster.members}
    except MalformedIdentity:
        raise MalformedObject("a roster names a member that is no PeerId") from None
    if len(members) != len(roster.members):
        raise MalformedObject("a roster names a member twice")
    return MappingProxyType(members)
