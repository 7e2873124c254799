"""The tenants of a host: the newest epoch of each, and chains that follow its key."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from inference.request import PrefixIdentity
from overlay.errors import RequestError
from overlay.tenants import TenantBook
from security.certificate import IssuerId
from security.peer_id import PeerId
from security.tenant import TenantId
from tests.security.world import member

MODEL = PrefixIdentity(served_model="m", tokenizer="t", template="c")


def test_only_a_newer_epoch_is_taken() -> None:
    tenant = member().tenant
    book = TenantBook()
    assert book.learn(tenant)
    assert not book.learn(tenant)
    older = replace(tenant, version=tenant.version - 1)
    assert not book.learn(older)
    newer = replace(tenant, version=tenant.version + 1)
    assert book.learn(newer)
    later = replace(tenant, epoch=tenant.epoch + 1, version=0)
    assert book.learn(later)
    assert not book.learn(newer)
    assert book.get(tenant.tenant_id) is later
    assert len(book) == 1


def test_the_roster_says_who_is_a_member() -> None:
    host = member()
    book = TenantBook()
    assert not book.is_member(host.tenant.tenant_id, host.keys.peer_id)
    book.learn(host.tenant)
    assert book.is_member(host.tenant.tenant_id, host.keys.peer_id)
    assert not book.is_member(host.tenant.tenant_id, PeerId("12D3somebody"))
    assert not book.is_member(TenantId("0" * 32), host.keys.peer_id)
    without = replace(host.tenant, version=host.tenant.version + 1, members=MappingProxyType({}))
    book.learn(without)
    assert not book.is_member(host.tenant.tenant_id, host.keys.peer_id)


def test_tenants_come_by_name_in_a_fixed_order() -> None:
    tenant = member().tenant
    book = TenantBook()
    for number, name in enumerate(("b", "c", "a")):
        book.learn(replace(tenant, tenant_id=TenantId(f"{number:032x}"), name=name))
    assert [epoch.name for epoch in book] == ["a", "b", "c"]
    found = book.named("c")
    assert found is not None
    assert found.tenant_id == f"{1:032x}"
    assert book.named("d") is None


def test_of_two_tenants_of_one_name_the_issuer_says_which() -> None:
    tenant = member().tenant
    book = TenantBook()
    for number, steward in enumerate(("aa" * 16, "ab" * 16)):
        header = replace(tenant.header, steward=IssuerId(steward))
        book.learn(replace(tenant, tenant_id=TenantId(f"{number:032x}"), header=header))
    name = tenant.name
    with pytest.raises(RequestError) as caught:
        book.named(name)
    assert caught.value.code == "ambiguous_tenant"
    assert f"{name}@{'aa' * 8} or {name}@{'ab' * 8}" in caught.value.message
    with pytest.raises(RequestError):
        book.named(f"{name}@a")
    found = book.named(f"{name}@ab")
    assert found is not None
    assert found.tenant_id == f"{1:032x}"
    assert book.named(f"{name}@cc") is None


def test_a_chain_is_kept_until_the_epoch_changes_and_differs_between_tenants() -> None:
    first, second = member(1).tenant, member(2).tenant
    book = TenantBook()
    book.learn(first)
    book.learn(second)
    tokens = range(64)
    chain = book.chain(first, MODEL)
    other = book.chain(second, MODEL)
    assert book.chain(first, MODEL) is chain
    assert chain.hashes(list(tokens)) != other.hashes(list(tokens))
    newer = replace(first, version=first.version + 1)
    book.learn(newer)
    assert book.chain(newer, MODEL) is not chain
    assert book.chain(second, MODEL) is other
    assert book.chain(newer, MODEL).hashes(list(tokens)) == chain.hashes(list(tokens))


def test_whoever_divides_something_is_told_when_tenants_come_and_go() -> None:
    tenant = member().tenant
    other = TenantId("0" * 32)
    told: list[list[TenantId]] = []
    book = TenantBook(lambda tenants: told.append(sorted(tenants)))
    book.learn(tenant)
    book.learn(replace(tenant, version=tenant.version + 1))
    book.learn(replace(tenant, tenant_id=other))
    book.forget(tenant.tenant_id)
    book.forget(tenant.tenant_id)
    assert told == [[tenant.tenant_id], sorted([tenant.tenant_id, other]), [other]]
