"""Renewing a host's certificate, without sockets: challenge, request, the issuer's answer.

A host whose certificate is in force asks over its connection to the issuer's host, where TLS has
proved its key. One whose certificate has ended asks the enrolment listener, and proves its key by
signing a challenge, which the issuer takes once and within :data:`CHALLENGE_S`: a request that
somebody kept is worth nothing later. A certificate goes to the key that it is for and is of no use
to anybody else, so a host in the middle that passes all of it on has won nothing.

The answer is signed by the issuer whole, with its addresses: nobody on the way can change them.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from security.certificate import IssuerId, IssuerKey, Leaf
from security.enrolment import REQUEST_BYTES_MAX, Bytes16, Bytes32, Der, Version
from security.errors import (
    Expired,
    HostUnknown,
    IdentityMismatch,
    MalformedObject,
    NotItsIssuer,
    Refused,
    Revoked,
    SecurityError,
    StaleChallenge,
    UntrustedIssuer,
)
from security.keys import HostKeys, Secret, check_sealing_public
from security.peer_id import PeerId
from security.revocation import STATEMENT_BYTES_MAX
from security.signed import Kind, sign_as_issuer, sign_as_peer, verify_issuer, verify_peer
from security.ticket import ADDRESSES_MAX, Address
from security.trust import Trust
from security.wire import decode

VERSION = 1
ANSWER_BYTES_MAX = 16 << 10

CHALLENGE_S = 30.0
"""From a challenge to the request that signs it."""

_SIGNED_BYTES_MAX = 8192
_TIME_BYTES, _RANDOM_BYTES, _MAC_BYTES = 8, 8, 16


class AskChallenge(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="challenge"
):
    """The first request, which anybody may make."""

    v: Version


class Challenge(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="challenge"
):
    """The answer to it."""

    v: Version
    challenge: Bytes32


class RenewBody(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="renew",
):
    """The second request, signed by the host's identity key.

    ``before`` is the issuer that made its certificate so far, where that is another one;
    ``sealing`` is then the host's sealing key, and else missing.
    """

    v: Version
    issuer: Bytes16
    challenge: Bytes32
    before: Bytes16 | None = None
    sealing: Bytes32 | None = None


class RenewalBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="renewal"
):
    """Signed by the issuer. ``addresses`` are those of its enrolment listener now."""

    v: Version
    leaf: Der
    addresses: Annotated[list[Address], Meta(max_length=ADDRESSES_MAX)]


class Renewed(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="renewed",
):
    """The answer, on either way.

    ``revoked`` is the statement that the issuer of before is revoked, where one was named.
    """

    v: Version
    issuer: Der
    renewal: Annotated[bytes, Meta(max_length=_SIGNED_BYTES_MAX)]
    revoked: Annotated[bytes, Meta(max_length=STATEMENT_BYTES_MAX)] = b""


class NotRenewed(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refused"
):
    """The other answer; ``reason`` is a value of :class:`RenewRefusal`."""

    v: Version
    reason: Annotated[str, Meta(max_length=32)]


class RenewRefusal(enum.Enum):
    """Why a certificate is not renewed, as it is said on the wire."""

    NOT_ISSUER = "not_an_issuer"
    HOST_UNKNOWN = "host_unknown"
    TOO_LATE = "too_late"
    REVOKED = "revoked"
    STALE = "stale_challenge"
    INVALID = "invalid_request"
    UNAVAILABLE = "unavailable"


_ANSWERS = cast("type[Renewed | NotRenewed]", Renewed | NotRenewed)
_CHALLENGES = cast("type[Challenge | NotRenewed]", Challenge | NotRenewed)

CHALLENGE_REQUEST: Final = msgspec.msgpack.encode(AskChallenge(v=VERSION))


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A host's next certificate, and where its issuer can be asked from now on."""

    leaf: Leaf
    issuer: bytes
    addresses: tuple[str, ...]


