"""Certificates for the HTTP faces of an overlay, signed by its issuer.

For clients that trust the overlay's root instead of a public authority. Such a certificate serves
TLS and nothing else: it names hosts as DNS and addresses, has no URI name and no client use, so no
peer takes it for a leaf. Its key is made with it and kept in memory alone.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.certificate import BACKDATE_S, DAY_S, IssuerKey
from security.errors import LimitExceeded
from security.keys import Secret

LIFETIME_S = 30 * DAY_S
NAMES_MAX = 64
RESERVED_SUFFIX = ".rhizome.internal"
"""Names of peers on the overlay's own port end so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCertificate:
    """Key and chain as PEM, in the order in which TLS stacks read them; secret."""

    pem: str = field(repr=False)
    not_after_unix_s: int


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
        LimitExceeded: when there are no names, too many, or one that only a peer can have.
    """
    if not 0 < len(names) <= NAMES_MAX:
        raise LimitExceeded(f"an HTTP certificate has 1 to {NAMES_MAX} names")
    if any(name.lower().rstrip(".").endswith(RESERVED_SUFFIX) for name in names):
        raise LimitExceeded(f"names that end in {RESERVED_SUFFIX} are the peers' own")
    private = Ed25519PrivateKey.from_private_bytes(secret(32))
    issuing = x509.load_der_x509_certificate(issuer.der)
    end_s = min(now_unix_s + lifetime_s, issuing.not_valid_after_utc.timestamp())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rhizome http")]))
        .issuer_name(issuing.subject)
        .public_key(private.public_key())
        .serial_number((int.from_bytes(secret(16), "big") >> 1) | 1)
        .not_valid_before(_moment(now_unix_s - BACKDATE_S))
        .not_valid_after(_moment(end_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signs(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(bytes.fromhex(issuer.issuer_id), None, None), critical=False
        )
        .sign(issuer.private, None)
    )
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = [each.public_bytes(Encoding.PEM) for each in (certificate, issuing)]
    return HttpCertificate(
        pem=b"".join([key, *chain]).decode("ascii"), not_after_unix_s=math.floor(end_s)
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


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
