"""Asking for the certificate of an HTTP face, without sockets: request, check, answer.

A host asks an issuer over its connection, where TLS has proved its key. The certificate is for
another key, made for it alone, which signs that this host asks for it under these names: so nobody
gets a certificate for a key that somebody else holds. The issuer looks the names up among those
that it has granted to that host, each as it is spelled, and gives all or none.

The answer is the certificate; it is the issuer's own signature on it that the host believes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from security.certificate import IssuerKey, OverlayId
from security.enrolment import Bytes32, Bytes64, Der, Version
from security.errors import (
    BadSignature,
    HostUnknown,
    IdentityMismatch,
    MalformedObject,
    NameNotGranted,
    Refused,
    Revoked,
    SecurityError,
    UntrustedIssuer,
)
from security.hosts import EnrolledHost
from security.http_certificate import HttpCertificate, certify_http, open_http_certificate
from security.http_names import HTTP_NAMES_MAX, NAME_CHARS_MAX, http_name, not_granted
from security.keys import Secret
from security.peer_id import PeerId, key_of_bytes, public_bytes_of
from security.revocation import RevocationSet
from security.trust import Trust
from security.wire import decode

VERSION = 1
REQUEST_BYTES_MAX = 8 << 10
ANSWER_BYTES_MAX = 16 << 10

HttpName = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
HttpDer = Annotated[bytes, Meta(max_length=8 << 10)]


class HttpRequestBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="http-certificate"
):
    """The request. ``key`` is the public key that the certificate shall be for."""

    v: Version
    key: Bytes32
    names: Annotated[list[HttpName], Meta(min_length=1, max_length=HTTP_NAMES_MAX)]
    proof: Bytes64


class HttpIssued(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="issued"
):
    """The answer."""

    v: Version
    certificate: HttpDer
    issuer: Der


class HttpNotIssued(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refused"
):
    """The other answer. ``reason`` is a value of :class:`HttpRefusal`."""

    v: Version
    reason: Annotated[str, Meta(max_length=32)]
    names: Annotated[list[HttpName], Meta(max_length=HTTP_NAMES_MAX)] = []


class HttpRefusal(enum.Enum):
    """Why there is no certificate, as it is said on the wire."""

    NOT_ISSUER = "not_an_issuer"
    HOST_UNKNOWN = "host_unknown"
    NOT_GRANTED = "name_not_granted"
    REVOKED = "revoked"
    TOO_OFTEN = "too_often"
    INVALID = "invalid_request"


_ANSWERS = cast("type[HttpIssued | HttpNotIssued]", HttpIssued | HttpNotIssued)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request whose proof holds: the host that asks holds this key."""

    public: Ed25519PublicKey
    names: tuple[str, ...]


def make_http_request(
    key: Ed25519PrivateKey, overlay_id: OverlayId, peer_id: PeerId, names: Sequence[str]
) -> bytes:
    """What a host asks with; ``names`` are spelled as ``http_name`` spells them, and sorted."""
    public = key.public_key().public_bytes_raw()
    proof = key.sign(_proof_message(overlay_id, peer_id, public, names))
    return msgspec.msgpack.encode(
        HttpRequestBody(v=VERSION, key=public, names=list(names), proof=proof)
    )


def verify_http_request(data: bytes, overlay_id: OverlayId, peer_id: PeerId) -> HttpRequest:
    """Checks a request of a host that has proved its own key. Its names are not judged.

    Raises:
        Malformed, UnsupportedVersion: when it is none, or a name is not in its one spelling.
        BadSignature: when the host does not hold the key.
        IdentityMismatch: when that is the key of its identity, which is for peers alone.
    """
    if len(data) > REQUEST_BYTES_MAX:
        raise MalformedObject(f"a request of {len(data)} bytes")
    body = decode(data, HttpRequestBody, VERSION, "a request for an HTTP certificate")
    names = tuple(body.names)
    if list(names) != sorted(set(map(http_name, names))):
        raise MalformedObject("HTTP names that are not sorted, or spelled in another way")
    if body.key == public_bytes_of(peer_id):
        raise IdentityMismatch("the key of an HTTP face is made for it alone")
    public = key_of_bytes(body.key)
    try:
        public.verify(body.proof, _proof_message(overlay_id, peer_id, body.key, names))
    except InvalidSignature:
        raise BadSignature("that host does not hold the key of the HTTP face") from None
    return HttpRequest(public=public, names=names)


