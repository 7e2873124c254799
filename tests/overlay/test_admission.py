"""Leaves that were verified once are remembered; what may change meanwhile is judged each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from overlay.admission import LEAVES_MAX, Admission
from security.certificate import Issuer, Leaf
from security.errors import Expired, IdentityMismatch, MalformedCertificate, Revoked
from security.revocation import RevocationSet
from security.trust import Trust
from tests.security.world import DAY_S, NOW_S, Overlay


class Counting:
    """A trust that counts how often it is asked about a leaf."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self.overlay_id = trust.overlay_id
        self.asked = 0

    def leaf(self, der: bytes, issuer_der: bytes | None = None) -> tuple[Leaf, Issuer]:
        self.asked += 1
        return self.trust.leaf(der, issuer_der)


class Host:
    """What a peer's admission looks at, all of which a test may change."""

    def __init__(self) -> None:
        self.overlay = Overlay(1)
        self.trust = SimpleNamespace(now=Counting(self.overlay.trust))
        self.revoked = RevocationSet()
        self.now_unix_s = NOW_S
        unused: Any = None
        self.admission = Admission(
            trust=self.trust,  # type: ignore[arg-type]  # stands in for TrustKeeper
            revocations=lambda: self.revoked,
            ended=lambda: False,
            hello=unused,
            clock=SimpleNamespace(unix_s=lambda: self.now_unix_s),  # type: ignore[arg-type]  # a part
            entropy=unused,
            limits=unused,
        )

    @property
    def asked(self) -> int:
        return int(self.trust.now.asked)


def test_a_leaf_is_verified_once_for_a_trust() -> None:
    here = Host()
    keys = here.overlay.host()
    leaf = here.overlay.leaf(keys)
    for _ in range(3):
        assert here.admission.judge(leaf) == keys.peer_id
    assert here.asked == 1
    here.admission.judge(leaf, None, here.overlay.issuer.der)
    assert here.asked == 2, "what is shown beside it may say more"
    here.trust.now = Counting(here.overlay.trust)
    here.admission.judge(leaf)
    assert here.asked == 1


def test_what_may_have_changed_is_judged_each_time() -> None:
    here = Host()
    keys, other = here.overlay.host(), here.overlay.host()
    leaf = here.overlay.leaf(keys)
    here.admission.judge(leaf, keys.peer_id)
    with pytest.raises(IdentityMismatch):
        here.admission.judge(leaf, other.peer_id)
    here.now_unix_s = NOW_S + DAY_S + 1
    with pytest.raises(Expired):
        here.admission.judge(leaf)
    here.now_unix_s = NOW_S
    for id_ in (keys.peer_id, here.overlay.issuer.issuer_id):
        here.revoked = here.overlay.revoked(id_)
        with pytest.raises(Revoked):
            here.admission.judge(leaf)
    here.revoked = RevocationSet()
    assert here.admission.judge(leaf) == keys.peer_id
    assert here.asked == 1


def test_what_is_refused_is_not_remembered_and_what_is_remembered_is_bounded() -> None:
    here = Host()
    for _ in range(2):
        with pytest.raises(MalformedCertificate):
            here.admission.judge(b"no certificate")
    assert here.asked == 2
    assert not here.admission._known
    leaf = here.overlay.leaf(here.overlay.host())
    here.admission.judge(leaf)
    known = here.admission._known
    known.update(
        dict.fromkeys(
            ((bytes([n % 256, n // 256]), None) for n in range(LEAVES_MAX)), known[leaf, None]
        )
    )
    here.admission.judge(leaf)
    assert len(here.admission._known) == 1
