"""Trust: one root, and the issuers that it signed."""

from __future__ import annotations

import pytest

from security import trust as trust_module
from security.certificate import make_issuer, renew_issuer
from security.errors import LimitExceeded, MalformedCertificate, UntrustedIssuer
from security.trust import Trust
from tests.security.rotations import Rotated
from tests.security.world import NOW_S, Overlay


def test_issuers_under_the_root_are_learnt_and_others_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    trust = Trust.of(overlay.root.der)
    with pytest.raises(UntrustedIssuer):
        trust.issuer(overlay.issuer.issuer_id)
    assert trust.with_issuer(overlay.issuer.der) == overlay.trust
    assert overlay.trust.with_issuer(overlay.issuer.der) is overlay.trust
    with pytest.raises(UntrustedIssuer):
        trust.with_issuer(foreign.issuer.der)
    with pytest.raises(MalformedCertificate):
        trust.with_issuer(overlay.leaf(overlay.host()))


def test_a_leaf_is_checked_against_every_issuer_known() -> None:
    overlay = Overlay()
    second = make_issuer(overlay.root, overlay.secret, NOW_S)
    keys = overlay.host()
    trust = Trust.of(overlay.root.der, [second.der, overlay.issuer.der])
    der = overlay.leaf(keys)
    leaf, issuer = trust.leaf(der)
    assert (leaf.peer_id, issuer.issuer_id) == (keys.peer_id, overlay.issuer.issuer_id)
    with pytest.raises(UntrustedIssuer):
        Trust.of(overlay.root.der, [second.der]).leaf(der)
    assert Trust.of(overlay.root.der).leaf(der, overlay.issuer.der)[0] == leaf


def test_issuers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "ISSUERS_MAX", 1)
    overlay = Overlay()
    with pytest.raises(LimitExceeded):
        overlay.trust.with_issuer(make_issuer(overlay.root, overlay.secret, NOW_S).der)


def test_during_an_overlap_issuers_of_both_roots_are_trusted_and_after_it_of_one() -> None:
    overlay = Rotated()
    overlap = overlay.overlap()
    trust = overlay.trust.with_bundles([overlap])
    assert trust.issuers == overlay.trust.issuers
    again = renew_issuer(overlay.keys[1], overlay.issuer, overlay.secret, NOW_S - 60)
    newer = trust.with_issuer(again.der)
    assert newer.issuer(overlay.issuer.issuer_id).der == again.der
    assert newer.with_issuer(overlay.issuer.der) == newer, "the newer root's certificate stays"
    drop = overlay.drop()
    assert not trust.with_bundles([drop]).issuers
    after = newer.with_bundles([drop])
    assert after.issuers == newer.issuers
    with pytest.raises(UntrustedIssuer):
        after.with_issuer(overlay.issuer.der)
    assert after.with_bundles(overlay.told) is after


def test_a_leaf_lives_on_when_its_issuer_is_certified_by_the_next_root() -> None:
    overlay = Rotated()
    keys = overlay.host()
    leaf = overlay.leaf(keys)
    overlay.overlap()
    again = renew_issuer(overlay.keys[1], overlay.issuer, overlay.secret, NOW_S)
    overlay.drop()
    trust = Trust.of(overlay.root.der, [again.der], overlay.told)
    for shown in (None, again.der, overlay.issuer.der):
        assert trust.leaf(leaf, shown)[0].peer_id == keys.peer_id
    without = Trust.of(overlay.root.der, bundles=overlay.told)
    with pytest.raises(UntrustedIssuer):
        without.leaf(leaf, overlay.issuer.der)


def test_former_roots_vouch_for_what_a_host_was_given_and_for_nothing_else() -> None:
    overlay = Rotated(rotations=2)
    assert overlay.roots.former_issuer(overlay.issuer.der).issuer_id == overlay.issuer.issuer_id
    with pytest.raises(UntrustedIssuer):
        overlay.roots.issuer(overlay.issuer.der)
    with pytest.raises(UntrustedIssuer):
        overlay.roots.former_issuer(Overlay(2).issuer.der)
