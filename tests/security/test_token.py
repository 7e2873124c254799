"""Client tokens: only our issuers make them, in one algorithm, for one overlay and time."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from security import token as token_module
from security.certificate import IssuerKey, make_issuer
from security.errors import (
    BadSignature,
    Expired,
    LimitExceeded,
    MalformedToken,
    NotYetValid,
    Revoked,
    SecurityError,
    UnsupportedVersion,
    UntrustedIssuer,
    WrongOverlay,
)
from security.tenant import TenantId
from security.token import TOKEN_CHARS_MAX, TokenCache, TokenClaims, issue_token, verify_token
from tests.security.world import NOTHING, NOW_S, Overlay

TENANT = TenantId("ab" * 16)
TOKEN_ID = "cd" * 16


def issued(issuer: IssuerKey, *, ttl_s: float = 3600, name: str = "open-webui") -> str:
    return issue_token(
        issuer,
        tenant_id=TENANT,
        name=name,
        scopes=["status", "infer"],
        token_id=TOKEN_ID,
        now_unix_s=NOW_S,
        expires_unix_s=NOW_S + ttl_s,
    )


def verified(overlay: Overlay, text: str, now_s: float = NOW_S) -> TokenClaims:
    return verify_token(text, overlay.trust, now_s, NOTHING)


def claims_of(text: str) -> dict[str, Any]:  # Any: a claim set before it is judged
    claims: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    return claims


def signed(overlay: Overlay, header: dict[str, object] | None = None, **changes: object) -> str:
    """A token whose content an adversary with the issuer's key chose."""
    claims = {**claims_of(issued(overlay.issuer)), **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(
        claims,
        overlay.issuer.private,
        algorithm="EdDSA",
        headers={"kid": overlay.issuer.issuer_id, **(header or {})},
    )


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_token_says_tenant_scopes_id_and_end() -> None:
    overlay = Overlay()
    claims = verified(overlay, issued(overlay.issuer))
    assert (claims.tenant_id, claims.token_id, claims.name) == (TENANT, TOKEN_ID, "open-webui")
    assert claims.scopes == ("infer", "status")
    assert claims.exp == NOW_S + 3600


def test_a_token_ends_by_the_callers_clock() -> None:
    overlay = Overlay()
    text = issued(overlay.issuer)
    verified(overlay, text, NOW_S + 3599)
    with pytest.raises(Expired):
        verified(overlay, text, NOW_S + 3600)
    with pytest.raises(NotYetValid):
        verified(overlay, text, NOW_S - 601)


def test_a_foreign_issuers_token_is_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    with pytest.raises(UntrustedIssuer):
        verified(overlay, issued(foreign.issuer))
    claims = claims_of(issued(overlay.issuer))
    forged = jwt.encode(
        claims,
        foreign.issuer.private,
        algorithm="EdDSA",
        headers={"kid": overlay.issuer.issuer_id},
    )
    with pytest.raises(BadSignature):
        verified(overlay, forged)


def test_a_hosts_key_signs_no_token() -> None:
    overlay = Overlay()
    forged = jwt.encode(
        claims_of(issued(overlay.issuer)),
        overlay.host().identity,
        algorithm="EdDSA",
        headers={"kid": overlay.issuer.issuer_id},
    )
    with pytest.raises(BadSignature):
        verified(overlay, forged)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256", "ES256", "ed25519", ""])
def test_another_algorithm_is_refused(algorithm: str) -> None:
    overlay = Overlay()
    header = {"alg": algorithm, "typ": "JWT", "kid": overlay.issuer.issuer_id}
    signing_input = f"{part(header)}.{part(claims_of(issued(overlay.issuer)))}"
    public = overlay.issuer.private.public_key().public_bytes_raw()
    mac = hmac.digest(public, signing_input.encode(), "sha256")
    for signature in (b"", mac, overlay.issuer.private.sign(signing_input.encode())):
        encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        with pytest.raises(MalformedToken):
            verified(overlay, f"{signing_input}.{encoded}")


def test_a_token_for_another_overlay_is_refused() -> None:
    overlay = Overlay()
    with pytest.raises(WrongOverlay):
        verified(overlay, signed(overlay, aud="00" * 16))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"exp": "tomorrow"},
        {"aud": None},
        {"iss": "00" * 16},
        {"tenant": "default"},
        {"tenant": None},
        {"jti": None},
        {"scopes": "admin"},
        {"scopes": ["x"] * 17},
        {"more": 1},
        {"v": "1"},
        {"v": None},
        {"v": 256},
    ],
    ids=str,
)
def test_claims_of_another_shape_are_refused(changes: dict[str, object]) -> None:
    overlay = Overlay()
    make: Callable[..., str] = signed
    with pytest.raises(MalformedToken):
        verified(overlay, make(overlay, **changes))


