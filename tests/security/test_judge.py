"""Judging a host: one refusal for each cause."""

from __future__ import annotations

import pytest

from security.certificate import LEAF_LIFETIME_S, OverlayId, parse_leaf
from security.errors import Expired, IdentityMismatch, NotYetValid, Revoked, WrongOverlay
from security.judge import judge_issuer, judge_leaf
from security.keys import HostKeys
from security.peer_id import PeerId, public_bytes_of
from security.revocation import RevocationSet
from tests.security.world import NOTHING, NOW_S, Overlay


def judge(
    overlay: Overlay,
    keys: HostKeys,
    *,
    now_s: float = NOW_S,
    revocations: RevocationSet = NOTHING,
    overlay_id: OverlayId | None = None,
    expected: PeerId | None = None,
    key: bytes | None = None,
) -> PeerId:
    return judge_leaf(
        parse_leaf(overlay.leaf(keys)),
        now_unix_s=now_s,
        revocations=revocations,
        overlay_id=overlay_id or overlay.overlay_id,
        expected=expected,
        key=key,
    )


def test_a_good_leaf_says_who_the_host_is() -> None:
    overlay = Overlay()
    keys = overlay.host()
    key = public_bytes_of(keys.peer_id)
    assert judge(overlay, keys) == keys.peer_id
    assert judge(overlay, keys, expected=keys.peer_id, key=key) == keys.peer_id


def test_another_peer_than_the_one_dialled_is_refused() -> None:
    overlay = Overlay()
    keys, other = overlay.host(), overlay.host()
    with pytest.raises(IdentityMismatch):
        judge(overlay, keys, expected=other.peer_id)


def test_a_host_without_the_leafs_key_is_refused() -> None:
    overlay = Overlay()
    keys, other = overlay.host(), overlay.host()
    with pytest.raises(IdentityMismatch):
        judge(overlay, keys, key=public_bytes_of(other.peer_id))


def test_a_leaf_of_another_overlay_is_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    with pytest.raises(WrongOverlay):
        judge(foreign, foreign.host(), overlay_id=overlay.overlay_id)


def test_dates_are_judged_by_the_callers_clock() -> None:
    overlay = Overlay()
    keys = overlay.host()
    with pytest.raises(Expired):
        judge(overlay, keys, now_s=NOW_S + LEAF_LIFETIME_S + 1)
    with pytest.raises(NotYetValid):
        judge(overlay, keys, now_s=NOW_S - 601)


def test_a_revoked_host_and_a_revoked_issuers_host_are_refused() -> None:
    overlay = Overlay()
    keys, other = overlay.host(), overlay.host()
    for revoked in (keys.peer_id, overlay.issuer.issuer_id):
        with pytest.raises(Revoked):
            judge(overlay, keys, revocations=overlay.revoked(revoked))
    assert judge(overlay, keys, revocations=overlay.revoked(other.peer_id)) == keys.peer_id


def test_a_revoked_host_stays_revoked_with_a_new_certificate() -> None:
    overlay = Overlay()
    keys = overlay.host()
    revocations = overlay.revoked(keys.peer_id)
    fresh = parse_leaf(overlay.leaf(keys, NOW_S + 5))
    with pytest.raises(Revoked):
        judge_leaf(
            fresh,
            now_unix_s=NOW_S + 10,
            revocations=revocations,
            overlay_id=overlay.overlay_id,
            expected=None,
            key=None,
        )


def test_an_issuer_is_judged_by_dates_and_revocation() -> None:
    overlay = Overlay()
    issuer = overlay.trust.issuer(overlay.issuer.issuer_id)
    judge_issuer(issuer, now_unix_s=NOW_S, revocations=NOTHING)
    with pytest.raises(Revoked):
        judge_issuer(
            issuer, now_unix_s=NOW_S, revocations=overlay.revoked(overlay.issuer.issuer_id)
        )
    with pytest.raises(Expired):
        judge_issuer(issuer, now_unix_s=issuer.not_after_unix_s + 1, revocations=NOTHING)
