"""Every form that leaves a host, as committed bytes: changing one is changing the protocol.

``python -m tests.security.test_vectors`` writes ``vectors.json`` anew, after a wanted change. Keys
are seeded, signatures deterministic; only HPKE draws randomness of its own, so the EPOCH object of
the file is one that was made once, and is opened rather than made again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.msgpack import encode

from security.authority import Authority
from security.certificate import IssuerId, dns_name_of, parse_leaf, renew_issuer
from security.enrolment import make_join_request, verify_join_request
from security.envelope import Opener, Sealer
from security.epoch import open_epoch
from security.errors import HostUnknown, NameNotGranted
from security.hosts import HostRole
from security.http_certificate import certify_http
from security.http_request import (
    HttpIssued,
    HttpRefusal,
    make_http_request,
    open_http_answer,
    refuse_http_as,
    verify_http_request,
)
from security.issuer_card import make_card, open_card
from security.issuer_request import (
    answer_issuer_request,
    make_issuer_request,
    open_issuer_answer,
    open_issuer_request,
)
from security.keys import HostKeys
from security.record import open_record, sign_record
from security.renewal import (
    CHALLENGE_REQUEST,
    RenewRefusal,
    challenge_answer,
    make_renew_request,
    make_renewal,
    open_challenge,
    open_renewal,
    reason_in,
    refuse_renewal_as,
    verify_renew_request,
    with_reason,
)
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.root_bundle import ROOTS_REQUEST, decode_bundles, encode_bundles
from security.signed import Kind, sign_as_peer, verify_peer
from security.tags import tags_of
from security.tenant import TenantId
from security.tenant_keys import TenantKeys
from security.ticket import Ticket
from security.token import issue_token, verify_token
from tests.security.rotations import Rotated
from tests.security.world import DAY_S, NOTHING, NOW_S, Overlay, seeded

FILE = Path(__file__).with_name("vectors.json")
SALT = bytes(range(16))
HTTP_KEY = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
HTTP_NAMES = ["192.0.2.7", "llm.example"]
TENANT = TenantId("0f" * 16)
KEYS = TenantKeys.derive(
    tenant_id=TENANT, epoch=3, epoch_key=bytes([1]) * 32, chain_secret=bytes([2]) * 32
)
INPUTS = {
    "input_tenant_id": TENANT,
    "input_epoch": "3",
    "input_epoch_key": (bytes([1]) * 32).hex(),
    "input_chain_secret": (bytes([2]) * 32).hex(),
    "input_generation": "5",
    "input_boot_salt": SALT.hex(),
    "input_kind": "delta",
    "input_header": b"header".hex(),
    "input_plain": b"plain".hex(),
    "input_hashes": json.dumps([bytes(16).hex(), SALT.hex()]),
}
"""What the derived keys, envelopes and tags of the file are made of."""


def ticket_of(overlay: Overlay) -> Ticket:
    return Ticket(
        overlay_id=overlay.overlay_id,
        root=overlay.root.der,
        issuer_id=overlay.issuer.issuer_id,
        secret=bytes([7]) * 32,
        expires_unix_s=1_800_000_600,
        addresses=("192.0.2.1:7402",),
        tenants=(),
    )


def made() -> dict[str, str]:
    """Everything that is a function of the seeds."""
    overlay = Overlay(1)
    host = HostKeys.generate(seeded(2))
    leaf = overlay.leaf(host)
    ticket = ticket_of(overlay)
    record = sign_record(
        host,
        overlay.overlay_id,
        leaf=leaf,
        issuer=overlay.issuer.der,
        addresses=["192.0.2.2:7401"],
        generation=5,
        boot_salt=SALT,
        seq=1,
        zone="attic",
        models=["model"],
    )
    token = issue_token(
        overlay.issuer,
        tenant_id=TENANT,
        name="client",
        scopes=["infer"],
        token_id="ab" * 16,
        now_unix_s=NOW_S,
        expires_unix_s=NOW_S + 60,
    )
    sealer = Sealer(KEYS, host.peer_id, 5, SALT)
    http = certify_http(
        overlay.issuer, HTTP_KEY.public_key(), HTTP_NAMES, seeded(4), NOW_S, lifetime_s=DAY_S
    )
    issuer_key = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
    return {
        **INPUTS,
        "host_keys": host.to_bytes().hex(),
        "peer_id": host.peer_id,
        "dns_name": dns_name_of(host.peer_id),
        "overlay_id": overlay.overlay_id,
        "issuer_id": overlay.issuer.issuer_id,
        "root": overlay.root.der.hex(),
        "issuer": overlay.issuer.der.hex(),
        "leaf": leaf.hex(),
        "signed_head": sign_as_peer(host, overlay.overlay_id, Kind.HEAD, b"body").hex(),
        "record": record.hex(),
        "revocation": make_revocation(overlay.issuer, host.peer_id, NOW_S, reason="lost").hex(),
        "token": token,
        "ticket": ticket.to_text(),
        "ticket_id": ticket.ticket_id,
        "ticket_of_an_issuer": replace(ticket, role=HostRole.ISSUER).to_text(),
        "issuer_request": make_issuer_request(host, overlay.overlay_id, issuer_key),
        "issuer_answer": answer_issuer_request(
            overlay.root,
            open_issuer_request(
                make_issuer_request(host, overlay.overlay_id, issuer_key), overlay.overlay_id
            ),
            seeded(8),
            NOW_S,
        ),
        "join_request": make_join_request(host, ticket).hex(),
        "challenge_request": CHALLENGE_REQUEST.hex(),
        "challenge": challenge_answer(bytes([9]) * 32).hex(),
        "renew_request": make_renew_request(host, parse_leaf(leaf), bytes([9]) * 32).hex(),
        **rotation(),
        "renew_request_of_another_issuer": make_renew_request(
            host, parse_leaf(leaf), bytes([9]) * 32, at=IssuerId("5a" * 16)
        ).hex(),
        "renewed_and_why": with_reason(
            make_renewal(overlay.issuer, leaf, []),
            make_revocation(overlay.issuer, "5a" * 16, NOW_S, reason="stolen"),
        ).hex(),
        "issuer_card": make_card(overlay.issuer, ["192.0.2.1:7402"], 7).hex(),
        "renewed": make_renewal(overlay.issuer, leaf, ["192.0.2.1:7402"]).hex(),
        "not_renewed": refuse_renewal_as(RenewRefusal.HOST_UNKNOWN).hex(),
        "http_request": make_http_request(
            HTTP_KEY, overlay.overlay_id, host.peer_id, HTTP_NAMES
        ).hex(),
        "http_issued": encode(HttpIssued(v=1, certificate=http, issuer=overlay.issuer.der)).hex(),
        "http_refused": refuse_http_as(HttpRefusal.NOT_GRANTED, HTTP_NAMES[1:]).hex(),
        "chain_key": KEYS.chain_key.hex(),
        "salt": KEYS.salt.hex(),
        "tag_key": KEYS.tag_key.hex(),
        "stream_id": KEYS.stream_id(host.peer_id, 5).hex(),
        "sealing_key": KEYS.sealing_key("delta", host.peer_id, 5, SALT).hex(),
        "envelope_0": sealer.seal("delta", b"header", b"plain").hex(),
        "envelope_1": sealer.seal("delta", b"header", b"plain").hex(),
        "tags": json.dumps(tags_of(KEYS.tag_key, [bytes(16), SALT])),
    }


def rotation() -> dict[str, str]:
    """A root that follows the first one, an issuer by it, and the two bundles that bring it."""
    overlay = Rotated(1)
    overlap = overlay.overlap()
    new = overlay.keys[1]
    return {
        "root_next": new.der.hex(),
        "issuer_by_the_next_root": renew_issuer(new, overlay.issuer, seeded(8), NOW_S).der.hex(),
        "root_bundle_overlap": overlap.hex(),
        "root_bundle_drop": overlay.drop().hex(),
        "roots_request": ROOTS_REQUEST.hex(),
        "roots_answer": encode_bundles(overlay.told).hex(),
    }


def epoch_made_once() -> dict[str, str]:
    host = HostKeys.generate(seeded(2))
    authority = Authority.create(seeded(1), NOW_S, ["alpha"])
    tenant_id = authority.tenant_id("alpha")
    _, data = authority.add_member(tenant_id, host.peer_id, host.sealing_public, seeded(3))
    authority, public = authority.create_tenant("all", seeded(4), public=True)
    authority, _ = authority.add_member(public, host.peer_id, host.sealing_public, seeded(5))
    authority, rotated = authority.rotate(public, seeded(6), hard=True)
    return {
        "epoch": data.hex(),
        "epoch_tenant_id": tenant_id,
        "epoch_of_a_public_tenant_rotated_hard": rotated.hex(),
    }


def vectors() -> dict[str, str]:
    found: dict[str, str] = json.loads(FILE.read_text())
    return found


def test_everything_is_made_as_it_was() -> None:
    committed = vectors()
    now = made()
    assert {name: committed[name] for name in now} == now


def test_what_was_made_is_still_read() -> None:
    committed = vectors()
    overlay = Overlay(1)
    host = HostKeys.from_bytes(bytes.fromhex(committed["host_keys"]))

    def raw(name: str) -> bytes:
        return bytes.fromhex(committed[name])

    assert verify_peer(raw("signed_head"), Kind.HEAD, overlay.overlay_id).value == b"body"
    record = open_record(raw("record"), overlay.trust, NOW_S, NOTHING).value
    assert (record.peer_id, record.zone) == (host.peer_id, "attic")
    revocations = RevocationSet.of([open_revocation(raw("revocation"), overlay.trust)])
    assert revocations.revokes(host.peer_id)
    assert verify_token(committed["token"], overlay.trust, NOW_S, NOTHING).tenant_id == TENANT
    assert Ticket.parse(committed["ticket"]) == ticket_of(overlay)
    assert Ticket.parse(committed["ticket_of_an_issuer"]).role is HostRole.ISSUER
    asked_for = open_issuer_request(committed["issuer_request"], overlay.overlay_id)
    answer = open_issuer_answer(committed["issuer_answer"], overlay.trust.roots)
    assert (asked_for.peer_id, asked_for.issuer_id) == (host.peer_id, answer.issuer_id)
    join = verify_join_request(raw("join_request"), overlay.issuer)
    assert (join.peer_id, join.ticket_id) == (host.peer_id, committed["ticket_id"])
    assert open_challenge(raw("challenge")) == bytes([9]) * 32
    asked = verify_renew_request(raw("renew_request"), overlay.issuer)
    assert (asked.peer_id, asked.challenge) == (host.peer_id, bytes([9]) * 32)
    elsewhere = replace(overlay.issuer, issuer_id=IssuerId("5a" * 16))
    asked = verify_renew_request(raw("renew_request_of_another_issuer"), elsewhere)
    assert (asked.before, asked.sealing) == (overlay.issuer.issuer_id, host.sealing_public)
    older = parse_leaf(overlay.leaf(host, NOW_S - 60))
    renewal = open_renewal(raw("renewed"), overlay.trust, older)
    assert (renewal.leaf.der, renewal.addresses) == (raw("leaf"), ("192.0.2.1:7402",))
    assert open_revocation(reason_in(raw("renewed_and_why")), overlay.trust).value.id == "5a" * 16
    card = open_card(raw("issuer_card"), overlay.trust).value
    assert (card.seq, card.addresses) == (7, ("192.0.2.1:7402",))
    with pytest.raises(HostUnknown):
        open_renewal(raw("not_renewed"), overlay.trust, older)
    http = verify_http_request(raw("http_request"), overlay.overlay_id, host.peer_id)
    assert (http.public, list(http.names)) == (HTTP_KEY.public_key(), HTTP_NAMES)
    asked_by = (HTTP_KEY, HTTP_NAMES, host.peer_id, overlay.trust, NOW_S)
    assert list(open_http_answer(raw("http_issued"), *asked_by).names) == HTTP_NAMES
    with pytest.raises(NameNotGranted, match="granted llm"):
        open_http_answer(raw("http_refused"), *asked_by)
    bundles = decode_bundles(raw("roots_answer"))
    assert bundles == (raw("root_bundle_overlap"), raw("root_bundle_drop"))
    after = overlay.trust.with_bundles(bundles).with_issuer(raw("issuer_by_the_next_root"))
    assert after.roots.in_force == (raw("root_next"),)
    assert list(after.issuers) == [overlay.issuer.issuer_id]
    for name in ("envelope_0", "envelope_1"):
        opener = Opener(KEYS, host.peer_id, 5, SALT)
        assert opener.open("delta", b"header", raw(name)) == b"plain"


def test_an_epoch_that_was_made_once_is_still_opened() -> None:
    committed = vectors()
    host = HostKeys.from_bytes(bytes.fromhex(committed["host_keys"]))
    authority = Authority.create(seeded(1), NOW_S, ["alpha"])
    found = open_epoch(bytes.fromhex(committed["epoch"]), authority.trust, host, NOW_S, NOTHING)
    assert found is not None
    assert found.value.tenant_id == committed["epoch_tenant_id"]
    assert (found.value.name, found.value.version) == ("alpha", 2)
    assert list(found.value.members) == [host.peer_id]


def test_an_epoch_after_a_hard_rotation_is_still_opened() -> None:
    committed = vectors()
    host = HostKeys.from_bytes(bytes.fromhex(committed["host_keys"]))
    trust = Authority.create(seeded(1), NOW_S, ["alpha"]).trust
    data = bytes.fromhex(committed["epoch_of_a_public_tenant_rotated_hard"])
    found = open_epoch(data, trust, host, NOW_S, NOTHING)
    assert found is not None
    assert (found.value.name, found.value.epoch, found.value.version) == ("all", 2, 1)
    assert found.value.public


if __name__ == "__main__":
    FILE.write_text(json.dumps({**made(), **epoch_made_once()}, indent=2) + "\n")
