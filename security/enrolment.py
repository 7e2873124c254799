"""Joining, without sockets: the request, the issuer's check of it, and the answer.

The joiner signs its request twice: with the ticket's key, over both of its own public keys, which
shows that it holds the ticket and binds the ticket to those keys; and with its identity key, which
shows that it holds that. The answer is signed by the issuer that the ticket names, whose
certificate must chain to the ticket's root: a host in the middle can neither swap a key nor make up
an answer. The transport below is TLS under the ticket's root, so nothing of this is seen outside.

Order of admission (``Authority.admit``): check everything; burn the ticket and make the leaf in one
new state; the caller stores that state durably; only then is the answer sent.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from security.certificate import IssuerId, IssuerKey, Leaf, OverlayId, check_dates
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.epoch import EPOCH_BYTES_MAX, TenantEpoch, open_epoch
from security.errors import (
    BadSignature,
    Expired,
    IdentityMismatch,
    MalformedObject,
    Refused,
    Revoked,
    SecurityError,
    TicketUnknown,
    TicketUsed,
    UntrustedIssuer,
)
from security.keys import HostKeys, check_sealing_public
from security.peer_id import PeerId, public_bytes_of
from security.revocation import RevocationSet
from security.signed import Kind, sign_as_issuer, sign_as_peer, verify_issuer, verify_peer
from security.ticket import TENANTS_MAX, TICKET_ID_BYTES, Ticket, ticket_id_of
from security.trust import Trust
from security.wire import decode

VERSION = 1
REQUEST_BYTES_MAX = 1024
ANSWER_BYTES_MAX = 1 << 16
"""What the enrolment port carries in one message; rosters of 250 members fit."""

_ANSWER_FRAME_BYTES, _EPOCH_FRAME_BYTES = 128, 8
"""Names and lengths around the parts, rounded up."""

Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
Der = Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
Version = Annotated[int, Meta(ge=0, le=255)]


class JoinBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="join"):
    """Signed by the joiner's identity key. ``verifier`` is the public key of the ticket."""

    v: Version
    verifier: Bytes32
    issuer: Bytes16
    sealing: Bytes32
    ticket_proof: Bytes64


class AdmissionBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="admission"
):
    """Signed by the issuer."""

    v: Version
    ticket_id: Annotated[bytes, Meta(min_length=TICKET_ID_BYTES, max_length=TICKET_ID_BYTES)]
    leaf: Der


class Admitted(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="admitted"
):
    """The answer. ``epochs`` are signed by their stewards themselves."""

    v: Version
    issuer: Der
    admission: Annotated[bytes, Meta(max_length=8192)]
    epochs: Annotated[
        list[Annotated[bytes, Meta(max_length=EPOCH_BYTES_MAX)]], Meta(max_length=TENANTS_MAX)
    ]


class NotAdmitted(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refused"
):
    """The other answer; ``reason`` is a value of :class:`JoinRefusal`."""

    v: Version
    reason: Annotated[str, Meta(max_length=32)]


_ANSWERS = cast("type[Admitted | NotAdmitted]", Admitted | NotAdmitted)
"""msgspec chooses by tag; a cast because the type checker has no type for unions as values."""


class JoinRefusal(enum.Enum):
    """Why an issuer refuses, as it says it on the wire."""

    TICKET_UNKNOWN = "ticket_unknown"
    TICKET_USED = "ticket_used"
    TICKET_EXPIRED = "ticket_expired"
    REVOKED = "revoked"
    INVALID = "invalid_request"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A request whose signatures hold: this host holds that ticket and those keys."""

    peer_id: PeerId
    sealing_public: bytes
    ticket_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a new host has to store: its certificate, whom to believe, and its tenants."""

    leaf: Leaf
    issuer: bytes
    root: bytes
    trust: Trust
    epochs: tuple[bytes, ...]
    tenants: tuple[TenantEpoch, ...]


def make_join_request(keys: HostKeys, ticket: Ticket) -> bytes:
    """What a new host sends to the issuer's enrolment port."""
    key = ticket.key()
    proof = key.sign(
        _proof_message(ticket.overlay_id, ticket.issuer_id, keys.peer_id, keys.sealing_public)
    )
    body = JoinBody(
        v=VERSION,
        verifier=key.public_key().public_bytes_raw(),
        issuer=bytes.fromhex(ticket.issuer_id),
        sealing=keys.sealing_public,
        ticket_proof=proof,
    )
    return sign_as_peer(keys, ticket.overlay_id, Kind.JOIN, msgspec.msgpack.encode(body))


def verify_join_request(data: bytes, issuer: IssuerKey) -> Join:
    """Checks both signatures of a request. Whether the ticket is good is the caller's question.

    Raises:
        Malformed, UnsupportedVersion: when it is no request.
        WrongOverlay, UntrustedIssuer: when it is for another overlay or issuer.
        BadSignature: when the joiner does not hold the key or the ticket.
    """
    signed = verify_peer(data, Kind.JOIN, issuer.overlay_id, size_max=REQUEST_BYTES_MAX)
    body = decode(signed.value, JoinBody, VERSION, "a request to join")
    if body.issuer.hex() != issuer.issuer_id:
        raise UntrustedIssuer("the ticket is another issuer's")
    check_sealing_public(body.sealing)
    peer_id = PeerId(signed.signer)
    message = _proof_message(issuer.overlay_id, issuer.issuer_id, peer_id, body.sealing)
    try:
        Ed25519PublicKey.from_public_bytes(body.verifier).verify(body.ticket_proof, message)
    except InvalidSignature:
        raise BadSignature("the joiner does not hold the ticket") from None
    return Join(peer_id=peer_id, sealing_public=body.sealing, ticket_id=ticket_id_of(body.verifier))


