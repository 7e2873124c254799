"""The record of a peer: how to reach it and how to open what it seals, signed by itself.

Everybody on the overlay may read it, so it names no tenant. It carries the peer's certificate and
its issuer's, so that a host that has never met the peer can check it offline. A record is replaced
by one of a higher (generation, sequence number).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from security.certificate import Issuer, IssuerId, Leaf, OverlayId, parse_leaf
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.errors import (
    IdentityMismatch,
    LimitExceeded,
    MalformedObject,
)
from security.judge import judge_issuer, judge_leaf
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.signed import Kind, Verified, sign_as_peer, verify_peer, vouch
from security.trust import Trust
from security.wire import decode

VERSION = 1
RECORD_BYTES_MAX = 8192
ADDRESSES_MAX = 16
MODELS_MAX = 16
BOOT_SALT_BYTES = 16

Text = Annotated[str, Meta(min_length=1, max_length=128)]
Address = Annotated[str, Meta(min_length=1, max_length=80)]
Der = Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]


class RecordBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="peer"):
    """The form on the wire."""

    v: Annotated[int, Meta(ge=0, le=255)]
    leaf: Der
    issuer: Der
    addresses: Annotated[list[Address], Meta(max_length=ADDRESSES_MAX)]
    generation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    boot_salt: Annotated[bytes, Meta(min_length=BOOT_SALT_BYTES, max_length=BOOT_SALT_BYTES)]
    seq: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    zone: Text | None
    models: Annotated[list[Text], Meta(max_length=MODELS_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a peer says of itself. ``boot_salt`` is fresh at each start of its process."""

    peer_id: PeerId
    leaf: Leaf
    issuer_id: IssuerId
    issuer_der: bytes
    addresses: tuple[str, ...]
    generation: int
    boot_salt: bytes
    seq: int
    zone: str | None
    models: tuple[str, ...]

    def supersedes(self, other: Record) -> bool:
        """True when this one is newer."""
        return (self.generation, self.seq) > (other.generation, other.seq)


def sign_record(
    keys: HostKeys,
    overlay_id: OverlayId,
    *,
    leaf: bytes,
    issuer: bytes,
    addresses: Sequence[str],
    generation: int,
    boot_salt: bytes,
    seq: int,
    zone: str | None = None,
    models: Sequence[str] = (),
) -> bytes:
    """Signs a host's own record.

    Args:
        keys: the host's keys.
        overlay_id: the overlay.
        leaf: its certificate.
        issuer: its issuer's certificate.
        addresses: where it can be reached, in the text form of ``overlay.address``.
        generation: of this start of the process; never falls.
        boot_salt: 16 fresh bytes of this start of the process.
        seq: rises with each record of a generation.
        zone: where it stands, for zone rules.
        models: the names of what it serves.

    Raises:
        LimitExceeded: when a field is over its bound.
        IdentityMismatch: when the certificate is another host's.
    """
    if parse_leaf(leaf).peer_id != keys.peer_id:
        raise IdentityMismatch("that certificate is another host's")
    body = msgspec.msgpack.encode(
        RecordBody(
            v=VERSION,
            leaf=leaf,
            issuer=issuer,
            addresses=list(addresses),
            generation=generation,
            boot_salt=boot_salt,
            seq=seq,
            zone=zone,
            models=list(models),
        )
    )
    try:
        _decode(body)
    except MalformedObject:
        raise LimitExceeded("a field of the record is over its bound") from None
    return sign_as_peer(keys, overlay_id, Kind.RECORD, body)


def open_record(
    data: bytes, trust: Trust, now_unix_s: float, revocations: RevocationSet
) -> Verified[Record]:
    """Checks the record of another host: its signature, its certificate, and that it is in force.

    Raises:
        Malformed, Refused, UnsupportedVersion: one subclass a cause.
    """
    signed = verify_peer(data, Kind.RECORD, trust.overlay_id, size_max=RECORD_BYTES_MAX)
    body = _decode(signed.value)
    leaf, issuer = trust.leaf(body.leaf, body.issuer)
    if leaf.peer_id != signed.signer:
        raise IdentityMismatch("a record is signed by the host that it is about")
    judge_issuer(issuer, now_unix_s=now_unix_s, revocations=revocations)
    judge_leaf(
        leaf,
        now_unix_s=now_unix_s,
        revocations=revocations,
        overlay_id=trust.overlay_id,
        expected=leaf.peer_id,
        key=None,
    )
    return vouch(_record(body, leaf, issuer), of=signed)


def _decode(data: bytes) -> RecordBody:
    return decode(data, RecordBody, VERSION, "a peer's record")


def _record(body: RecordBody, leaf: Leaf, issuer: Issuer) -> Record:
    return Record(
        peer_id=leaf.peer_id,
        leaf=leaf,
        issuer_id=issuer.issuer_id,
        issuer_der=issuer.der,
        addresses=tuple(body.addresses),
        generation=body.generation,
        boot_salt=body.boot_salt,
        seq=body.seq,
        zone=body.zone,
        models=tuple(body.models),
    )