def test_another_version_is_refused_by_name() -> None:
    overlay = Overlay()
    make: Callable[..., str] = signed
    for changes in ({"v": 2}, {"v": 2, "more": 1, "tenant": None}, {"v": 0, "aud": "x"}):
        with pytest.raises(UnsupportedVersion, match=f"version {changes['v']}, and"):
            verified(overlay, make(overlay, **changes))
    with pytest.raises(UnsupportedVersion):
        verified(overlay, signed(overlay, {"kid": "later"}, v=2))


@pytest.mark.parametrize(
    "header", [{"kid": "x"}, {"kid": ""}, {"crit": ["b64"], "b64": False}], ids=str
)
def test_headers_that_ask_for_something_else_are_refused(header: dict[str, object]) -> None:
    overlay = Overlay()
    with pytest.raises(SecurityError):
        verified(overlay, signed(overlay, header))


def test_an_issuer_that_is_no_text_is_refused() -> None:
    overlay = Overlay()
    header = {"alg": "EdDSA", "typ": "JWT", "kid": 7}
    with pytest.raises(MalformedToken):
        verified(overlay, f"{part(header)}.{part({})}.AAAA")


def test_a_header_nested_too_deep_is_refused() -> None:
    nested = base64.urlsafe_b64encode(b'{"a":' + b"[" * 1500).rstrip(b"=").decode()
    with pytest.raises(MalformedToken):
        verified(Overlay(), f"{nested}.e30.AAAA")


def test_a_revoked_token_and_a_revoked_issuers_token_are_refused() -> None:
    overlay = Overlay()
    text = issued(overlay.issuer)
    for revoked in (TOKEN_ID, overlay.issuer.issuer_id):
        with pytest.raises(Revoked):
            verify_token(text, overlay.trust, NOW_S, overlay.revoked(revoked))


def test_every_altered_letter_is_refused() -> None:
    overlay = Overlay()
    text = issued(overlay.issuer)
    for position in range(0, len(text), 3):
        letter = "A" if text[position] != "A" else "B"
        with pytest.raises(SecurityError):
            verified(overlay, text[:position] + letter + text[position + 1 :])


@given(st.text(max_size=300))
def test_garbage_is_no_token(text: str) -> None:
    with pytest.raises(MalformedToken):
        verified(Overlay(), text)


def test_a_token_is_bounded() -> None:
    overlay = Overlay()
    with pytest.raises(MalformedToken):
        verified(overlay, "x" * (TOKEN_CHARS_MAX + 1))
    with pytest.raises(LimitExceeded):
        issued(overlay.issuer, name="x" * 65)
    with pytest.raises(LimitExceeded):
        issued(overlay.issuer, name="")


class TestCache:
    def test_the_second_look_checks_no_signature(self, monkeypatch: pytest.MonkeyPatch) -> None:
        overlay, cache = Overlay(), TokenCache()
        text = issued(overlay.issuer)
        first = cache.verify(text, overlay.trust, NOW_S, NOTHING)
        monkeypatch.setattr(token_module, "verify_token", None)
        assert cache.verify(text, overlay.trust, NOW_S, NOTHING) is first

    def test_a_remembered_token_still_ends(self) -> None:
        overlay, cache = Overlay(), TokenCache()
        text = issued(overlay.issuer)
        cache.verify(text, overlay.trust, NOW_S, NOTHING)
        with pytest.raises(Expired):
            cache.verify(text, overlay.trust, NOW_S + 3600, NOTHING)

    def test_a_remembered_token_is_forgotten_when_revocations_change(self) -> None:
        overlay, cache = Overlay(), TokenCache()
        text = issued(overlay.issuer)
        cache.verify(text, overlay.trust, NOW_S, NOTHING)
        for revoked in (TOKEN_ID, overlay.issuer.issuer_id):
            with pytest.raises(Revoked):
                cache.verify(text, overlay.trust, NOW_S, overlay.revoked(revoked))

    def test_it_forgets_when_trust_changes(self) -> None:
        overlay, foreign, cache = Overlay(1), Overlay(2), TokenCache()
        text = issued(overlay.issuer)
        cache.verify(text, overlay.trust, NOW_S, NOTHING)
        with pytest.raises(UntrustedIssuer):
            cache.verify(text, foreign.trust, NOW_S, NOTHING)
        more = overlay.trust.with_issuer(make_issuer(overlay.root, overlay.secret, NOW_S).der)
        cache.verify(text, more, NOW_S, NOTHING)
        assert len(cache) == 1

    def test_refusals_are_not_remembered_and_it_is_bounded(self) -> None:
        overlay, cache = Overlay(), TokenCache(tokens_max=2)
        with pytest.raises(MalformedToken):
            cache.verify("garbage\ud800", overlay.trust, NOW_S, NOTHING)
        assert len(cache) == 0
        for name in "abc":
            cache.verify(issued(overlay.issuer, name=name), overlay.trust, NOW_S, NOTHING)
        assert len(cache) == 2
