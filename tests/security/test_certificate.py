"""Certificates: what is issued is accepted, and everything that looks almost like it is not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from security.certificate import (
    BACKDATE_S,
    LEAF_LIFETIME_S,
    IssuerKey,
    dns_name_of,
    issue_leaf,
    overlay_id_of,
    parse_issuer,
    parse_leaf,
    verify_chain,
)
from security.errors import (
    Expired,
    IdentityMismatch,
    Malformed,
    MalformedCertificate,
    NotYetValid,
    SecurityError,
    UntrustedIssuer,
    WrongOverlay,
)
from security.peer_id import PeerId
from tests.security.world import DAY_S, NOW_S, Overlay, forged_leaf


def check(overlay: Overlay, leaf: bytes, *, now_s: float = NOW_S, issuer: bytes = b"") -> PeerId:
    return verify_chain(leaf, issuer or overlay.issuer.der, overlay.root.der, now_s).peer_id


def test_an_issued_leaf_names_its_host_overlay_and_issuer() -> None:
    overlay = Overlay()
    keys = overlay.host()
    leaf = verify_chain(overlay.leaf(keys), overlay.issuer.der, overlay.root.der, NOW_S)
    assert leaf.peer_id == keys.peer_id
    assert leaf.overlay_id == overlay.overlay_id == overlay_id_of(overlay.root.der)
    assert leaf.issuer_id == overlay.issuer.issuer_id
    assert leaf.not_before_unix_s == NOW_S - BACKDATE_S
    assert leaf.not_after_unix_s == NOW_S + LEAF_LIFETIME_S


def test_a_forged_leaf_that_is_wrong_in_nothing_is_accepted() -> None:
    overlay = Overlay()
    keys = overlay.host()
    assert check(overlay, forged_leaf(overlay.issuer, keys)) == keys.peer_id


def test_the_same_seed_gives_the_same_certificates() -> None:
    one, other = Overlay(3), Overlay(3)
    assert one.root.der == other.root.der
    assert one.leaf(one.host()) == other.leaf(other.host())


def test_a_leaf_signed_by_another_overlays_issuer_is_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    keys = overlay.host()
    with pytest.raises(WrongOverlay):
        check(overlay, foreign.leaf(keys))
    with pytest.raises(UntrustedIssuer):
        check(overlay, foreign.leaf(keys), issuer=foreign.issuer.der)


def test_a_foreign_issuer_that_writes_our_names_is_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    keys = overlay.host()
    uri = f"spiffe://{overlay.overlay_id}/host/{keys.peer_id}"
    forged = forged_leaf(foreign.issuer, keys, uri=uri, authority=overlay.issuer.issuer_id)
    with pytest.raises(UntrustedIssuer):
        check(overlay, forged)


def test_an_issuer_is_no_leaf_and_a_leaf_no_issuer() -> None:
    overlay = Overlay()
    keys = overlay.host()
    leaf = overlay.leaf(keys)
    with pytest.raises(MalformedCertificate):
        check(overlay, overlay.issuer.der)
    with pytest.raises(MalformedCertificate):
        check(overlay, leaf, issuer=leaf)
    with pytest.raises(MalformedCertificate):
        parse_issuer(overlay.root.der, overlay.root.der)
    with pytest.raises(MalformedCertificate):
        overlay_id_of(overlay.issuer.der)


def test_a_host_that_signs_certificates_with_its_leaf_is_refused() -> None:
    overlay = Overlay()
    thief, victim = overlay.host(), overlay.host()
    as_issuer = IssuerKey(
        private=thief.identity,
        der=overlay.leaf(thief),
        issuer_id=overlay.issuer.issuer_id,
        overlay_id=overlay.overlay_id,
    )
    forged = forged_leaf(as_issuer, victim)
    with pytest.raises(MalformedCertificate):
        check(overlay, forged, issuer=as_issuer.der)
    with pytest.raises(UntrustedIssuer):
        check(overlay, forged)


def test_a_leaf_with_another_hosts_name_is_refused() -> None:
    overlay = Overlay()
    thief, victim = overlay.host(), overlay.host()
    uri = f"spiffe://{overlay.overlay_id}/host/{victim.peer_id}"
    with pytest.raises(IdentityMismatch):
        check(overlay, forged_leaf(overlay.issuer, thief, uri=uri))
    with pytest.raises(IdentityMismatch):
        check(overlay, forged_leaf(overlay.issuer, thief, dns=dns_name_of(victim.peer_id)))


@pytest.mark.parametrize(
    "flaw",
    [
        {"ca": True},
        {"uses": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
        {"uri": "spiffe://not-an-id/host/12D3"},
        {"uri": "https://0123456789abcdef0123456789abcdef/host/x"},
        {"more_names": (x509.DNSName("more.example"),)},
        {"authority": "00"},
    ],
    ids=lambda flaw: next(iter(flaw)),
)
def test_a_leaf_of_another_shape_is_refused(flaw: dict[str, object]) -> None:
    overlay = Overlay()
    keys = overlay.host()
    make: Callable[..., bytes] = forged_leaf
    with pytest.raises(MalformedCertificate):
        check(overlay, make(overlay.issuer, keys, **flaw))


def test_keys_and_signatures_of_other_kinds_are_refused() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    start = dt.datetime.fromtimestamp(NOW_S, dt.UTC)
    der = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .sign(private, SHA256())
        .public_bytes(Encoding.DER)
    )
    for read in (parse_leaf, overlay_id_of):
        with pytest.raises(MalformedCertificate):
            read(der)


def test_a_leaf_is_in_force_from_ten_minutes_before_to_its_end() -> None:
    overlay = Overlay()
    keys = overlay.host()
    leaf = overlay.leaf(keys)
    assert check(overlay, leaf, now_s=NOW_S + LEAF_LIFETIME_S) == keys.peer_id
    with pytest.raises(Expired, match="ended 1 s ago"):
        check(overlay, leaf, now_s=NOW_S + LEAF_LIFETIME_S + 0.5)
    late = overlay.leaf(keys, NOW_S + BACKDATE_S)
    assert check(overlay, late) == keys.peer_id
    with pytest.raises(NotYetValid, match="clock"):
        check(overlay, late, now_s=NOW_S - 1)


def test_a_leaf_ends_with_its_issuer_at_the_latest() -> None:
    overlay = Overlay()
    keys = overlay.host()
    near_the_end_s = NOW_S + 10 * 365 * DAY_S - 3600
    leaf = issue_leaf(overlay.issuer, keys.peer_id, overlay.secret, near_the_end_s)
    with pytest.raises(Expired, match="rhizome ca issuer renew"):
        issue_leaf(overlay.issuer, keys.peer_id, overlay.secret, near_the_end_s + 100 * DAY_S)
    issuer = parse_issuer(overlay.issuer.der, overlay.root.der)
    assert parse_leaf(leaf).not_after_unix_s == issuer.not_after_unix_s
    with pytest.raises(Expired, match="issuer"):
        check(overlay, leaf, now_s=issuer.not_after_unix_s + 1)


def test_a_leaf_names_no_tenant_and_is_small() -> None:
    overlay = Overlay()
    leaf = overlay.leaf(overlay.host())
    assert b"alpha" not in leaf
    assert len(leaf) < 700


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("difference", [0x01, 0x10, 0x80, 0xFF])
def test_no_single_altered_byte_passes(difference: int) -> None:
    overlay = Overlay()
    der = overlay.leaf(overlay.host())
    for position in range(len(der)):
        altered = bytearray(der)
        altered[position] ^= difference
        with pytest.raises(SecurityError):
            check(overlay, bytes(altered))


@given(st.binary(max_size=600))
def test_garbage_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_leaf(data)


def test_an_oversized_certificate_is_not_read() -> None:
    with pytest.raises(MalformedCertificate, match="bytes"):
        parse_leaf(bytes(4096))
