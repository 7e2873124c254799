"""The three certificates of an overlay: root -> issuer -> leaf, all Ed25519.

Rules
1. The root signs issuers only, an issuer (pathlen 0) leaves only, a leaf no certificate.
2. An overlay's id is the hash of its first root's key, and stands in the URI name of every leaf:
   ``spiffe://<overlay id>/host/<PeerId>`` (the form of SPIFFE, with the overlay as trust domain).
   A later root bears it in a URI name of its own, ``spiffe://<overlay id>/root/<number>``. Whether
   such a root is to be believed is said by no certificate: see ``security.root_bundle``.
3. A leaf's key is the PeerId in its URI name; its DNS name is derived from the same key, so that
   OpenSSL can compare it with the peer that was dialled.
4. A leaf names no tenant: anybody on the LAN can read it.
5. Starts are set back by ten minutes, for hosts whose clocks run behind.

In a TLS handshake OpenSSL decides the chain; :func:`verify_chain` does the same for certificates
that arrive in records. What a certificate must look like is decided here for both.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import NewType

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.certificate_form import (
    BACKDATE_S,
    ID_BYTES,
    UNREADABLE,
    builder_of,
    check_ca,
    check_signature,
    common_name,
    key_id,
    key_usage,
    load,
    public_key_in,
    sign_ca,
    unix_s_of,
)
from security.errors import (
    BadSignature,
    Expired,
    IdentityMismatch,
    MalformedCertificate,
    MalformedIdentity,
    NotYetValid,
    UntrustedIssuer,
    WrongOverlay,
)
from security.keys import Secret
from security.peer_id import PeerId, parse_peer_id, peer_id_of, public_key_of

OverlayId = NewType("OverlayId", str)
"""32 hex digits: the hash of the first root's key."""

RootId = NewType("RootId", str)
"""32 hex digits: the hash of a root's key. The first root's is the overlay's."""

IssuerId = NewType("IssuerId", str)
"""32 hex digits: the hash of the issuer's key."""

DAY_S = 86_400
LEAF_LIFETIME_S = DAY_S
"""An issuer may choose another one, see :func:`issue_leaf`."""
LEAF_LIFETIME_S_MAX = 90 * DAY_S
RENEWAL_GRACE_S = 30 * DAY_S
"""A leaf that ended so long ago at most is renewed from the host's key."""
ISSUER_LIFETIME_S = 10 * 365 * DAY_S
ROOT_LIFETIME_S = 20 * 365 * DAY_S
FIRST_ROOT = "rhizome root"
"""The first root's subject; a later one's goes on with its id."""

_LATER_ROOT = r"spiffe://([0-9a-f]{32})/root/([2-9]|[1-9][0-9]{1,8})"
_DNS_SUFFIX = ".peer.rhizome.internal"
_BOTH_USES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A certificate at the top of an overlay."""

    der: bytes
    overlay_id: OverlayId

    @property
    def public_part(self) -> Root:
        """The certificate alone."""
        return Root(der=self.der, overlay_id=self.overlay_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class RootCertificate(Root):
    """A root's certificate, checked in shape.

    ``number`` is that of the root bundle that brings it; 1 for the first root, which none brings.
    """

    root_id: RootId
    number: int
    subject: str
    public: Ed25519PublicKey
    not_after_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RootKey(Root):
    """A root with its key."""

    private: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """The key and certificate of an issuer."""

    private: Ed25519PrivateKey = field(repr=False)
    der: bytes
    issuer_id: IssuerId
    overlay_id: OverlayId


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer's certificate, checked to be signed by the root ``root_id`` of an overlay."""

    issuer_id: IssuerId
    root_id: RootId
    overlay_id: OverlayId
    public: Ed25519PublicKey
    not_before_unix_s: int
    not_after_unix_s: int
    der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A host's certificate, checked in shape; ``verify_chain`` says whether it is genuine."""

    peer_id: PeerId
    overlay_id: OverlayId
    issuer_id: IssuerId
    not_before_unix_s: int
    not_after_unix_s: int
    serial: int
    der: bytes

    @property
    def issued_unix_s(self) -> int:
        """When it was made, by the issuer's clock."""
        return self.not_before_unix_s + BACKDATE_S

    @property
    def lifetime_s(self) -> int:
        return self.not_after_unix_s - self.issued_unix_s


