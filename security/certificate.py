"""The three certificates of an overlay: root -> issuer -> leaf, all Ed25519.

Rules
1. The root signs issuers only, an issuer (pathlen 0) leaves only, a leaf no certificate.
2. An overlay's id is the hash of its root key, and stands in the URI name of every leaf:
   ``spiffe://<overlay id>/host/<PeerId>`` (the form of SPIFFE, with the overlay as trust domain).
3. A leaf's key is the PeerId in its URI name; its DNS name is derived from the same key, so that
   OpenSSL can compare it with the peer that was dialled.
4. A leaf names no tenant: anybody on the LAN can read it.
5. Starts are set back by ten minutes, for hosts whose clocks run behind.

In a TLS handshake OpenSSL decides the chain; :func:`verify_chain` does the same for certificates
that arrive in records. What a certificate must look like is decided here for both.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import math
from dataclasses import dataclass, field
from typing import NewType

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

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
"""32 hex digits: the hash of the root key."""

IssuerId = NewType("IssuerId", str)
"""32 hex digits: the hash of the issuer's key."""

CERTIFICATE_BYTES_MAX = 2048
"""Ours have 250 to 500."""

DAY_S = 86_400
BACKDATE_S = 600
LEAF_LIFETIME_S = DAY_S
"""An issuer may choose another one, see :func:`issue_leaf`."""
LEAF_LIFETIME_S_MAX = 90 * DAY_S
RENEWAL_GRACE_S = 30 * DAY_S
"""A leaf that ended so long ago at most is renewed from the host's key."""
ISSUER_LIFETIME_S = 10 * 365 * DAY_S
ROOT_LIFETIME_S = 20 * 365 * DAY_S

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ID_BYTES = 16
_SERIAL_BYTES = 16
_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises, sooner or later, for certificates that are damaged."""
_SIGNATURE_HEADER = bytes.fromhex("034100")
"""BIT STRING of 64 whole bytes. The parser lets another count of unused bits pass, which would give
one certificate two spellings."""
_DNS_SUFFIX = ".peer.rhizome.internal"
_BOTH_USES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The certificate at the top of an overlay."""

    der: bytes
    overlay_id: OverlayId


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
    """An issuer's certificate, checked to be signed by ``overlay_id``'s root."""

    issuer_id: IssuerId
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


def key_id(public: Ed25519PublicKey) -> str:
    """32 hex digits that name a root's or issuer's key."""
    return hashlib.sha256(public.public_bytes_raw()).digest()[:_ID_BYTES].hex()


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
    name = _name("rhizome root")
    builder = _builder(secret, private.public_key(), name, name, now_unix_s, ROOT_LIFETIME_S)
    der = _sign_ca(builder, private, private.public_key(), path_length=1, signs_objects=False)
    return RootKey(private=private, der=der, overlay_id=OverlayId(key_id(private.public_key())))


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