def issue_http_certificate(
    issuer: IssuerKey,
    hosts: Mapping[PeerId, EnrolledHost],
    peer_id: PeerId,
    data: bytes,
    secret: Secret,
    now_unix_s: float,
    revocations: RevocationSet,
    *,
    lifetime_s: float,
) -> bytes:
    """Answers a host that has proved its key: its certificate.

    Raises:
        Malformed, UnsupportedVersion, BadSignature, IdentityMismatch: as ``verify_http_request``.
        HostUnknown: when this issuer has not enrolled it.
        Revoked: when the host or this issuer is revoked.
        NameNotGranted: when it may not have one of the names.
    """
    host = hosts.get(peer_id)
    if host is None:
        raise HostUnknown("this issuer has not enrolled that host")
    if revocations.revokes(peer_id) or revocations.revokes(issuer.issuer_id):
        raise Revoked("the host or its issuer is revoked")
    request = verify_http_request(data, issuer.overlay_id, peer_id)
    refused = not_granted(request.names, host.http_names)
    if refused:
        raise NameNotGranted("HTTP names that were not granted to that host", tuple(refused))
    der = certify_http(
        issuer, request.public, request.names, secret, now_unix_s, lifetime_s=lifetime_s
    )
    return msgspec.msgpack.encode(HttpIssued(v=VERSION, certificate=der, issuer=issuer.der))


def refuse_http(error: SecurityError) -> bytes:
    """The other answer to a request."""
    match error:
        case HostUnknown():
            return refuse_http_as(HttpRefusal.HOST_UNKNOWN)
        case NameNotGranted():
            return refuse_http_as(HttpRefusal.NOT_GRANTED, error.names)
        case Revoked():
            return refuse_http_as(HttpRefusal.REVOKED)
        case _:
            return refuse_http_as(HttpRefusal.INVALID)


def refuse_http_as(reason: HttpRefusal, names: Sequence[str] = ()) -> bytes:
    """A refusal for a cause that is no error."""
    return msgspec.msgpack.encode(HttpNotIssued(v=VERSION, reason=reason.value, names=list(names)))


def open_http_answer(
    answer: bytes,
    key: Ed25519PrivateKey,
    names: Sequence[str],
    peer_id: PeerId,
    trust: Trust,
    now_unix_s: float,
) -> HttpCertificate:
    """Reads the answer on the host that asked, for these names and with this key.

    Raises:
        Refused, Revoked, HostUnknown, NameNotGranted, UntrustedIssuer: the issuer said no, and why.
        Malformed, UnsupportedVersion: it is no answer.
        SecurityError: as ``open_http_certificate``; or the certificate is for other names.
    """
    if len(answer) > ANSWER_BYTES_MAX:
        raise MalformedObject(f"an answer of {len(answer)} bytes")
    issued = decode(answer, _ANSWERS, VERSION, "an issuer's answer")
    if isinstance(issued, HttpNotIssued):
        raise _refusal(issued, names, peer_id)
    made = open_http_certificate(key, issued.certificate, issued.issuer, trust, now_unix_s)
    if made.names != tuple(names):
        raise IdentityMismatch("an HTTP certificate for other names than those that were asked for")
    return made


def _refusal(refused: HttpNotIssued, asked: Sequence[str], peer_id: PeerId) -> SecurityError:
    match refused.reason:
        case HttpRefusal.NOT_ISSUER.value:
            return UntrustedIssuer("that peer is not an issuer's host")
        case HttpRefusal.HOST_UNKNOWN.value:
            return HostUnknown("the issuer does not know this host")
        case HttpRefusal.NOT_GRANTED.value:
            # No word of the far side's: only names that we have asked for ourselves.
            names = tuple(each for each in asked if each in set(refused.names)) or tuple(asked)
            return NameNotGranted(
                f"the issuer has not granted {', '.join(names)} to this host; on the issuer's "
                f"host run: rhizome ca http-name {peer_id} {' '.join(names)}",
                names,
            )
        case HttpRefusal.REVOKED.value:
            return Revoked("this host or its issuer is revoked")
        case HttpRefusal.TOO_OFTEN.value:
            return Refused("this host has asked the issuer too often for HTTP certificates")
        case _:
            return Refused("the issuer refuses the request as invalid")


def _proof_message(
    overlay_id: OverlayId, peer_id: PeerId, public: bytes, names: Sequence[str]
) -> bytes:
    return (
        b"rhizome/http-certificate/v1\0"
        + bytes.fromhex(overlay_id)
        + public_bytes_of(peer_id)
        + public
        + b"".join(len(name).to_bytes(1, "big") + name.encode("ascii") for name in names)
    )
