"""Signed objects: bytes that an issuer or a host stands for, carried exactly as they were signed.

Rules
1. What is signed is ``rhizome/<kind>/v1`` and a zero byte, the overlay id, the signer and the body:
   a signature for one kind, overlay or signer is none for another.
2. The body travels as the bytes that were signed; nothing is encoded again to verify it. The array
   around it is not signed, so only one spelling of it is taken: whoever carries an object cannot
   make a second one of it that everybody believes as well.
3. :class:`Verified` is made in this package only, after the signature held. A function that takes
   one needs no check of its own.
4. A host's key is its name, so its signature can be checked by anybody; that the host belongs to
   the overlay is said by its record. An issuer's is checked against :class:`security.trust.Trust`.
"""

from __future__ import annotations

import enum
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Generic, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from security.certificate import IssuerId, IssuerKey, OverlayId
from security.errors import (
    BadSignature,
    LimitExceeded,
    MalformedObject,
    UnsupportedVersion,
    WrongKind,
    WrongOverlay,
)
from security.keys import HostKeys
from security.peer_id import PeerId, key_of_bytes, peer_id_of_bytes, public_bytes_of
from security.signing import message_of
from security.trust import Trust
from security.wire import decode

VERSION = 1

BODY_BYTES_MAX = 512 << 10
"""The largest is an epoch of 1,024 members."""

OBJECT_BYTES_MAX = BODY_BYTES_MAX + 256

_OVERLAY_BYTES, _ISSUER_BYTES, _PEER_BYTES = 16, 16, 32


class Kind(enum.StrEnum):
    """What a signature is for."""

    RECORD = "record"
    EPOCH = "epoch"
    REVOCATION = "revocation"
    ADMISSION = "admission"
    JOIN = "join"
    RENEW = "renew"
    RENEWAL = "renewal"
    ISSUER_REQUEST = "issuer_request"
    ISSUER = "issuer"
    HEAD = "head"
    FRAME = "frame"


