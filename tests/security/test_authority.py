"""An issuer's state: a value that is stored whole before anything made from it is shown."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.authority import TENANTS_MAX, Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import make_issuer, verify_chain
from security.epoch import open_epoch
from security.errors import (
    LimitExceeded,
    MalformedObject,
    SecurityError,
    TenantExists,
    UnknownTenant,
)
from security.keys import HostKeys
from security.tenant import TenantId
from security.ticket import TICKETS_MAX
from security.token import verify_token
from tests.security.world import DAY_S, NOTHING, NOW_S, Overlay, member, seeded


def created(*tenants: str) -> Authority:
    return Authority.create(seeded(1), NOW_S, tenants or ("default",))


def test_the_first_host_joins_without_a_ticket() -> None:
    world = member()
    authority = world.authority
    leaf = verify_chain(world.leaf, authority.issuer.der, authority.root.der, NOW_S)
    assert leaf.peer_id == world.keys.peer_id
    assert set(world.tenant.members) == {world.keys.peer_id}
    assert (world.tenant.name, world.tenant.epoch, world.tenant.version) == ("alpha", 1, 2)


def test_adding_a_member_again_changes_nothing() -> None:
    world = member()
    tenant = world.tenant.tenant_id
    again, epoch_object = world.authority.add_member(
        tenant, world.keys.peer_id, world.keys.sealing_public, seeded(9)
    )
    assert again is world.authority
    assert epoch_object == world.epoch_object


def test_a_members_new_sealing_key_replaces_the_old_one() -> None:
    world = member()
    fresh = replace(HostKeys.generate(seeded(4)), peer_id=world.keys.peer_id)
    authority, epoch_object = world.authority.add_member(
        world.tenant.tenant_id, fresh.peer_id, fresh.sealing_public, seeded(9)
    )
    assert open_epoch(epoch_object, authority.trust, world.keys, NOW_S, NOTHING) is None
    found = open_epoch(epoch_object, authority.trust, fresh, NOW_S, NOTHING)
    assert found is not None
    assert found.value.version == world.tenant.version + 1


def test_the_state_comes_back_byte_for_byte() -> None:
    authority, _ = member().authority.invite(["alpha"], ["x:1"], 60, seeded(2), NOW_S)
    data = authority_to_bytes(authority)
    again = authority_from_bytes(data)
    assert authority_to_bytes(again) == data
    assert again.tenants == authority.tenants
    assert again.tickets == authority.tickets
    assert again.trust == authority.trust
    assert again.issuer.private.private_bytes_raw() == authority.issuer.private.private_bytes_raw()


def test_the_version_before_opens_a_state_that_uses_nothing_newer() -> None:
    """It takes no field that it does not know."""
    authority, _ = member().authority.invite(["alpha"], ["x:1"], 60, seeded(2), NOW_S)
    body = msgspec.msgpack.decode(authority_to_bytes(authority))
    assert not {"founded"} & set(body)
    assert set(body["hosts"][0]) == {"peer_id", "sealing", "leaf_ends_unix_s"}
    assert set(body["tickets"][0]) == {"verifier", "tenants", "expires_unix_s", "used_by"}


def test_the_epoch_object_of_a_version_is_made_once() -> None:
    authority = member().authority
    assert authority_from_bytes(authority_to_bytes(authority)).epochs == authority.epochs


def test_a_state_whose_keys_do_not_fit_its_certificates_is_refused() -> None:
    authority = created()
    other = make_issuer(authority.root, seeded(5), NOW_S)
    mixed = replace(authority, issuer=replace(authority.issuer, der=other.der))
    with pytest.raises(MalformedObject):
        authority_from_bytes(authority_to_bytes(mixed))
    foreign = replace(authority, root=Overlay(2).root)
    with pytest.raises(MalformedObject):
        authority_from_bytes(authority_to_bytes(foreign))


@given(st.binary(max_size=200))
def test_garbage_is_no_state(data: bytes) -> None:
    with pytest.raises(SecurityError):
        authority_from_bytes(data)


def test_tenants_have_names_of_their_own() -> None:
    authority = created("a", "b")
    assert set(authority.tenant_names) == {"a", "b"}
    with pytest.raises(TenantExists):
        authority.create_tenant("a", seeded(2))
    with pytest.raises(UnknownTenant, match="there is a, b"):
        authority.tenant_id("c")
    for name in ("", "x" * 65, "two words", "-a", "a\n", "ä"):
        with pytest.raises(LimitExceeded):
            authority.create_tenant(name, seeded(2))


def test_ids_of_tenants_say_nothing_of_their_names() -> None:
    authority = created("a", "b")
    again = Authority.create(seeded(2), NOW_S, ["a", "b"])
    assert not set(authority.tenants) & set(again.tenants)


def test_tenants_and_tickets_are_bounded() -> None:
    authority = created()
    crowd = {
        TenantId(f"{i:032x}"): next(iter(authority.tenants.values())) for i in range(TENANTS_MAX)
    }
    with pytest.raises(LimitExceeded):
        replace(authority, tenants=crowd).create_tenant("more", seeded(2))
    issued, _ = authority.invite(["default"], ["x:1"], 60, seeded(2), NOW_S)
    row = next(iter(issued.tickets.values()))
    full = replace(authority, tickets={str(i): row for i in range(TICKETS_MAX)})
    with pytest.raises(LimitExceeded):
        full.invite(["default"], ["x:1"], 60, seeded(2), NOW_S)
    later, _ = full.invite(["default"], ["x:1"], 60, seeded(2), NOW_S + 31 * DAY_S)
    assert len(later.tickets) == 1


@pytest.mark.parametrize("ttl_s", [0, -1, 31 * DAY_S, float("nan")])
def test_a_ticket_is_good_for_a_while_and_no_longer(ttl_s: float) -> None:
    with pytest.raises(LimitExceeded):
        created().invite(["default"], ["x:1"], ttl_s, seeded(2), NOW_S)


def test_a_ticket_is_for_tenants_that_exist() -> None:
    with pytest.raises(UnknownTenant):
        created().invite(["other"], ["x:1"], 60, seeded(2), NOW_S)


def test_a_token_is_for_one_tenant_and_verifies_everywhere() -> None:
    authority = created("a", "b")
    tenant = authority.tenant_id("b")
    after, issued = authority.issue_token(
        tenant, "laptop", ttl_s=60, scopes=["infer"], secret=seeded(2), now_unix_s=NOW_S
    )
    claims = verify_token(issued.text, authority.trust, NOW_S, NOTHING)
    assert (claims.tenant_id, claims.token_id) == (tenant, issued.token_id)
    assert claims.exp == issued.expires_unix_s
    assert issued.text not in repr(issued)
    row = after.tokens[issued.token_id]
    assert (row.tenant_id, row.name, row.scopes) == (tenant, "laptop", ("infer",))
    assert (row.issued_unix_s, row.expires_unix_s) == (NOW_S, claims.exp)
    assert issued.text.encode() not in authority_to_bytes(after)


@pytest.mark.parametrize("ttl_s", [0, -1, 11 * 365 * DAY_S, float("nan")])
def test_a_token_ends(ttl_s: float) -> None:
    authority = created()
    tenant = authority.tenant_id("default")
    with pytest.raises(LimitExceeded):
        authority.issue_token(
            tenant, "x", ttl_s=ttl_s, scopes=[], secret=seeded(2), now_unix_s=NOW_S
        )


def test_no_token_is_made_for_a_tenant_that_is_kept_elsewhere() -> None:
    with pytest.raises(UnknownTenant):
        created().issue_token(
            TenantId("00" * 16), "x", ttl_s=60, scopes=[], secret=seeded(2), now_unix_s=NOW_S
        )


def test_private_keys_do_not_show() -> None:
    authority = created()
    shown = repr(authority)
    assert "PrivateKey" not in shown
    content = next(iter(authority.tenants.values())).content
    assert repr(content.epoch_key) not in shown
    assert repr(content.chain_secret) not in shown
