"""Who asks: by token or as the owner; never more than was granted."""

from __future__ import annotations

import jwt
import pytest

from overlay.errors import RequestError
from overlay.principals import OWNER, Principals
from overlay.request import Scope
from overlay.tenants import TenantBook
from security.authority import Authority
from security.certificate import ISSUER_LIFETIME_S, RootKey, make_issuer
from security.epoch import open_epoch
from security.revocation import RevocationSet
from security.tenant import TenantId
from security.token import issue_token
from tests.security.world import NOTHING, NOW_S, Member, Overlay, member, seeded


class FixedClock:
    """A clock that a test sets."""

    unix = NOW_S

    def now_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return self.unix


class Desk:
    """Principals of a host that belongs to the tenant alpha of alpha and beta."""

    def __init__(self) -> None:
        self.member: Member = member()
        self.clock = FixedClock()
        self.revoked = NOTHING
        self.tenants = TenantBook()
        self.tenants.learn(self.member.tenant)
        self.trust = self.member.authority.trust
        self.issuer_id = self.member.authority.issuer.issuer_id
        self.principals = Principals(
            lambda: self.trust,
            self.tenants,
            self.clock,
            lambda: self.revoked,
            lambda: self.issuer_id,
        )

    def token(self, *scopes: str, token_id: str = "0" * 32, tenant: str = "alpha") -> str:
        return issue_token(
            self.member.authority.issuer,
            tenant_id=self.member.authority.tenant_id(tenant),
            name="test",
            scopes=scopes,
            token_id=token_id,
            now_unix_s=NOW_S,
            expires_unix_s=NOW_S + 100,
        )

    def refused(self, text: str) -> str:
        with pytest.raises(RequestError) as caught:
            self.principals.of_token(text)
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
        assert not text or text not in caught.value.message
        return caught.value.message


def test_a_token_says_tenant_and_scopes_and_unknown_scopes_give_nothing() -> None:
    desk = Desk()
    principal = desk.principals.of_token(desk.token("infer", "fly"))
    assert principal.scopes == {Scope.INFER}
    assert principal.tenant == desk.member.tenant.tenant_id
    assert principal.token_id == "0" * 32
    assert desk.principals.of_token(desk.token()).scopes == frozenset()


def test_a_token_of_a_tenant_that_is_not_served_is_known_all_the_same() -> None:
    desk = Desk()
    principal = desk.principals.of_token(desk.token("infer", tenant="beta"))
    assert desk.tenants.get(principal.tenant) is None


def test_a_token_of_an_issuer_with_another_certificate_is_good_beyond_the_first_one() -> None:
    desk = Desk()
    authority = desk.member.authority
    assert isinstance(authority.root, RootKey)
    desk.clock.unix = late_s = NOW_S + ISSUER_LIFETIME_S + 1
    renewed = authority.with_new_certificate(authority.root, seeded(3), late_s - 1)
    _, token = renewed.issue_token(
        authority.tenant_id("alpha"),
        "test",
        ttl_s=60,
        scopes=["infer"],
        secret=seeded(4),
        now_unix_s=late_s - 1,
    )
    desk.refused(token.text)
    desk.trust = renewed.trust
    assert desk.principals.of_token(token.text).scopes == {Scope.INFER}


def test_what_is_no_good_token_is_401_without_its_text() -> None:
    desk = Desk()
    good = desk.token("infer")
    assert "rhizome token create" in desk.refused("")
    for bad in ("nonsense", good[:-3] + "AAA", good * 20, "\udcff", "a.b.c", good.upper()):
        assert "no whole token of this overlay" in desk.refused(bad)
    foreign = issue_token(
        Overlay(9).issuer,
        tenant_id=TenantId("0" * 32),
        name="test",
        scopes=["infer"],
        token_id="1" * 32,
        now_unix_s=NOW_S,
        expires_unix_s=NOW_S + 100,
    )
    assert "for another overlay" in desk.refused(foreign)


