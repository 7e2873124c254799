"""A self-made certificate of 127.0.0.1, as an operator may give with ``--http-cert``."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Files of a certificate that is its own issuer."""

    cert: Path
    key: Path
    locked_key: Path

    def client(self) -> ssl.SSLContext:
        """A context that trusts it and nothing else."""
        return ssl.create_default_context(cafile=str(self.cert))


def make_certificate(folder: Path) -> Certificate:
    """Writes a fresh certificate and its key, the key also locked with a password."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rhizome test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(
        cert=folder / "cert.pem", key=folder / "key.pem", locked_key=folder / "locked.pem"
    )
    made.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    ways = {
        made.key: serialization.NoEncryption(),
        made.locked_key: serialization.BestAvailableEncryption(b"password"),
    }
    for path, way in ways.items():
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, way)
        )
    return made