def make_admission(
    issuer: IssuerKey, ticket_id: str, leaf: bytes, epochs: tuple[bytes, ...]
) -> bytes:
    """The answer to a request. Epochs that do not fit any more are left out: gossip brings them."""
    body = AdmissionBody(v=VERSION, ticket_id=bytes.fromhex(ticket_id), leaf=leaf)
    admission = sign_as_issuer(issuer, Kind.ADMISSION, msgspec.msgpack.encode(body))
    room = ANSWER_BYTES_MAX - len(issuer.der) - len(admission) - _ANSWER_FRAME_BYTES
    fitting = []
    for epoch in epochs:
        room -= len(epoch) + _EPOCH_FRAME_BYTES
        if room >= 0:
            fitting.append(epoch)
    return msgspec.msgpack.encode(
        Admitted(v=VERSION, issuer=issuer.der, admission=admission, epochs=fitting)
    )


def refuse_join(error: SecurityError | None) -> bytes:
    """The other answer to a request; None when the issuer itself cannot answer now."""
    match error:
        case None:
            reason = JoinRefusal.UNAVAILABLE
        case TicketUnknown():
            reason = JoinRefusal.TICKET_UNKNOWN
        case TicketUsed():
            reason = JoinRefusal.TICKET_USED
        case Expired():
            reason = JoinRefusal.TICKET_EXPIRED
        case Revoked():
            reason = JoinRefusal.REVOKED
        case _:
            reason = JoinRefusal.INVALID
    return msgspec.msgpack.encode(NotAdmitted(v=VERSION, reason=reason.value))


def open_admission(
    answer: bytes,
    ticket: Ticket,
    keys: HostKeys,
    now_unix_s: float,
    bundles: Sequence[bytes] = (),
) -> Admission:
    """Reads the issuer's answer on the joining host.

    Args:
        answer: what came.
        ticket: whose root is believed.
        keys: of the joining host.
        now_unix_s: the time.
        bundles: root bundles that lead on from the ticket's root.

    Raises:
        TicketUnknown, TicketUsed, Expired, Revoked, Refused: the issuer said no, and why.
        Malformed, UnsupportedVersion: it is no answer.
        UntrustedIssuer, BadSignature, IdentityMismatch, ...: it is not the ticket's issuer that
            answered, or not for this host and ticket.
        NotYetValid: the clocks of the two hosts are too far apart.
    """
    if len(answer) > ANSWER_BYTES_MAX:
        raise MalformedObject(f"an answer of {len(answer)} bytes")
    admitted = decode(answer, _ANSWERS, VERSION, "an issuer's answer")
    if isinstance(admitted, NotAdmitted):
        raise _refusal(admitted.reason)
    trust = Trust.of(ticket.root, [admitted.issuer], bundles)
    signed = verify_issuer(admitted.admission, Kind.ADMISSION, trust)
    if signed.signer != ticket.issuer_id:
        raise UntrustedIssuer("another issuer than the ticket's has answered")
    body = decode(signed.value, AdmissionBody, VERSION, "an admission")
    if body.ticket_id.hex() != ticket.ticket_id:
        raise IdentityMismatch("an admission for another ticket")
    leaf, issuer = trust.leaf(body.leaf)
    if leaf.peer_id != keys.peer_id:
        raise IdentityMismatch("an admission for another host")
    check_dates(issuer, now_unix_s)
    check_dates(leaf, now_unix_s)
    tenants = []
    for data in admitted.epochs:
        opened = open_epoch(data, trust, keys, now_unix_s, RevocationSet())
        if opened is None:
            raise MalformedObject("an admission to a tenant whose roster does not name this host")
        tenants.append(opened.value)
    return Admission(
        leaf=leaf,
        issuer=admitted.issuer,
        root=ticket.root,
        trust=trust,
        epochs=tuple(admitted.epochs),
        tenants=tuple(tenants),
    )


def _refusal(reason: str) -> SecurityError:
    again = "make a new one with 'rhizome invite' on the issuer's host"
    match reason:
        case JoinRefusal.TICKET_UNKNOWN.value:
            return TicketUnknown(f"the issuer does not know that ticket: {again}")
        case JoinRefusal.TICKET_USED.value:
            return TicketUsed(f"the ticket has been used: {again}")
        case JoinRefusal.TICKET_EXPIRED.value:
            return Expired(f"the ticket has ended: {again}")
        case JoinRefusal.REVOKED.value:
            return Revoked("the ticket or this host is revoked")
        case JoinRefusal.UNAVAILABLE.value:
            return Refused("the issuer cannot answer now: try again later")
        case _:
            return Refused("the issuer refuses the request as invalid")


def _proof_message(
    overlay_id: OverlayId, issuer_id: IssuerId, peer_id: PeerId, sealing_public: bytes
) -> bytes:
    return (
        b"rhizome/ticket/v1\0"
        + bytes.fromhex(overlay_id)
        + bytes.fromhex(issuer_id)
        + public_bytes_of(peer_id)
        + sealing_public
    )
