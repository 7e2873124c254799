"""Becoming an issuer: the request, the root's answer, and what is wrong with others."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from security.certificate import ISSUER_LIFETIME_S
from security.errors import (
    BadSignature,
    MalformedObject,
    SecurityError,
    UntrustedIssuer,
    WrongOverlay,
)
from security.issuer_request import (
    ANSWER,
    REQUEST,
    IssuerRequestBody,
    _unword,
    _word,
    answer_issuer_request,
    issuer_key_from_bytes,
    issuer_key_to_bytes,
    make_issuer_request,
    open_issuer_answer,
    open_issuer_request,
)
from security.signed import Kind, sign_as_peer
from tests.security.world import NOW_S, Overlay, seeded

OVERLAY, FOREIGN = Overlay(1), Overlay(2)
HOST, OTHER = OVERLAY.host(), OVERLAY.host()
KEY = Ed25519PrivateKey.from_private_bytes(seeded(3)(32))
TEXT = make_issuer_request(HOST, OVERLAY.overlay_id, KEY)


def test_what_a_host_asks_for_the_root_certifies() -> None:
    request = open_issuer_request(f"  {TEXT[:40]}\n{TEXT[40:]}\n", OVERLAY.overlay_id)
    assert request.peer_id == HOST.peer_id
    text = answer_issuer_request(OVERLAY.root, request, seeded(4), NOW_S)
    issuer = open_issuer_answer(text, OVERLAY.trust.roots)
    assert issuer.issuer_id == request.issuer_id
    assert issuer.public.public_bytes_raw() == KEY.public_key().public_bytes_raw()
    assert issuer.not_after_unix_s == int(NOW_S) + ISSUER_LIFETIME_S
    assert OVERLAY.trust.with_issuer(issuer.der).issuer(request.issuer_id).der == issuer.der


def test_asking_again_renews() -> None:
    request = open_issuer_request(TEXT, OVERLAY.overlay_id)
    first, second = (
        open_issuer_answer(
            answer_issuer_request(OVERLAY.root, request, seeded(5), now_s), OVERLAY.trust.roots
        )
        for now_s in (NOW_S, NOW_S + 86_400)
    )
    assert first.issuer_id == second.issuer_id
    assert second.not_after_unix_s == first.not_after_unix_s + 86_400


def test_a_request_for_another_overlay_is_refused() -> None:
    with pytest.raises(WrongOverlay):
        open_issuer_request(TEXT, FOREIGN.overlay_id)


def test_nobody_has_a_key_certified_that_he_does_not_hold() -> None:
    """A host takes the key out of another one's request and signs that itself."""
    data = _unword(TEXT, REQUEST, "request")
    inner = msgspec.msgpack.decode(data)[4]
    stolen = sign_as_peer(OTHER, OVERLAY.overlay_id, Kind.ISSUER_REQUEST, inner)
    with pytest.raises(BadSignature):
        open_issuer_request(_word(REQUEST, stolen), OVERLAY.overlay_id)
    body = msgspec.msgpack.decode(inner, type=IssuerRequestBody)
    proof = KEY.sign(b"rhizome/issuer-proof/v1\0" + body.issuer)
    bad = msgspec.msgpack.encode(msgspec.structs.replace(body, proof=proof))
    forged = sign_as_peer(HOST, OVERLAY.overlay_id, Kind.ISSUER_REQUEST, bad)
    with pytest.raises(BadSignature):
        open_issuer_request(_word(REQUEST, forged), OVERLAY.overlay_id)


def test_an_answer_of_another_root_is_refused() -> None:
    request = open_issuer_request(TEXT, OVERLAY.overlay_id)
    text = answer_issuer_request(FOREIGN.root, request, seeded(4), NOW_S)
    with pytest.raises(UntrustedIssuer):
        open_issuer_answer(text, OVERLAY.trust.roots)


@pytest.mark.parametrize("text", ["", REQUEST, TEXT[:-1], TEXT + "A", TEXT.upper(), ANSWER + "AA"])
def test_a_word_that_is_cut_off_or_none_says_so(text: str) -> None:
    with pytest.raises(MalformedObject):
        open_issuer_request(text, OVERLAY.overlay_id)


@given(st.integers(len(REQUEST), len(TEXT) - 1), st.sampled_from("ABCxyz09-_=!é"))
def test_one_letter_changed_is_never_another_request(place: int, letter: str) -> None:
    changed = TEXT[:place] + letter + TEXT[place + 1 :]
    if changed == TEXT:
        return
    with pytest.raises(SecurityError):
        open_issuer_request(changed, OVERLAY.overlay_id)


def test_the_key_is_kept_in_a_form_of_its_own() -> None:
    stored = issuer_key_to_bytes(KEY)
    assert issuer_key_from_bytes(stored).private_bytes_raw() == KEY.private_bytes_raw()
    for damaged in (b"", stored[:-1], stored + b"\0", KEY.private_bytes_raw()):
        with pytest.raises(MalformedObject):
            issuer_key_from_bytes(damaged)
