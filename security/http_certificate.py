"""Certificates for the HTTP faces of an overlay, signed by an issuer of it.

For clients that trust the overlay's root instead of a public authority. Such a certificate serves
TLS and nothing else: it names hosts as DNS and addresses, has no URI name and no client use, so no
peer takes it for a leaf. Its key is made for it alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.certificate import (
    DAY_S,
    Issuer,
    IssuerId,
    IssuerKey,
    check_dates,
    left_of,
)
from security.certificate_form import BACKDATE_S, CERTIFICATE_BYTES_MAX
from security.errors import (
    BadSignature,
    Expired,
    IdentityMismatch,
    LimitExceeded,
    MalformedCertificate,
    NotYetValid,
    UntrustedIssuer,
)
from security.http_names import NAME_CHARS_MAX, http_name
from security.keys import Secret
from security.trust import Trust

LIFETIME_S = 30 * DAY_S
NAMES_MAX = 64
PEM_BYTES_MAX = 16 << 10

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCertificate:
    """Key and chain as PEM, in the order in which TLS stacks read them; secret.

    ``names`` are those that it is for, sorted.
    """

    pem: str = field(repr=False)
    names: tuple[str, ...]
    issued_unix_s: int
    not_after_unix_s: int

    @property
    def lifetime_s(self) -> int:
        return self.not_after_unix_s - self.issued_unix_s


def make_http_certificate(
    issuer: IssuerKey,
    names: Sequence[str],
    secret: Secret,
    now_unix_s: float,
    *,
    lifetime_s: float = LIFETIME_S,
) -> HttpCertificate:
    """Makes a key and its certificate.

    Args:
        issuer: who signs; the certificate ends with it at the latest.
        names: DNS names and IP addresses by which clients call.
        secret: where key and serial come from.
        now_unix_s: the time.
        lifetime_s: how long it is good.

    Raises:
        LimitExceeded: when there are no names, or too many.
        MalformedName: when one is none, or one that only a peer can have.
        Expired: when the issuer's own certificate has ended.
    """
    key = Ed25519PrivateKey.from_private_bytes(secret(32))
    der = certify_http(issuer, key.public_key(), names, secret, now_unix_s, lifetime_s=lifetime_s)
    return _made(key, x509.load_der_x509_certificate(der), issuer.der)


def certify_http(
    issuer: IssuerKey,
    public: Ed25519PublicKey,
    names: Sequence[str],
    secret: Secret,
    now_unix_s: float,
    *,
    lifetime_s: float,
) -> bytes:
    """Makes the certificate (DER) of a key that somebody else holds, and has proved.

    Raises:
        LimitExceeded: when there are no names, or too many.
        MalformedName: when one is none, or one that only a peer can have.
        Expired: when the issuer's own certificate has ended.
    """
    if not 0 < len(names) <= NAMES_MAX:
        raise LimitExceeded(f"an HTTP certificate has 1 to {NAMES_MAX} names")
    spelled = [_general(http_name(each)) for each in names]
    issuing = x509.load_der_x509_certificate(issuer.der)
    lifetime_s = left_of(issuer, now_unix_s, lifetime_s)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rhizome http")]))
        .issuer_name(issuing.subject)
        .public_key(public)
        .serial_number((int.from_bytes(secret(16), "big") >> 1) | 1)
        .not_valid_before(_moment(now_unix_s - BACKDATE_S))
        .not_valid_after(_moment(now_unix_s + lifetime_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signs(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(spelled), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(bytes.fromhex(issuer.issuer_id), None, None), critical=False
        )
        .sign(issuer.private, None)
    )
    return certificate.public_bytes(Encoding.DER)


def open_http_certificate(
    key: Ed25519PrivateKey, der: bytes, issuer_der: bytes, trust: Trust, now_unix_s: float
) -> HttpCertificate:
    """Checks a certificate that came from outside, and puts it together with its key.

    The chain goes on with the newest certificate of its issuer that is known here.

    Raises:
        MalformedCertificate: when it has not the shape of one.
        UntrustedIssuer, BadSignature: when no issuer under our root signed it.
        IdentityMismatch: when it is for another key.
        Expired, NotYetValid: when it or its issuer is out of its dates.
    """
    certificate = _load(der)
    issuer = _issuer_of(certificate, issuer_der, trust)
    try:
        issuer.public.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        raise BadSignature("the issuer did not sign the HTTP certificate") from None
    _check_use(certificate)
    if certificate.public_key() != key.public_key():
        raise IdentityMismatch("an HTTP certificate for another key")
    check_dates(issuer, now_unix_s)
    made = _made(key, certificate, issuer.der)
    if now_unix_s > made.not_after_unix_s:
        raise Expired("the HTTP certificate has ended")
    if now_unix_s < made.issued_unix_s - BACKDATE_S:
        raise NotYetValid("the HTTP certificate has not begun: is the clock of this host right?")
    return made


def read_http_certificate(pem: bytes, trust: Trust, now_unix_s: float) -> HttpCertificate:
    """Reads the PEM of an :class:`HttpCertificate` again.

    Raises:
        MalformedCertificate: when it is something else.
        SecurityError: as ``open_http_certificate``.
    """
    if len(pem) > PEM_BYTES_MAX:
        raise MalformedCertificate(f"an HTTP certificate of {len(pem)} bytes")
    try:
        key = load_pem_private_key(pem, None)
        certificate, issuer = x509.load_pem_x509_certificates(pem)
    except _UNREADABLE:
        raise MalformedCertificate("not the key and certificate of an HTTP face") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedCertificate("keys here are Ed25519 keys")
    der, issuer_der = (each.public_bytes(Encoding.DER) for each in (certificate, issuer))
    return open_http_certificate(key, der, issuer_der, trust, now_unix_s)


def _made(key: Ed25519PrivateKey, certificate: x509.Certificate, issuer: bytes) -> HttpCertificate:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    issuing = x509.load_der_x509_certificate(issuer)
    chain = [each.public_bytes(Encoding.PEM) for each in (certificate, issuing)]
    return HttpCertificate(
        pem=b"".join([private, *chain]).decode("ascii"),
        names=_names_of(certificate),
        issued_unix_s=math.floor(certificate.not_valid_before_utc.timestamp()) + BACKDATE_S,
        not_after_unix_s=math.floor(certificate.not_valid_after_utc.timestamp()),
    )


def _load(der: bytes) -> x509.Certificate:
    if len(der) > CERTIFICATE_BYTES_MAX + NAMES_MAX * NAME_CHARS_MAX:
        raise MalformedCertificate(f"an HTTP certificate of {len(der)} bytes")
    try:
        return x509.load_der_x509_certificate(der)
    except _UNREADABLE:
        raise MalformedCertificate("not a certificate") from None


def _issuer_of(certificate: x509.Certificate, issuer_der: bytes, trust: Trust) -> Issuer:
    # The root that signed the one beside it may be let go since; another may have signed it anew.
    with contextlib.suppress(UntrustedIssuer):
        trust = trust.with_issuer(issuer_der)
    return trust.issuer(_issuer_id(certificate))


def _issuer_id(certificate: x509.Certificate) -> IssuerId:
    try:
        find = certificate.extensions.get_extension_for_class
        found = find(x509.AuthorityKeyIdentifier).value.key_identifier
    except _UNREADABLE:
        raise MalformedCertificate("an HTTP certificate names its issuer's key") from None
    return IssuerId((found or b"").hex())


def _check_use(certificate: x509.Certificate) -> None:
    try:
        find = certificate.extensions.get_extension_for_class
        is_ca = find(x509.BasicConstraints).value.ca
        uses = list(find(x509.ExtendedKeyUsage).value)
    except _UNREADABLE:
        raise MalformedCertificate("not the certificate of an HTTP face") from None
    if is_ca or uses != [ExtendedKeyUsageOID.SERVER_AUTH]:
        raise MalformedCertificate("a certificate for something else than an HTTP face")


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        find = certificate.extensions.get_extension_for_class
        names = find(x509.SubjectAlternativeName).value
    except _UNREADABLE:
        raise MalformedCertificate("an HTTP certificate without names") from None
    dns = names.get_values_for_type(x509.DNSName)
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    if len(dns) + len(addresses) != len(list(names)):
        raise MalformedCertificate("an HTTP certificate with names of another kind")
    return tuple(sorted([*dns, *addresses]))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _moment(unix_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(math.floor(unix_s), dt.UTC)


def _signs() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