def dns_name_of(peer_id: PeerId) -> str:
    """The DNS name in a peer's leaf, for OpenSSL's host name check.

    Raises:
        MalformedIdentity: when it is not a PeerId.
    """
    info = public_key_of(peer_id).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    label = base64.b32encode(hashlib.sha256(info).digest()).decode().rstrip("=").lower()
    return label + _DNS_SUFFIX


def make_root(secret: Secret, now_unix_s: float) -> RootKey:
    """Begins an overlay."""
    private = Ed25519PrivateKey.from_private_bytes(secret(32))
    name = common_name(FIRST_ROOT)
    builder = builder_of(secret, private.public_key(), name, name, now_unix_s, ROOT_LIFETIME_S)
    der = sign_ca(builder, private, private.public_key(), path_length=1, signs_objects=False)
    return RootKey(private=private, der=der, overlay_id=OverlayId(key_id(private.public_key())))


def make_next_root(
    overlay_id: OverlayId, number: int, secret: Secret, now_unix_s: float
) -> RootKey:
    """Makes another root of an overlay, which the root bundle of that number is to bring."""
    private = Ed25519PrivateKey.from_private_bytes(secret(32))
    public = private.public_key()
    # Each root has a subject of its own: OpenSSL looks issuers up by name.
    name = common_name(f"{FIRST_ROOT} {key_id(public)}")
    uri = x509.UniformResourceIdentifier(f"spiffe://{overlay_id}/root/{number}")
    builder = builder_of(secret, public, name, name, now_unix_s, ROOT_LIFETIME_S)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    der = sign_ca(builder, private, public, path_length=1, signs_objects=False)
    return RootKey(private=private, der=der, overlay_id=overlay_id)


def make_issuer(root: RootKey, secret: Secret, now_unix_s: float) -> IssuerKey:
    """Makes a new issuer under a root."""
    return _certified(root, Ed25519PrivateKey.from_private_bytes(secret(32)), secret, now_unix_s)


def renew_issuer(root: RootKey, issuer: IssuerKey, secret: Secret, now_unix_s: float) -> IssuerKey:
    """The same issuer with another certificate, which lasts as long as a new one's.

    Raises:
        UntrustedIssuer: when it is another root's issuer.
    """
    if issuer.overlay_id != root.overlay_id:
        raise UntrustedIssuer("that issuer is another root's")
    return _certified(root, issuer.private, secret, now_unix_s)


def certify_issuer(
    root: RootKey, public: Ed25519PublicKey, secret: Secret, now_unix_s: float
) -> bytes:
    """The certificate of the issuer with this key. That somebody holds it has been proved."""
    # Each issuer has a subject of its own: OpenSSL looks issuers up by name.
    subject = common_name(f"rhizome issuer {key_id(public)}")
    signer = parse_root(root.der)
    builder = builder_of(
        secret, public, subject, common_name(signer.subject), now_unix_s, ISSUER_LIFETIME_S
    ).add_extension(x509.AuthorityKeyIdentifier(bytes.fromhex(signer.root_id), None, None), False)
    return sign_ca(builder, root.private, public, path_length=0, signs_objects=True)


def _certified(
    root: RootKey, private: Ed25519PrivateKey, secret: Secret, now_unix_s: float
) -> IssuerKey:
    return IssuerKey(
        private=private,
        der=certify_issuer(root, private.public_key(), secret, now_unix_s),
        issuer_id=IssuerId(key_id(private.public_key())),
        overlay_id=root.overlay_id,
    )