class Challenges:
    """The issuer's side of them. A stranger who asks leaves nothing behind here.

    A challenge says when it was made and carries a MAC of that, by a key of this process; those
    that enrolled hosts have signed are kept for as long as they would count.
    """

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._key = secret(32)
        self._used: dict[bytes, float] = {}

    def make(self, now_s: float) -> bytes:
        """A challenge; ``now_s`` is a time that never falls."""
        head = int(now_s * 1000).to_bytes(_TIME_BYTES, "big") + self._secret(_RANDOM_BYTES)
        return head + self._mac(head)

    def take(self, challenge: bytes, now_s: float) -> None:
        """Uses a challenge up.

        Raises:
            StaleChallenge: when it is not of this process, too old, or used.
        """
        head, mac = challenge[:-_MAC_BYTES], challenge[-_MAC_BYTES:]
        made_s = int.from_bytes(head[:_TIME_BYTES], "big") / 1000
        self._used = {c: s for c, s in self._used.items() if now_s - s <= CHALLENGE_S}
        genuine = hmac.compare_digest(mac, self._mac(head))
        if not genuine or now_s - made_s > CHALLENGE_S or challenge in self._used:
            raise StaleChallenge("the challenge is used, too old, or another issuer's")
        self._used[challenge] = made_s

    def _mac(self, head: bytes) -> bytes:
        message = b"rhizome/challenge/v1\0" + head
        return hmac.new(self._key, message, hashlib.sha256).digest()[:_MAC_BYTES]


def challenge_answer(challenge: bytes) -> bytes:
    """What an issuer answers to :data:`CHALLENGE_REQUEST`."""
    return msgspec.msgpack.encode(Challenge(v=VERSION, challenge=challenge))


def open_challenge(answer: bytes) -> bytes:
    """The challenge in an issuer's answer.

    Raises:
        Malformed, UnsupportedVersion: when there is none in it.
        Refused: when the issuer does not give one, and why.
    """
    if len(answer) > REQUEST_BYTES_MAX:
        raise MalformedObject(f"a challenge of {len(answer)} bytes")
    found = decode(answer, _CHALLENGES, VERSION, "a challenge")
    if isinstance(found, NotRenewed):
        raise _refusal(found.reason)
    return found.challenge


