"""Requests for certificates of HTTP faces: who gets one, for which key and names."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import DAY_S, ISSUER_LIFETIME_S, renew_issuer
from security.enrolment import make_join_request
from security.errors import (
    BadSignature,
    Expired,
    HostUnknown,
    IdentityMismatch,
    Malformed,
    MalformedCertificate,
    MalformedName,
    MalformedObject,
    NameNotGranted,
    Refused,
    Revoked,
    SecurityError,
    UnknownHost,
    UnsupportedVersion,
    UntrustedIssuer,
)
from security.hosts import with_http_names
from security.http_certificate import (
    HttpCertificate,
    certify_http,
    make_http_certificate,
    open_http_certificate,
    read_http_certificate,
)
from security.http_request import (
    HttpIssued,
    HttpRefusal,
    issue_http_certificate,
    make_http_request,
    open_http_answer,
    refuse_http,
    refuse_http_as,
    verify_http_request,
)
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.trust import Trust
from tests.security.rotations import Rotated
from tests.security.world import NOTHING, NOW_S, seeded

NAMES = ("*.llm.example", "10.0.0.5", "llm.example")


def key_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seeded(number)(32))


KEY = key_of(77)


class Overlay:
    """An issuer, a host that was granted :data:`NAMES`, and one that was granted another one."""

    def __init__(self) -> None:
        self.authority = Authority.create(seeded(1), NOW_S, ["default"])
        self.host, self.other = (HostKeys.generate(seeded(each)) for each in (2, 3))
        for keys in (self.host, self.other):
            self.authority, _ = self.authority.enrol(
                keys.peer_id, keys.sealing_public, (), seeded(4), NOW_S
            )
        self.grant(self.host.peer_id, *NAMES)
        self.grant(self.other.peer_id, "other.example")

    def grant(self, peer_id: PeerId, *names: str, remove: bool = False) -> None:
        hosts = with_http_names(self.authority.hosts, peer_id, names, remove=remove)
        self.authority = replace(self.authority, hosts=hosts)

    def request(
        self, *names: str, keys: HostKeys | None = None, key: Ed25519PrivateKey = KEY
    ) -> bytes:
        peer_id = (keys or self.host).peer_id
        return make_http_request(key, self.authority.issuer.overlay_id, peer_id, names)

    def issue(
        self,
        data: bytes,
        *,
        peer_id: PeerId | None = None,
        revocations: RevocationSet = NOTHING,
        now_s: float = NOW_S,
    ) -> bytes:
        return issue_http_certificate(
            self.authority.issuer,
            self.authority.hosts,
            peer_id or self.host.peer_id,
            data,
            seeded(5),
            now_s,
            revocations,
            lifetime_s=DAY_S,
        )

    def open(
        self, answer: bytes, names: tuple[str, ...] = NAMES, *, now_s: float = NOW_S
    ) -> HttpCertificate:
        return open_http_answer(answer, KEY, names, self.host.peer_id, self.authority.trust, now_s)


@pytest.fixture(scope="module")
def overlay() -> Overlay:
    return Overlay()


def test_a_host_gets_a_certificate_for_its_own_key_and_its_names(overlay: Overlay) -> None:
    made = overlay.open(overlay.issue(overlay.request(*NAMES)))
    assert made.names == NAMES
    assert (made.issued_unix_s, made.lifetime_s) == (NOW_S, DAY_S)
    leaf = x509.load_pem_x509_certificates(made.pem.encode())[0]
    assert leaf.public_key() == KEY.public_key()
    some = overlay.open(overlay.issue(overlay.request("llm.example")), ("llm.example",))
    assert some.names == ("llm.example",)


@pytest.mark.parametrize(
    "name",
    ["other.example", "a.llm.example", "example", "*.example.org", "10.0.0.6", "127.0.0.1"],
)
def test_one_name_that_was_not_granted_spoils_the_request(overlay: Overlay, name: str) -> None:
    asked = tuple(sorted(["llm.example", name]))
    with pytest.raises(NameNotGranted) as caught:
        overlay.issue(overlay.request(*asked))
    assert caught.value.names == (name,)
    with pytest.raises(NameNotGranted) as told:
        overlay.open(refuse_http(caught.value), asked)
    assert told.value.names == (name,)
    line = f"rhizome ca http-name {overlay.host.peer_id} {name}"
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_another_hosts_request_is_not_a_hosts_own(overlay: Overlay) -> None:
    data = overlay.request(*NAMES)
    with pytest.raises(BadSignature):
        overlay.issue(data, peer_id=overlay.other.peer_id)
    with pytest.raises(NameNotGranted):
        overlay.issue(overlay.request(*NAMES, keys=overlay.other), peer_id=overlay.other.peer_id)


def test_a_key_that_the_host_does_not_hold_gets_none(overlay: Overlay) -> None:
    body = msgspec.msgpack.decode(overlay.request(*NAMES))
    body["key"] = key_of(78).public_key().public_bytes_raw()
    with pytest.raises(BadSignature):
        overlay.issue(msgspec.msgpack.encode(body))
    with pytest.raises(IdentityMismatch, match="for it alone"):
        overlay.issue(overlay.request(*NAMES, key=overlay.host.identity))


def test_names_are_bound_to_the_proof(overlay: Overlay) -> None:
    body = msgspec.msgpack.decode(overlay.request("llm.example"))
    body["names"] = list(NAMES)
    with pytest.raises(BadSignature):
        overlay.issue(msgspec.msgpack.encode(body))


@pytest.mark.parametrize(
    "names",
    [("LLM.example",), ("llm.example", "10.0.0.5"), ("llm.example", "llm.example"), ("a b",), ()],
)
def test_names_in_another_spelling_or_order_are_malformed(
    overlay: Overlay, names: tuple[str, ...]
) -> None:
    with pytest.raises(Malformed):
        overlay.issue(overlay.request(*names))


def test_a_stranger_and_who_is_revoked_get_none(overlay: Overlay) -> None:
    stranger = HostKeys.generate(seeded(9))
    with pytest.raises(HostUnknown):
        overlay.issue(overlay.request(*NAMES, keys=stranger), peer_id=stranger.peer_id)
    issuer, trust = overlay.authority.issuer, overlay.authority.trust
    for id_ in (overlay.host.peer_id, issuer.issuer_id):
        statement = open_revocation(make_revocation(issuer, id_, NOW_S), trust)
        with pytest.raises(Revoked):
            overlay.issue(overlay.request(*NAMES), revocations=RevocationSet.of([statement]))


def test_an_issuer_that_has_ended_certifies_nobody(overlay: Overlay) -> None:
    late_s = NOW_S + ISSUER_LIFETIME_S
    with pytest.raises(Expired, match="rhizome ca issuer renew"):
        overlay.issue(overlay.request(*NAMES), now_s=late_s)
    with pytest.raises(Expired, match="rhizome ca issuer renew"):
        make_http_certificate(overlay.authority.issuer, NAMES, seeded(7), late_s + DAY_S)


def test_a_name_that_is_withdrawn_is_given_no_more() -> None:
    overlay = Overlay()
    overlay.grant(overlay.host.peer_id, "llm.example", remove=True)
    with pytest.raises(NameNotGranted):
        overlay.issue(overlay.request("llm.example"))
    overlay.issue(overlay.request("10.0.0.5"))
    with pytest.raises(NameNotGranted, match="not granted to that host"):
        overlay.grant(overlay.host.peer_id, "llm.example", remove=True)
    with pytest.raises(UnknownHost):
        overlay.grant(HostKeys.generate(seeded(9)).peer_id, "llm.example")


def test_grants_outlive_a_renewal_and_a_restart_of_the_issuer() -> None:
    overlay = Overlay()
    host = overlay.host
    overlay.authority, _ = overlay.authority.renew(host.peer_id, seeded(6), NOW_S, NOTHING)
    overlay.authority = authority_from_bytes(authority_to_bytes(overlay.authority))
    assert overlay.authority.hosts[host.peer_id].http_names == NAMES
    overlay.open(overlay.issue(overlay.request(*NAMES)))


class TestATicket:
    def redeemed(self, *names: str) -> tuple[Authority, HostKeys, bytes]:
        """An issuer that was restarted after a ticket with these names, and its one host."""
        authority = Authority.create(seeded(1), NOW_S, ["default"])
        authority, ticket = authority.invite(
            ["default"], ["192.0.2.1:7402"], 600, seeded(2), NOW_S, http_names=names
        )
        authority = authority_from_bytes(authority_to_bytes(authority))
        keys = HostKeys.generate(seeded(3))
        request = make_join_request(keys, ticket)
        authority, _ = authority.admit(request, seeded(4), NOW_S, NOTHING)
        return authority, keys, request

    def test_grants_its_names_to_who_uses_it(self) -> None:
        authority, keys, _ = self.redeemed("LLM.Example", "10.0.0.5")
        assert authority.hosts[keys.peer_id].http_names == ("10.0.0.5", "llm.example")
        nobody, keys, _ = self.redeemed()
        assert nobody.hosts[keys.peer_id].http_names == ()

    def test_grants_them_once_however_often_its_host_asks(self) -> None:
        authority, keys, request = self.redeemed("llm.example")
        hosts = with_http_names(authority.hosts, keys.peer_id, ["llm.example"], remove=True)
        authority, _ = replace(authority, hosts=hosts).admit(request, seeded(5), NOW_S, NOTHING)
        assert authority.hosts[keys.peer_id].http_names == ()

    @pytest.mark.parametrize("name", ["a_b", "localhost", "x.rhizome.internal"])
    def test_holds_no_name_that_cannot_be_a_hosts(self, name: str) -> None:
        with pytest.raises(MalformedName):
            self.redeemed(name)


class TestTheAnswer:
    def test_of_a_foreign_issuer_is_not_believed(self, overlay: Overlay) -> None:
        foreign = Overlay()
        foreign.authority = Authority.create(seeded(50), NOW_S, [])
        made = make_http_certificate(foreign.authority.issuer, NAMES, seeded(7), NOW_S)
        leaf, issuer = x509.load_pem_x509_certificates(made.pem.encode())
        ders = [each.public_bytes(Encoding.DER) for each in (leaf, issuer)]
        with pytest.raises(UntrustedIssuer):
            open_http_certificate(KEY, *ders, overlay.authority.trust, NOW_S)
        with pytest.raises((UntrustedIssuer, BadSignature)):
            open_http_certificate(
                KEY, ders[0], overlay.authority.issuer.der, overlay.authority.trust, NOW_S
            )

    def test_that_was_altered_is_not_believed(self, overlay: Overlay) -> None:
        issued = msgspec.msgpack.decode(overlay.issue(overlay.request(*NAMES)), type=HttpIssued)
        for place in range(0, len(issued.certificate), 7):
            damaged = bytearray(issued.certificate)
            damaged[place] ^= 1
            with pytest.raises(SecurityError):
                overlay.open(
                    msgspec.msgpack.encode(
                        msgspec.structs.replace(issued, certificate=bytes(damaged))
                    )
                )

    def test_for_another_key_or_other_names_is_not_taken(self, overlay: Overlay) -> None:
        answer = overlay.issue(overlay.request(*NAMES, key=key_of(80)))
        with pytest.raises(IdentityMismatch, match="another key"):
            overlay.open(answer)
        answer = overlay.issue(overlay.request("llm.example"))
        with pytest.raises(IdentityMismatch, match="other names"):
            overlay.open(answer)

    def test_that_is_a_leaf_is_not_taken(self, overlay: Overlay) -> None:
        authority = overlay.authority
        _, leaf = authority.certify(
            overlay.host.peer_id, overlay.host.sealing_public, seeded(8), NOW_S
        )
        answer = msgspec.msgpack.encode(
            HttpIssued(v=1, certificate=leaf, issuer=authority.issuer.der)
        )
        with pytest.raises(MalformedCertificate):
            overlay.open(answer)

    @pytest.mark.parametrize("late_s", [-DAY_S, DAY_S + 1])
    def test_out_of_its_dates_is_not_taken(self, overlay: Overlay, late_s: float) -> None:
        answer = overlay.issue(overlay.request(*NAMES))
        with pytest.raises(Refused):
            overlay.open(answer, now_s=NOW_S + late_s)

    @pytest.mark.parametrize("reason", HttpRefusal)
    def test_each_refusal_is_told_in_one_line(self, overlay: Overlay, reason: HttpRefusal) -> None:
        with pytest.raises(Refused) as caught:
            overlay.open(refuse_http_as(reason, ["x" * 99, "\x1b[31m"]))
        assert str(caught.value).isprintable()
        assert "xxx" not in str(caught.value)

    def test_of_a_later_version_is_told(self, overlay: Overlay) -> None:
        body = msgspec.msgpack.decode(overlay.issue(overlay.request(*NAMES)))
        with pytest.raises(UnsupportedVersion):
            overlay.open(msgspec.msgpack.encode({**body, "v": 2}))


def test_what_is_kept_is_read_again_and_judged_again(overlay: Overlay) -> None:
    made = overlay.open(overlay.issue(overlay.request(*NAMES)))
    trust = overlay.authority.trust
    again = read_http_certificate(made.pem.encode(), trust, NOW_S)
    assert (again, again.pem) == (made, made.pem)
    with pytest.raises(Expired):
        read_http_certificate(made.pem.encode(), trust, NOW_S + DAY_S + 1)
    foreign = Authority.create(seeded(50), NOW_S, []).trust
    with pytest.raises(UntrustedIssuer):
        read_http_certificate(made.pem.encode(), foreign, NOW_S)
    chain = made.pem[made.pem.index("-----BEGIN CERT") :]
    key = make_http_certificate(overlay.authority.issuer, ["a"], seeded(78), NOW_S).pem
    mixed = key[: key.index("-----BEGIN CERT")] + chain
    with pytest.raises(IdentityMismatch):
        read_http_certificate(mixed.encode(), trust, NOW_S)


def test_the_chain_goes_on_with_the_newest_certificate_of_the_issuer() -> None:
    rotated = Rotated(1)
    key = key_of(81)
    before = Trust.of(rotated.root.der, [rotated.issuer.der])
    der = certify_http(rotated.issuer, key.public_key(), NAMES, seeded(5), NOW_S, lifetime_s=DAY_S)
    made = open_http_certificate(key, der, rotated.issuer.der, before, NOW_S)
    rotated.overlap()
    newer = renew_issuer(rotated.keys[-1], rotated.issuer, seeded(6), NOW_S)
    rotated.drop()
    after = before.with_bundles(rotated.told)
    with pytest.raises(UntrustedIssuer):
        read_http_certificate(made.pem.encode(), after, NOW_S)
    again = read_http_certificate(made.pem.encode(), after.with_issuer(newer.der), NOW_S)
    leaf, issuer = x509.load_pem_x509_certificates(again.pem.encode())
    assert leaf.public_bytes(Encoding.DER) == der
    assert issuer.public_bytes(Encoding.DER) == newer.der


@pytest.mark.parametrize("damaged", [b"", b"nothing", b"-" * (17 << 10)])
def test_what_is_not_what_was_kept_is_refused(overlay: Overlay, damaged: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        read_http_certificate(damaged, overlay.authority.trust, NOW_S)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_request_or_a_typed_error(data: bytes) -> None:
    with pytest.raises(SecurityError):
        verify_http_request(data, OVERLAY_ID, PEER_ID)


@given(cut=st.integers(min_value=0), flip=st.integers(min_value=0), cuts=st.booleans())
def test_a_damaged_request_is_refused(cut: int, flip: int, cuts: bool) -> None:
    data = bytearray(REQUEST)
    if cuts:
        data = data[: cut % len(data)]
    else:
        data[flip % len(data)] ^= 1 + flip % 255
    with pytest.raises(SecurityError):
        verify_http_request(bytes(data), OVERLAY_ID, PEER_ID)


PEER_ID = HostKeys.generate(seeded(2)).peer_id
OVERLAY_ID = Authority.create(seeded(1), NOW_S, []).issuer.overlay_id
REQUEST = make_http_request(KEY, OVERLAY_ID, PEER_ID, NAMES)


def test_an_oversize_request_and_answer_are_not_read(overlay: Overlay) -> None:
    with pytest.raises(MalformedObject):
        overlay.issue(bytes(9 << 10))
    with pytest.raises(MalformedObject):
        overlay.open(bytes(17 << 10))