def issue_leaf(
    issuer: IssuerKey,
    peer_id: PeerId,
    secret: Secret,
    now_unix_s: float,
    *,
    lifetime_s: float = LEAF_LIFETIME_S,
) -> bytes:
    """Makes a host's certificate. That the host holds the key has been proved to the caller.

    Returns:
        The DER form; it ends with the issuer at the latest.

    Raises:
        MalformedIdentity: when ``peer_id`` is none.
        Expired: when the issuer's own certificate has ended.
    """
    usage = key_usage(digital_signature=True, key_cert_sign=False)
    names = [
        x509.UniformResourceIdentifier(f"spiffe://{issuer.overlay_id}/host/{peer_id}"),
        x509.DNSName(dns_name_of(peer_id)),
    ]
    lifetime_s = left_of(issuer, now_unix_s, lifetime_s)
    builder = (
        builder_of(
            secret,
            public_key_of(peer_id),
            common_name("rhizome host"),
            common_name(f"rhizome issuer {issuer.issuer_id}"),
            now_unix_s,
            lifetime_s,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(_BOTH_USES), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(bytes.fromhex(issuer.issuer_id), None, None), critical=False
        )
    )
    return builder.sign(issuer.private, None).public_bytes(Encoding.DER)


def left_of(issuer: IssuerKey, now_unix_s: float, lifetime_s: float) -> float:
    """Seconds that what an issuer signs now can be good: so many, or until its own end.

    Raises:
        Expired: when its own certificate has ended.
    """
    end = x509.load_der_x509_certificate(issuer.der).not_valid_after_utc
    left_s = unix_s_of(end) - now_unix_s
    if left_s < 1:
        raise Expired(
            "the issuer's certificate has ended: run 'rhizome ca issuer renew' on its host"
        )
    return min(lifetime_s, left_s)


def parse_leaf(der: bytes) -> Leaf:
    """Reads a host's certificate and checks its shape. Signature and dates are not judged here.

    Raises:
        MalformedCertificate: when it is not a leaf as this overlay issues them.
        IdentityMismatch: when its names are not those of its key.
    """
    certificate = load(der)
    public = public_key_in(certificate)
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except UNREADABLE:
        raise MalformedCertificate("a leaf lacks an extension, or has it wrong") from None
    if constraints.ca or usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        raise MalformedCertificate("this certificate may sign others: it is no leaf")
    if not set(_BOTH_USES) <= set(uses):
        raise MalformedCertificate("a leaf must serve both ends of a connection")
    overlay_id, peer_id = _read_names(names)
    if peer_id != peer_id_of(public):
        raise IdentityMismatch("the PeerId in the certificate is not that of its key")
    if names.get_values_for_type(x509.DNSName) != [dns_name_of(peer_id)]:
        raise IdentityMismatch("the DNS name in the certificate is not that of its key")
    if authority.key_identifier is None or len(authority.key_identifier) != ID_BYTES:
        raise MalformedCertificate("a leaf names its issuer")
    return Leaf(
        peer_id=peer_id,
        overlay_id=overlay_id,
        issuer_id=IssuerId(authority.key_identifier.hex()),
        not_before_unix_s=unix_s_of(certificate.not_valid_before_utc),
        not_after_unix_s=unix_s_of(certificate.not_valid_after_utc),
        serial=certificate.serial_number,
        der=der,
    )


def overlay_id_of(root_der: bytes) -> OverlayId:
    """The id of the overlay that a root certificate is of, by its own word.

    Raises:
        MalformedCertificate, BadSignature: as ``parse_root``.
    """
    return parse_root(root_der).overlay_id


def parse_root(der: bytes) -> RootCertificate:
    """Reads a root's certificate. Whether that root is to be believed is not judged here.

    Raises:
        MalformedCertificate: when it is not a root of the shape made here.
        BadSignature: when it is not signed by its own key.
    """
    certificate = load(der)
    public = public_key_in(certificate)
    check_ca(certificate, path_length=1)
    check_signature(certificate, public)
    root_id = RootId(key_id(public))
    overlay_id, number = _place_of_root(certificate, root_id)
    return RootCertificate(
        der=der,
        overlay_id=overlay_id,
        root_id=root_id,
        number=number,
        subject=_subject_of(certificate),
        public=public,
        not_after_unix_s=unix_s_of(certificate.not_valid_after_utc),
    )


def _subject_of(certificate: x509.Certificate) -> str:
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        raise MalformedCertificate("a certificate's subject cannot be read") from None
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise MalformedCertificate("a root's subject has one CN")
    return names[0].value