def test_a_token_of_another_version_or_time_says_what_to_do() -> None:
    desk = Desk()
    claims = jwt.decode(desk.token("infer"), options={"verify_signature": False})
    later = jwt.encode({**claims, "v": 2, "more": 1}, "k" * 32, algorithm="HS256")
    line = desk.refused(later)
    assert line.startswith("a token of version 2, and this host reads 1: update rhizome on it")
    text = desk.token("infer")
    desk.clock.unix = NOW_S - 700
    assert "is the clock of this host right?" in desk.refused(text)


def test_a_token_that_was_good_ends_with_its_time_and_with_its_revocation() -> None:
    desk = Desk()
    text = desk.token("infer", token_id="a" * 32)
    desk.principals.of_token(text)
    desk.clock.unix = NOW_S + 101
    assert "expired" in desk.refused(text)
    desk.clock.unix = NOW_S
    desk.principals.of_token(text)
    desk.revoked = RevocationSet(frozenset({b"statement"}), frozenset({"a" * 32}), bytes(16))
    assert "revoked" in desk.refused(text)
    assert desk.principals.of_token(desk.token("infer")).scopes == {Scope.INFER}


def test_the_owner_is_the_only_tenant_or_the_default_or_the_one_named() -> None:
    desk = Desk()
    alpha = desk.principals.of_owner("")
    assert alpha.tenant == desk.member.tenant.tenant_id
    assert (alpha.token_id, alpha.scopes) == (OWNER, frozenset(Scope))
    assert desk.principals.of_owner("alpha") == alpha
    for name in ("beta", "x" * 5000):
        with pytest.raises(RequestError) as caught:
            desk.principals.of_owner(name)
        assert (caught.value.status, caught.value.code) == (421, "not_a_member")
        assert "it serves: alpha" in caught.value.message
        assert len(caught.value.message) < 200


def test_an_owner_with_several_tenants_names_one() -> None:
    desk = Desk()
    authority, keys = desk.member.authority, desk.member.keys
    authority, grant = authority.enrol(
        keys.peer_id, keys.sealing_public, [authority.tenant_id("beta")], Overlay(5).secret, NOW_S
    )
    opened = open_epoch(grant.epochs[0], authority.trust, keys, NOW_S, NOTHING)
    assert opened is not None
    desk.tenants.learn(opened.value)
    with pytest.raises(RequestError, match="it serves: alpha, beta"):
        desk.principals.of_owner("")
    assert desk.principals.of_owner("beta").tenant == authority.tenant_id("beta")


def test_a_tenant_that_another_issuer_has_made_of_this_host_is_never_meant_unnamed() -> None:
    desk = Desk()
    own = desk.principals.of_owner("")
    authority, keys, secret = desk.member.authority, desk.member.keys, Overlay(6).secret
    assert isinstance(authority.root, RootKey)
    other = Authority.joined(authority.root.public_part, make_issuer(authority.root, secret, NOW_S))
    for name in ("default", "alpha"):
        other, tenant_id = other.create_tenant(name, secret)
        other, data = other.add_member(tenant_id, keys.peer_id, keys.sealing_public, secret)
        opened = open_epoch(data, other.trust, keys, NOW_S, NOTHING)
        assert opened is not None
        desk.tenants.learn(opened.value)
        assert desk.principals.of_owner("") == own
    named = desk.principals.of_owner(f"alpha@{other.issuer.issuer_id[:8]}")
    assert named.tenant == tenant_id
    desk.issuer_id = other.issuer.issuer_id
    assert desk.principals.of_owner("").tenant == other.tenant_id("default")


def test_an_owner_of_nothing_is_told_so() -> None:
    desk = Desk()
    lone = Principals(
        lambda: desk.trust, TenantBook(), desk.clock, lambda: NOTHING, lambda: desk.issuer_id
    )
    with pytest.raises(RequestError, match="it serves: none"):
        lone.of_owner("")