def _certified(
    root: RootKey, private: Ed25519PrivateKey, secret: Secret, now_unix_s: float
) -> IssuerKey:
    public = private.public_key()
    # Each issuer has a subject of its own: OpenSSL looks issuers up by name.
    subject = _name(f"rhizome issuer {key_id(public)}")
    builder = _builder(
        secret, public, subject, _name("rhizome root"), now_unix_s, ISSUER_LIFETIME_S
    ).add_extension(x509.AuthorityKeyIdentifier(bytes.fromhex(root.overlay_id), None, None), False)
    der = _sign_ca(builder, root.private, public, path_length=0, signs_objects=True)
    return IssuerKey(
        private=private, der=der, issuer_id=IssuerId(key_id(public)), overlay_id=root.overlay_id
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
    usage = _key_usage(digital_signature=True, key_cert_sign=False)
    names = [
        x509.UniformResourceIdentifier(f"spiffe://{issuer.overlay_id}/host/{peer_id}"),
        x509.DNSName(dns_name_of(peer_id)),
    ]
    end = x509.load_der_x509_certificate(issuer.der).not_valid_after_utc
    lifetime_s = min(lifetime_s, _unix_s(end) - now_unix_s)
    if lifetime_s < 1:
        raise Expired(
            "the issuer's certificate has ended: run 'rhizome ca issuer renew' on its host"
        )
    builder = (
        _builder(
            secret,
            public_key_of(peer_id),
            _name("rhizome host"),
            _name(f"rhizome issuer {issuer.issuer_id}"),
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


def parse_leaf(der: bytes) -> Leaf:
    """Reads a host's certificate and checks its shape. Signature and dates are not judged here.

    Raises:
        MalformedCertificate: when it is not a leaf as this overlay issues them.
        IdentityMismatch: when its names are not those of its key.
    """
    certificate = _load(der)
    public = _public_key(certificate)
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except _UNREADABLE:
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
    if authority.key_identifier is None or len(authority.key_identifier) != _ID_BYTES:
        raise MalformedCertificate("a leaf names its issuer")
    return Leaf(
        peer_id=peer_id,
        overlay_id=overlay_id,
        issuer_id=IssuerId(authority.key_identifier.hex()),
        not_before_unix_s=_unix_s(certificate.not_valid_before_utc),
        not_after_unix_s=_unix_s(certificate.not_valid_after_utc),
        serial=certificate.serial_number,
        der=der,
    )


def overlay_id_of(root_der: bytes) -> OverlayId:
    """The id of the overlay that a root certificate begins.

    Raises:
        MalformedCertificate: when it is not a root of the shape made here.
        BadSignature: when it is not signed by its own key.
    """
    certificate = _load(root_der)
    public = _public_key(certificate)
    _check_ca(certificate, path_length=1)
    _check_signature(certificate, public)
    return OverlayId(key_id(public))


def parse_issuer(issuer_der: bytes, root_der: bytes) -> Issuer:
    """Reads an issuer's certificate and checks that the root signed it. Dates are not judged.

    Raises:
        MalformedCertificate: when either has the wrong shape.
        UntrustedIssuer: when the root did not sign it.
    """
    overlay_id = overlay_id_of(root_der)
    certificate = _load(issuer_der)
    public = _public_key(certificate)
    _check_ca(certificate, path_length=0)
    try:
        _check_signature(certificate, _public_key(_load(root_der)))
    except BadSignature:
        raise UntrustedIssuer("our root did not sign that issuer") from None
    return Issuer(
        issuer_id=IssuerId(key_id(public)),
        overlay_id=overlay_id,
        public=public,
        not_before_unix_s=_unix_s(certificate.not_valid_before_utc),
        not_after_unix_s=_unix_s(certificate.not_valid_after_utc),
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
        _check_signature(_load(leaf_der), issuer.public)
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


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    secret: Secret,
    public: Ed25519PublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    now_unix_s: float,
    lifetime_s: float,
) -> x509.CertificateBuilder:
    # Seconds and no less: certificates have no fractions. The top bit keeps serials positive.
    start = _EPOCH + dt.timedelta(seconds=math.floor(now_unix_s) - BACKDATE_S)
    end = _EPOCH + dt.timedelta(seconds=math.floor(now_unix_s + lifetime_s))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number((int.from_bytes(secret(_SERIAL_BYTES), "big") >> 1) | 1)
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _sign_ca(
    builder: x509.CertificateBuilder,
    signer: Ed25519PrivateKey,
    public: Ed25519PublicKey,
    *,
    path_length: int,
    signs_objects: bool,
) -> bytes:
    usage = _key_usage(digital_signature=signs_objects, key_cert_sign=True)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(bytes.fromhex(key_id(public))), critical=False)
        .sign(signer, None)
    )
    return certificate.public_bytes(Encoding.DER)


def _key_usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(der: bytes) -> x509.Certificate:
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise MalformedCertificate(f"a certificate of {len(der)} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except _UNREADABLE:
        raise MalformedCertificate("not a certificate") from None
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        raise MalformedCertificate("certificates here are signed with Ed25519")
    if not der.endswith(_SIGNATURE_HEADER + certificate.signature):
        raise MalformedCertificate("a certificate that is written in two ways")
    return certificate


def _public_key(certificate: x509.Certificate) -> Ed25519PublicKey:
    try:
        public = certificate.public_key()
    except _UNREADABLE:
        raise MalformedCertificate("the certificate's key cannot be read") from None
    if not isinstance(public, Ed25519PublicKey):
        raise MalformedCertificate("keys here are Ed25519 keys")
    return public


def _check_ca(certificate: x509.Certificate, *, path_length: int) -> None:
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except _UNREADABLE:
        raise MalformedCertificate("not a certificate of a root or issuer") from None
    if not constraints.ca or constraints.path_length != path_length or not usage.key_cert_sign:
        raise MalformedCertificate("not a certificate of that level of the hierarchy")


def _check_signature(certificate: x509.Certificate, signer: Ed25519PublicKey) -> None:
    try:
        signer.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        raise BadSignature("the certificate is not signed by that key") from None


def _read_names(names: x509.SubjectAlternativeName) -> tuple[OverlayId, PeerId]:
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or len(list(names)) != 2:
        raise MalformedCertificate("a leaf has one URI name and one DNS name")
    scheme, _, rest = uris[0].partition("://")
    overlay_id, _, path = rest.partition("/")
    kind, _, host = path.partition("/")
    hexadecimal = len(overlay_id) == 2 * _ID_BYTES and not set(overlay_id) - set("0123456789abcdef")
    if scheme != "spiffe" or kind != "host" or not hexadecimal:
        raise MalformedCertificate("a leaf's URI name is spiffe://<overlay>/host/<PeerId>")
    try:
        return OverlayId(overlay_id), parse_peer_id(host)
    except MalformedIdentity:
        raise MalformedCertificate("a leaf's URI name ends with a PeerId") from None


def _unix_s(moment: dt.datetime) -> int:
    return int((moment - _EPOCH).total_seconds())