def _place_of_root(certificate: x509.Certificate, root_id: RootId) -> tuple[OverlayId, int]:
    """The overlay that a root says it is of, and its number there."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return OverlayId(root_id), 1
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    form = re.fullmatch(_LATER_ROOT, uris[0]) if len(uris) == len(list(names)) == 1 else None
    if form is None:
        raise MalformedCertificate("a later root's one name is spiffe://<overlay>/root/<number>")
    return OverlayId(form[1]), int(form[2])


def parse_issuer(issuer_der: bytes, root_der: bytes) -> Issuer:
    """Reads an issuer's certificate and checks that the root signed it. Dates are not judged.

    Raises:
        MalformedCertificate: when either has the wrong shape.
        UntrustedIssuer: when the root did not sign it.
    """
    root = parse_root(root_der)
    certificate = load(issuer_der)
    public = public_key_in(certificate)
    check_ca(certificate, path_length=0)
    try:
        check_signature(certificate, root.public)
    except BadSignature:
        raise UntrustedIssuer("that root did not sign that issuer") from None
    return Issuer(
        issuer_id=IssuerId(key_id(public)),
        root_id=root.root_id,
        overlay_id=root.overlay_id,
        public=public,
        not_before_unix_s=unix_s_of(certificate.not_valid_before_utc),
        not_after_unix_s=unix_s_of(certificate.not_valid_after_utc),
        der=issuer_der,
    )


def verify_issued(leaf_der: bytes, issuer: Issuer) -> Leaf:
    """Checks that an issuer signed a leaf. Dates are not judged.

    Raises:
        MalformedCertificate, IdentityMismatch: as ``parse_leaf``.
        WrongOverlay: when the leaf names another overlay than its issuer's.
        UntrustedIssuer: when another issuer signed it.
    """
    leaf = parse_leaf(leaf_der)
    if leaf.overlay_id != issuer.overlay_id:
        raise WrongOverlay("the certificate is of another overlay")
    if leaf.issuer_id != issuer.issuer_id:
        raise UntrustedIssuer("the certificate names another issuer")
    try:
        check_signature(load(leaf_der), issuer.public)
    except BadSignature:
        raise UntrustedIssuer("the issuer did not sign the certificate") from None
    return leaf


def verify_chain(leaf_der: bytes, issuer_der: bytes, root_der: bytes, now_unix_s: float) -> Leaf:
    """Checks a whole chain, signatures and dates. Revocation is ``judge_leaf``'s.

    Raises:
        MalformedCertificate, IdentityMismatch, WrongOverlay, UntrustedIssuer: as above.
        Expired, NotYetValid: when issuer or leaf is out of its dates.
    """
    issuer = parse_issuer(issuer_der, root_der)
    leaf = verify_issued(leaf_der, issuer)
    check_dates(issuer, now_unix_s)
    check_dates(leaf, now_unix_s)
    return leaf


def check_dates(certificate: Leaf | Issuer, now_unix_s: float) -> None:
    """Checks that a certificate is in force.

    Raises:
        Expired, NotYetValid: when it is not; the message says by how much.
    """
    early_s = certificate.not_before_unix_s - now_unix_s
    late_s = now_unix_s - certificate.not_after_unix_s
    what = "the host's certificate" if isinstance(certificate, Leaf) else "the issuer's certificate"
    if early_s > 0:
        raise NotYetValid(
            f"{what} begins in {math.ceil(early_s)} s: is the clock of this host right?"
        )
    if late_s > 0:
        raise Expired(f"{what} ended {math.ceil(late_s)} s ago")


def _read_names(names: x509.SubjectAlternativeName) -> tuple[OverlayId, PeerId]:
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or len(list(names)) != 2:
        raise MalformedCertificate("a leaf has one URI name and one DNS name")
    scheme, _, rest = uris[0].partition("://")
    overlay_id, _, path = rest.partition("/")
    kind, _, host = path.partition("/")
    hexadecimal = len(overlay_id) == 2 * ID_BYTES and not set(overlay_id) - set("0123456789abcdef")
    if scheme != "spiffe" or kind != "host" or not hexadecimal:
        raise MalformedCertificate("a leaf's URI name is spiffe://<overlay>/host/<PeerId>")
    try:
        return OverlayId(overlay_id), parse_peer_id(host)
    except MalformedIdentity:
        raise MalformedCertificate("a leaf's URI name ends with a PeerId") from None