def make_renew_request(
    keys: HostKeys, leaf: Leaf, challenge: bytes, *, at: IssuerId | None = None
) -> bytes:
    """What a host sends to an issuer's enrolment listener; ``at`` is its issuer where None."""
    issuer_id = at or leaf.issuer_id
    is_same = issuer_id == leaf.issuer_id
    body = RenewBody(
        v=VERSION,
        issuer=bytes.fromhex(issuer_id),
        challenge=challenge,
        before=None if is_same else bytes.fromhex(leaf.issuer_id),
        sealing=None if is_same else keys.sealing_public,
    )
    return sign_as_peer(keys, leaf.overlay_id, Kind.RENEW, msgspec.msgpack.encode(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """A request whose signature holds. ``before``, ``sealing``: see :class:`RenewBody`."""

    peer_id: PeerId
    challenge: bytes
    before: IssuerId | None
    sealing: bytes


def verify_renew_request(data: bytes, issuer: IssuerKey) -> RenewRequest:
    """Checks the signature of a request. Whether the challenge is good is the caller's question.

    Raises:
        Malformed, UnsupportedVersion: when it is no request, or nothing can be sealed to its key.
        WrongOverlay, UntrustedIssuer: when it is for another overlay or issuer.
        BadSignature: when the host does not hold the key.
    """
    signed = verify_peer(data, Kind.RENEW, issuer.overlay_id, size_max=REQUEST_BYTES_MAX)
    body = decode(signed.value, RenewBody, VERSION, "a request to renew")
    if body.issuer.hex() != issuer.issuer_id:
        raise UntrustedIssuer("another issuer is asked for that host's certificate")
    if (body.before is None) != (body.sealing is None):
        raise MalformedObject("a request names the issuer of before with a sealing key, or neither")
    if body.sealing is not None:
        check_sealing_public(body.sealing)
    return RenewRequest(
        peer_id=PeerId(signed.signer),
        challenge=body.challenge,
        before=None if body.before is None else IssuerId(body.before.hex()),
        sealing=body.sealing or b"",
    )


def make_renewal(issuer: IssuerKey, leaf: bytes, addresses: Sequence[str]) -> bytes:
    """The answer to a request."""
    body = RenewalBody(v=VERSION, leaf=leaf, addresses=list(addresses)[:ADDRESSES_MAX])
    renewal = sign_as_issuer(issuer, Kind.RENEWAL, msgspec.msgpack.encode(body))
    return msgspec.msgpack.encode(Renewed(v=VERSION, issuer=issuer.der, renewal=renewal))


def with_reason(answer: bytes, revoked: bytes) -> bytes:
    """The answer and the statement that the host's issuer of before is revoked."""
    found = decode(answer, _ANSWERS, VERSION, "an issuer's answer")
    if isinstance(found, NotRenewed):
        return answer
    return msgspec.msgpack.encode(msgspec.structs.replace(found, revoked=revoked))


def reason_in(answer: bytes) -> bytes:
    """The statement that an answer brings, unchecked; nothing where it brings none."""
    if len(answer) > ANSWER_BYTES_MAX:
        raise MalformedObject(f"an answer of {len(answer)} bytes")
    found = decode(answer, _ANSWERS, VERSION, "an issuer's answer")
    return b"" if isinstance(found, NotRenewed) else found.revoked


def refuse_renewal(error: SecurityError | None) -> bytes:
    """The other answer to a request; None when the issuer itself cannot answer now."""
    match error:
        case None:
            reason = RenewRefusal.UNAVAILABLE
        case HostUnknown():
            reason = RenewRefusal.HOST_UNKNOWN
        case NotItsIssuer():
            reason = RenewRefusal.NOT_ISSUER
        case Expired():
            reason = RenewRefusal.TOO_LATE
        case Revoked():
            reason = RenewRefusal.REVOKED
        case StaleChallenge():
            reason = RenewRefusal.STALE
        case _:
            reason = RenewRefusal.INVALID
    return refuse_renewal_as(reason)


def refuse_renewal_as(reason: RenewRefusal) -> bytes:
    """A refusal for a cause that is no error."""
    return msgspec.msgpack.encode(NotRenewed(v=VERSION, reason=reason.value))


def open_renewal(answer: bytes, trust: Trust, before: Leaf, *, is_over: bool = False) -> Renewal:
    """Reads the answer on the host that asked.

    Another issuer than that of its certificate so far may answer only where that one ``is_over``:
    a thief of some issuer's key must not take hosts over.

    Args:
        answer: what came.
        trust: of this host.
        before: its certificate so far.
        is_over: whether the issuer of that is revoked, or its own certificate has ended.

    Raises:
        Refused, Revoked, Expired, HostUnknown, StaleChallenge: the issuer said no, and why.
        Malformed, UnsupportedVersion: it is no answer.
        UntrustedIssuer, BadSignature, IdentityMismatch, WrongOverlay: it is not the issuer of this
            host's certificate that answered, nor one in its place, or not for this host.
    """
    if len(answer) > ANSWER_BYTES_MAX:
        raise MalformedObject(f"an answer of {len(answer)} bytes")
    renewed = decode(answer, _ANSWERS, VERSION, "an issuer's answer")
    if isinstance(renewed, NotRenewed):
        raise _refusal(renewed.reason)
    with_issuer = trust.with_issuer(renewed.issuer)
    signed = verify_issuer(renewed.renewal, Kind.RENEWAL, with_issuer)
    is_same = signed.signer == before.issuer_id
    if not is_same and not is_over:
        raise UntrustedIssuer("another issuer than the certificate's has answered")
    body = decode(signed.value, RenewalBody, VERSION, "a renewal")
    leaf, issuer = with_issuer.leaf(body.leaf, renewed.issuer)
    if issuer.issuer_id != signed.signer:
        raise UntrustedIssuer("an issuer answers with another one's certificate")
    if leaf.peer_id != before.peer_id:
        raise IdentityMismatch("a renewal for another host")
    ours = (before.not_before_unix_s, before.not_after_unix_s)
    if is_same and (leaf.not_before_unix_s, leaf.not_after_unix_s) <= ours:
        raise Refused("the issuer's answer is no newer than the certificate that it should replace")
    return Renewal(leaf=leaf, issuer=renewed.issuer, addresses=tuple(body.addresses))


def _refusal(reason: str) -> SecurityError:
    join = "get a ticket with 'rhizome invite' on the issuer's host and join with a fresh --home"
    match reason:
        case RenewRefusal.NOT_ISSUER.value:
            return UntrustedIssuer("that is not the host of this one's issuer")
        case RenewRefusal.HOST_UNKNOWN.value:
            return HostUnknown(f"the issuer does not know this host: {join}")
        case RenewRefusal.TOO_LATE.value:
            return Expired(f"the certificate ended too long ago for the issuer: {join}")
        case RenewRefusal.REVOKED.value:
            return Revoked("this host or its issuer is revoked")
        case RenewRefusal.STALE.value:
            return StaleChallenge("the issuer did not take the challenge")
        case RenewRefusal.UNAVAILABLE.value:
            return Refused("the issuer cannot answer now")
        case _:
            return Refused("the issuer refuses the request as invalid")
