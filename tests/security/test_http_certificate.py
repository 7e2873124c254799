"""Certificates for HTTP faces: what they are for, and what nobody takes them for."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from security.certificate import DAY_S, IssuerKey, make_issuer, make_root
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.errors import LimitExceeded, MalformedCertificate, MalformedName
from security.http_certificate import LIFETIME_S, NAMES_MAX, HttpCertificate, make_http_certificate
from security.trust import Trust
from tests.security.world import seeded

NOW_UNIX_S = 1_800_000_000.0
ROOT = make_root(seeded(1), NOW_UNIX_S)
ISSUER = make_issuer(ROOT, seeded(2), NOW_UNIX_S)


def made(
    *names: str, issuer: IssuerKey = ISSUER, lifetime_s: float = LIFETIME_S
) -> HttpCertificate:
    return make_http_certificate(issuer, names, seeded(3), NOW_UNIX_S, lifetime_s=lifetime_s)


def chain_of(certificate: HttpCertificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(certificate.pem.encode())


def test_it_names_hosts_and_addresses_and_serves_tls_alone() -> None:
    leaf, issuing = chain_of(made("llm.example", "10.0.0.5", "fd00::5"))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["llm.example"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.5", "fd00::5"]
    assert issuing.public_bytes(Encoding.DER) == ISSUER.der
    leaf.verify_directly_issued_by(issuing)
    key = load_pem_private_key(made("a").pem.encode(), None)
    assert key.public_key() == chain_of(made("a"))[0].public_key()


def test_no_peer_takes_it_for_a_leaf() -> None:
    leaf = chain_of(made("llm.example"))[0].public_bytes(Encoding.DER)
    assert len(leaf) <= CERTIFICATE_BYTES_MAX
    with pytest.raises(MalformedCertificate):
        Trust.of(ROOT.der, [ISSUER.der]).leaf(leaf)


def test_it_signs_nothing_and_is_for_no_client() -> None:
    leaf = chain_of(made("llm.example"))[0]
    find = leaf.extensions.get_extension_for_class
    assert not find(x509.BasicConstraints).value.ca
    assert not find(x509.KeyUsage).value.key_cert_sign
    assert list(find(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_it_ends_with_its_issuer_at_the_latest() -> None:
    short = made("a", lifetime_s=DAY_S)
    assert short.not_after_unix_s == NOW_UNIX_S + DAY_S
    long = made("a", lifetime_s=100 * 365 * DAY_S)
    issuing = x509.load_der_x509_certificate(ISSUER.der)
    assert long.not_after_unix_s == issuing.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("names", [(), ("a",) * (NAMES_MAX + 1)])
def test_no_names_and_too_many_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(LimitExceeded):
        made(*names)


@pytest.mark.parametrize("name", ["x.peer.rhizome.internal", "X.Rhizome.Internal.", "a b", ""])
def test_names_that_it_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(MalformedName):
        made("ok", name)


def test_its_key_is_shown_by_no_repr() -> None:
    assert "PRIVATE" in made("a").pem
    assert "PRIVATE" not in repr(made("a"))
