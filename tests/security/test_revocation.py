"""Revocations only grow, in any order, and only issuers make them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.certificate import make_issuer
from security.errors import BadSignature, MalformedObject, UntrustedIssuer
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.signed import Kind, sign_as_issuer, sign_as_peer
from tests.security.world import NOW_S, Overlay, seeded

IDS = st.lists(st.sampled_from("abcdefgh"), max_size=8)


@settings(max_examples=25, deadline=None)
@given(IDS, IDS)
def test_merging_in_any_order_gives_the_same_set_and_digest(
    left: list[str], right: list[str]
) -> None:
    overlay = Overlay()
    one, other = overlay.revoked(*left), overlay.revoked(*right)
    both = overlay.revoked(*left, *right)
    assert one.merge(other) == other.merge(one) == both
    assert one.merge(other).digest == both.digest
    assert all(both.revokes(id_) for id_ in left + right)
    assert one.merge(one) == one


def test_different_sets_have_different_digests() -> None:
    overlay = Overlay()
    digests = {overlay.revoked(*ids).digest for ids in ("", "a", "b", "ab", "abc")}
    assert len(digests) == 5
    assert RevocationSet().digest == bytes(16)


def test_two_issuers_cannot_undo_each_other() -> None:
    overlay = Overlay()
    second = make_issuer(overlay.root, overlay.secret, NOW_S)
    trust = overlay.trust.with_issuer(second.der)
    by_second = make_revocation(second, overlay.issuer.issuer_id, NOW_S)
    by_first = make_revocation(overlay.issuer, second.issuer_id, NOW_S)
    merged = RevocationSet.of([open_revocation(by_second, trust)]).merge(
        RevocationSet.of([open_revocation(by_first, trust)])
    )
    assert merged.revokes(second.issuer_id)
    assert merged.revokes(overlay.issuer.issuer_id)


def test_who_carries_a_statement_cannot_make_two_of_it() -> None:
    overlay = Overlay()
    data = make_revocation(overlay.issuer, "x", NOW_S)
    # The version, 1, spelled as a number of two bytes.
    respelled = data[:1] + b"\xcc" + data[1:]
    with pytest.raises(MalformedObject):
        RevocationSet.of(
            [open_revocation(data, overlay.trust), open_revocation(respelled, overlay.trust)]
        )


def test_hosts_and_foreign_issuers_revoke_nobody() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    with pytest.raises(UntrustedIssuer):
        open_revocation(
            make_revocation(
                make_issuer(
                    type(overlay.root)(
                        private=foreign.root.private,
                        der=foreign.root.der,
                        overlay_id=overlay.overlay_id,
                    ),
                    seeded(9),
                    NOW_S,
                ),
                "x",
                NOW_S,
            ),
            overlay.trust,
        )
    with pytest.raises(BadSignature):
        open_revocation(
            sign_as_peer(overlay.host(), overlay.overlay_id, Kind.REVOCATION, b"x"), overlay.trust
        )


def test_a_statement_of_another_form_is_refused() -> None:
    overlay = Overlay()
    with pytest.raises(MalformedObject):
        open_revocation(sign_as_issuer(overlay.issuer, Kind.REVOCATION, b"\x90"), overlay.trust)
