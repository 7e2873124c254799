"""How a host becomes an issuer: its request, and the root's answer, with the root offline.

The request is signed by the host's identity key and by the key of the new issuer, each over both
keys: nobody can have another's key certified, or ask in another host's name. The answer is the
issuer's certificate, which nobody but the root can make. Both are one word of text, for the way to
the machine where the root's key is, and back; white space in them does not matter.

Asking again with the same issuer key renews its certificate.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from security.certificate import (
    Issuer,
    IssuerId,
    OverlayId,
    RootKey,
    certify_issuer,
)
from security.certificate_form import key_id
from security.errors import BadSignature, MalformedObject
from security.keys import HostKeys, Secret
from security.peer_id import PeerId, public_bytes_of
from security.root_bundle import Roots
from security.signed import Kind, sign_as_peer, verify_peer
from security.wire import decode

VERSION = 1
REQUEST_BYTES_MAX = 1024
WORD_CHARS_MAX = 8192

_KEY_MAGIC = b"rhizome issuer key 1\0"
_KEY_BYTES = 32

REQUEST = "rhizome-issuer-request-1."
ANSWER = "rhizome-issuer-answer-1."


class IssuerRequestBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="issuer-request"
):
    """Signed by the host. ``proof`` is the new issuer's signature over both keys."""

    v: Annotated[int, Meta(ge=0, le=255)]
    issuer: Annotated[bytes, Meta(min_length=32, max_length=32)]
    proof: Annotated[bytes, Meta(min_length=64, max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRequest:
    """A request whose signatures hold: this host holds that issuer's key."""

    peer_id: PeerId
    issuer_id: IssuerId
    public: Ed25519PublicKey


def issuer_key_to_bytes(private: Ed25519PrivateKey) -> bytes:
    """The key of an issuer that is not certified yet, for the host's own folder. Secret."""
    return _KEY_MAGIC + private.private_bytes_raw()


def issuer_key_from_bytes(data: bytes) -> Ed25519PrivateKey:
    """Reads what ``issuer_key_to_bytes`` wrote.

    Raises:
        MalformedObject: when it is something else.
    """
    raw = data.removeprefix(_KEY_MAGIC)
    if not data.startswith(_KEY_MAGIC) or len(raw) != _KEY_BYTES:
        raise MalformedObject("that is no issuer's key, or it is damaged")
    return Ed25519PrivateKey.from_private_bytes(raw)


def make_issuer_request(keys: HostKeys, overlay_id: OverlayId, private: Ed25519PrivateKey) -> str:
    """What a host carries to the root's owner; ``private`` is the key of the new issuer."""
    raw = private.public_key().public_bytes_raw()
    body = IssuerRequestBody(
        v=VERSION, issuer=raw, proof=private.sign(_proof_message(overlay_id, raw, keys.peer_id))
    )
    return _word(
        REQUEST,
        sign_as_peer(keys, overlay_id, Kind.ISSUER_REQUEST, msgspec.msgpack.encode(body)),
    )


def open_issuer_request(text: str, overlay_id: OverlayId) -> IssuerRequest:
    """Reads and checks a request to become an issuer of an overlay.

    Raises:
        MalformedObject, UnsupportedVersion: when it is none, or was cut off.
        WrongOverlay, WrongKind: when it is for another overlay, or something else that was signed.
        BadSignature: when the host or the new issuer has not signed it.
    """
    data = _unword(text, REQUEST, "request to become an issuer")
    signed = verify_peer(data, Kind.ISSUER_REQUEST, overlay_id, size_max=REQUEST_BYTES_MAX)
    body = decode(signed.value, IssuerRequestBody, VERSION, "a request to become an issuer")
    peer_id = PeerId(signed.signer)
    try:
        public = Ed25519PublicKey.from_public_bytes(body.issuer)
        public.verify(body.proof, _proof_message(overlay_id, body.issuer, peer_id))
    except InvalidSignature:
        raise BadSignature("whoever made the request does not hold the new issuer's key") from None
    return IssuerRequest(peer_id=peer_id, issuer_id=IssuerId(key_id(public)), public=public)


def answer_issuer_request(
    root: RootKey, request: IssuerRequest, secret: Secret, now_unix_s: float
) -> str:
    """The root's answer, for the host that asked: another one for the same key renews it."""
    return _word(ANSWER, certify_issuer(root, request.public, secret, now_unix_s))


def open_issuer_answer(text: str, roots: Roots) -> Issuer:
    """Reads the root's answer; whose issuer that is, the caller must see.

    Raises:
        MalformedObject, MalformedCertificate: when it is none, or was cut off.
        UntrustedIssuer: when no root in force has signed it.
    """
    return roots.issuer(_unword(text, ANSWER, "answer to a request to become an issuer"))


def _proof_message(overlay_id: OverlayId, issuer: bytes, peer_id: PeerId) -> bytes:
    overlay = bytes.fromhex(overlay_id)
    return b"rhizome/issuer-proof/v1\0" + overlay + issuer + public_bytes_of(peer_id)


def _word(prefix: str, data: bytes) -> str:
    return prefix + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unword(text: str, prefix: str, what: str) -> bytes:
    word = "".join(text.split())
    if len(word) > WORD_CHARS_MAX or not word.startswith(prefix):
        raise MalformedObject(f"that is no {what}: it is one word that begins with {prefix}")
    letters = word.removeprefix(prefix)
    try:
        data = base64.b64decode(letters + "=" * (-len(letters) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedObject(f"the {what} is cut off or mistyped: copy all of it") from None
    if _word(prefix, data) != word:
        raise MalformedObject(f"the {what} is cut off or mistyped: copy all of it")
    return data