class SignedObject(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """The form on the wire, an array to be small. ``signer`` is a host's key or an issuer's id."""

    v: Annotated[int, Meta(ge=0, le=255)]
    overlay: Annotated[bytes, Meta(min_length=_OVERLAY_BYTES, max_length=_OVERLAY_BYTES)]
    kind: Annotated[str, Meta(max_length=16)]
    signer: Annotated[bytes, Meta(min_length=_ISSUER_BYTES, max_length=_PEER_BYTES)]
    body: Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


T = TypeVar("T")


class _Witness:
    """Held by this package alone: shows that a check was made."""

    __slots__ = ()


_WITNESS = _Witness()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(Generic[T]):
    """A value whose origin has been checked, and the signed bytes that it came in."""

    value: T
    signer: str
    data: bytes = field(repr=False)
    witness: InitVar[_Witness]

    def __post_init__(self, witness: _Witness) -> None:
        if witness is not _WITNESS:
            raise TypeError("only security makes Verified values")


def vouch(value: T, *, of: Verified[bytes]) -> Verified[T]:
    """For the modules of this package: what the body of a checked object means."""
    return Verified(value=value, signer=of.signer, data=of.data, witness=_WITNESS)


def sign_as_peer(keys: HostKeys, overlay_id: OverlayId, kind: Kind, body: bytes) -> bytes:
    """Signs ``body`` with a host's identity key.

    Raises:
        LimitExceeded: when the body is over its size.
    """
    return _sign(keys.identity, overlay_id, kind, public_bytes_of(keys.peer_id), body)


def sign_as_issuer(issuer: IssuerKey, kind: Kind, body: bytes) -> bytes:
    """Signs ``body`` with an issuer's key.

    Raises:
        LimitExceeded: when the body is over its size.
    """
    return _sign(issuer.private, issuer.overlay_id, kind, bytes.fromhex(issuer.issuer_id), body)


def verify_peer(
    data: bytes, kind: Kind, overlay_id: OverlayId, *, size_max: int = OBJECT_BYTES_MAX
) -> Verified[bytes]:
    """Checks an object that a host signed; ``signer`` is its PeerId.

    Raises:
        MalformedObject, UnsupportedVersion: when it is no signed object of ours.
        WrongKind, WrongOverlay: when it is another one than was asked for.
        BadSignature: when the signer did not sign it.
    """
    return _verify_peer(data, kind, overlay_id, size_max)


def verify_issuer(
    data: bytes, kind: Kind, trust: Trust, *, size_max: int = OBJECT_BYTES_MAX
) -> Verified[bytes]:
    """Checks an object that an issuer signed; ``signer`` is its IssuerId.

    The issuer's dates and revocation are judged by the caller (``judge_issuer``).

    Raises:
        MalformedObject, UnsupportedVersion: when it is no signed object of ours.
        WrongKind, WrongOverlay: when it is another one than was asked for.
        UntrustedIssuer: when the signer is no issuer we know.
        BadSignature: when the signer did not sign it.
    """
    signed = _decode(data, kind, trust.overlay_id, size_max)
    if len(signed.signer) != _ISSUER_BYTES:
        raise BadSignature("an issuer's signature was expected")
    issuer = trust.issuer(IssuerId(signed.signer.hex()))
    _check(issuer.public, signed)
    return Verified(value=signed.body, signer=issuer.issuer_id, data=data, witness=_WITNESS)


def claimed_signer(data: bytes) -> PeerId:
    """Whose signature a host's object says it carries; nothing has been checked.

    Raises:
        MalformedObject, UnsupportedVersion: when it is no signed object of ours.
    """
    signed = _read(data, OBJECT_BYTES_MAX)
    if len(signed.signer) != _PEER_BYTES:
        raise MalformedObject("not signed by a host")
    return peer_id_of_bytes(signed.signer)


def claims_kind(data: bytes, kind: Kind) -> bool:
    """Whether bytes are a signed object that says it is of this kind; nothing has been checked."""
    try:
        return _read(data, OBJECT_BYTES_MAX).kind == kind
    except (MalformedObject, UnsupportedVersion):
        return False


def _sign(
    private: Ed25519PrivateKey, overlay_id: OverlayId, kind: Kind, signer: bytes, body: bytes
) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise LimitExceeded(f"a body of {len(body)} bytes is too large to be signed")
    overlay = bytes.fromhex(overlay_id)
    return msgspec.msgpack.encode(
        SignedObject(
            v=VERSION,
            overlay=overlay,
            kind=kind.value,
            signer=signer,
            body=body,
            signature=private.sign(message_of(overlay, kind, signer, body)),
        )
    )


def _verify_peer(data: bytes, kind: Kind, overlay_id: OverlayId, size_max: int) -> Verified[bytes]:
    """What :func:`verify_peer` does: a function of its arguments and nothing else."""
    signed = _decode(data, kind, overlay_id, size_max)
    if len(signed.signer) != _PEER_BYTES:
        raise BadSignature("a host's signature was expected")
    _check(key_of_bytes(signed.signer), signed)
    return Verified(
        value=signed.body, signer=peer_id_of_bytes(signed.signer), data=data, witness=_WITNESS
    )


def _decode(data: bytes, kind: Kind, overlay_id: OverlayId, size_max: int) -> SignedObject:
    signed = _read(data, size_max)
    if signed.kind != kind:
        raise WrongKind(f"a signed object of another kind than {kind.value}")
    if signed.overlay.hex() != overlay_id:
        raise WrongOverlay("a signed object of another overlay")
    return signed


def _read(data: bytes, size_max: int) -> SignedObject:
    if len(data) > size_max:
        raise MalformedObject(f"a signed object of {len(data)} bytes")
    signed = decode(data, SignedObject, VERSION, "a signed object")
    if msgspec.msgpack.encode(signed) != data:
        raise MalformedObject("a signed object in another spelling")
    return signed


def _check(public: Ed25519PublicKey, signed: SignedObject) -> None:
    message = message_of(signed.overlay, signed.kind, signed.signer, signed.body)
    try:
        public.verify(signed.signature, message)
    except InvalidSignature:
        raise BadSignature("the signature is not the named signer's") from None
