"""The root's key apart: what opens it, and what the issuer can do without it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import Root, RootKey, parse_issuer, verify_chain
from security.errors import (
    BadSeal,
    LimitExceeded,
    MalformedObject,
    SecurityError,
    UnsupportedVersion,
    UntrustedIssuer,
)
from security.root_key import open_root, root_of, seal_root
from tests.security.world import DAY_S, NOTHING, NOW_S, Overlay, member, seeded

WORDS = "correct horse battery staple"
OVERLAY = Overlay()
SEALED = seal_root(OVERLAY.root, WORDS, seeded(3))


def test_the_passphrase_opens_it_and_no_other_does() -> None:
    found = open_root(SEALED, WORDS)
    assert found.overlay_id == OVERLAY.overlay_id
    assert found.private.private_bytes_raw() == OVERLAY.root.private.private_bytes_raw()
    assert OVERLAY.root.private.private_bytes_raw() not in SEALED
    assert root_of(SEALED) == OVERLAY.root.der
    with pytest.raises(BadSeal):
        open_root(SEALED, WORDS + " ")


def test_a_short_passphrase_is_refused() -> None:
    for words in ("", "x" * 11, "x" * 1025):
        with pytest.raises(LimitExceeded, match="12 to 1024 characters"):
            seal_root(OVERLAY.root, words, seeded(3))


def test_no_byte_of_it_can_be_changed() -> None:
    fields = msgspec.msgpack.decode(SEALED)
    other = Overlay(2)
    for name, value in {
        "root": other.root.der,
        "salt": bytes(16),
        "nonce": bytes(12),
        "sealed": bytes(48),
    }.items():
        with pytest.raises(BadSeal):
            open_root(msgspec.msgpack.encode({**fields, name: value}), WORDS)
    with pytest.raises(UnsupportedVersion):
        open_root(msgspec.msgpack.encode({**fields, "v": 2}), WORDS)
    with pytest.raises(MalformedObject):
        open_root(bytes(5000), WORDS)


@given(st.binary(max_size=200))
def test_garbage_is_no_root_key(data: bytes) -> None:
    with pytest.raises(SecurityError):
        open_root(data, WORDS)
    with pytest.raises(SecurityError):
        root_of(data)


def test_an_issuer_without_the_root_does_everything_but_sign_issuers() -> None:
    world = member()
    without = world.authority.without_root()
    assert type(without.root) is Root
    assert not without.holds_root
    data = authority_to_bytes(without)
    root_key = world.authority.root
    assert isinstance(root_key, RootKey)
    assert root_key.private.private_bytes_raw() in authority_to_bytes(world.authority)
    assert root_key.private.private_bytes_raw() not in data
    again = authority_from_bytes(data)
    assert authority_to_bytes(again) == data
    assert again.trust == world.authority.trust
    authority, leaf = again.renew(world.keys.peer_id, seeded(4), NOW_S, NOTHING)
    verify_chain(leaf, authority.issuer.der, authority.root.der, NOW_S)
    assert authority.invite(["alpha"], ["x:1"], 60, seeded(2), NOW_S)
    assert authority.create_tenant("gamma", seeded(2))


def test_a_state_of_before_still_holds_its_root() -> None:
    authority = member().authority
    assert authority_from_bytes(authority_to_bytes(authority)).holds_root
    foreign = replace(
        authority.without_root(),
        root=Root(der=Overlay(2).root.der, overlay_id=authority.root.overlay_id),
    )
    with pytest.raises(MalformedObject):
        authority_from_bytes(authority_to_bytes(foreign))


def test_the_root_certifies_the_same_issuer_again() -> None:
    world = member()
    root = world.authority.root
    assert isinstance(root, RootKey)
    later_s = NOW_S + 3000 * DAY_S
    renewed = world.authority.without_root().with_new_certificate(root, seeded(5), later_s)
    before = parse_issuer(world.authority.issuer.der, root.der)
    after = parse_issuer(renewed.issuer.der, root.der)
    assert after.issuer_id == before.issuer_id
    assert after.not_after_unix_s == before.not_after_unix_s + 3000 * DAY_S
    # Who knows the old certificate alone believes what the issuer signs now, and the other way.
    _, leaf = renewed.renew(world.keys.peer_id, seeded(6), NOW_S, NOTHING)
    assert world.authority.trust.leaf(leaf)[0].peer_id == world.keys.peer_id
    assert renewed.trust.leaf(world.leaf)[0].peer_id == world.keys.peer_id
    assert len(world.authority.trust.with_issuer(renewed.issuer.der).issuers) == 1
    with pytest.raises(UntrustedIssuer):
        world.authority.with_new_certificate(Overlay(2).root, seeded(5), NOW_S)
    assert isinstance(renewed, Authority)
