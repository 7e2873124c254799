"""The parts that all certificates here have in common, and how they are written and read.

What each of them must look like besides is said by ``security.certificate``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from security.errors import BadSignature, MalformedCertificate
from security.keys import Secret

CERTIFICATE_BYTES_MAX = 2048
"""Ours have 250 to 500."""

BACKDATE_S = 600

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ID_BYTES = 16
_SERIAL_BYTES = 16
UNREADABLE = (
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


def key_id(public: Ed25519PublicKey) -> str:
    """32 hex digits that name a root's or issuer's key."""
    return hashlib.sha256(public.public_bytes_raw()).digest()[:ID_BYTES].hex()


def common_name(text: str) -> x509.Name:
    """A subject or issuer of that CN and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def builder_of(
    secret: Secret,
    public: Ed25519PublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    now_unix_s: float,
    lifetime_s: float,
) -> x509.CertificateBuilder:
    """A certificate to be signed: names, key, serial number and dates."""
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


def sign_ca(
    builder: x509.CertificateBuilder,
    signer: Ed25519PrivateKey,
    public: Ed25519PublicKey,
    *,
    path_length: int,
    signs_objects: bool,
) -> bytes:
    """The DER form of a root's or issuer's certificate, with what both levels have."""
    usage = key_usage(digital_signature=signs_objects, key_cert_sign=True)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(bytes.fromhex(key_id(public))), critical=False)
        .sign(signer, None)
    )
    return certificate.public_bytes(Encoding.DER)


def key_usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    """A key usage of these two and nothing else."""
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


def load(der: bytes) -> x509.Certificate:
    """Reads a certificate that is signed with Ed25519. Nothing else is judged.

    Raises:
        MalformedCertificate: when it is none, too large, or written in two ways.
    """
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise MalformedCertificate(f"a certificate of {len(der)} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except UNREADABLE:
        raise MalformedCertificate("not a certificate") from None
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        raise MalformedCertificate("certificates here are signed with Ed25519")
    if not der.endswith(_SIGNATURE_HEADER + certificate.signature):
        raise MalformedCertificate("a certificate that is written in two ways")
    return certificate


def public_key_in(certificate: x509.Certificate) -> Ed25519PublicKey:
    """A certificate's key.

    Raises:
        MalformedCertificate: when it is no Ed25519 key.
    """
    try:
        public = certificate.public_key()
    except UNREADABLE:
        raise MalformedCertificate("the certificate's key cannot be read") from None
    if not isinstance(public, Ed25519PublicKey):
        raise MalformedCertificate("keys here are Ed25519 keys")
    return public


def check_ca(certificate: x509.Certificate, *, path_length: int) -> None:
    """Checks that a certificate may sign others, ``path_length`` levels below the next.

    Raises:
        MalformedCertificate: when it is of another level.
    """
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except UNREADABLE:
        raise MalformedCertificate("not a certificate of a root or issuer") from None
    if not constraints.ca or constraints.path_length != path_length or not usage.key_cert_sign:
        raise MalformedCertificate("not a certificate of that level of the hierarchy")


def check_signature(certificate: x509.Certificate, signer: Ed25519PublicKey) -> None:
    """Checks who signed a certificate.

    Raises:
        BadSignature: when it was not that key.
    """
    try:
        signer.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        raise BadSignature("the certificate is not signed by that key") from None


def unix_s_of(moment: dt.datetime) -> int:
    """A certificate's date in Unix seconds."""
    return int((moment - _EPOCH).total_seconds())
