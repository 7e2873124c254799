"""Trust: one root, and the issuers that it signed."""

from __future__ import annotations

import pytest

from security import trust as trust_module
from security.certificate import make_issuer
from security.errors import LimitExceeded, MalformedCertificate, UntrustedIssuer
from security.trust import Trust
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
