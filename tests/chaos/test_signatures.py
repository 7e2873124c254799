"""What simulated peers share of their checks: answers, and no forgery."""

from __future__ import annotations

import pytest

from chaos.signatures import CHECKS, checked_once
from security import signed
from security.certificate import OverlayId
from security.errors import BadSignature, WrongKind
from security.keys import HostKeys
from security.signed import Kind, sign_as_peer, verify_peer

OVERLAY = OverlayId("0" * 32)


@pytest.fixture
def keys() -> HostKeys:
    return HostKeys.generate(lambda size: bytes(range(size)))


def test_a_good_object_is_checked_once_and_each_other_one_too(
    keys: HostKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    check = signed._check
    monkeypatch.setattr(signed, "_check", lambda *what: (checked.append(what), check(*what)))
    one, other = (sign_as_peer(keys, OVERLAY, Kind.HEAD, body) for body in (b"one", b"other"))
    with checked_once():
        for data in (one, bytes(bytearray(one)), other, one):
            assert verify_peer(data, Kind.HEAD, OVERLAY).data == data
        assert len(checked) == 2
    verify_peer(one, Kind.HEAD, OVERLAY)
    assert len(checked) == 3


def test_what_is_forged_or_asked_for_as_another_is_refused_each_time(keys: HostKeys) -> None:
    good = sign_as_peer(keys, OVERLAY, Kind.HEAD, b"body")
    forged = good[:-1] + bytes([good[-1] ^ 1])
    with checked_once():
        verify_peer(good, Kind.HEAD, OVERLAY)
        for _ in range(2):
            with pytest.raises(BadSignature):
                verify_peer(forged, Kind.HEAD, OVERLAY)
            with pytest.raises(WrongKind):
                verify_peer(good, Kind.FRAME, OVERLAY)


def test_everything_is_as_before_afterwards() -> None:
    before = [getattr(module, name) for module, name, _ in CHECKS]
    with checked_once():
        assert [getattr(module, name) for module, name, _ in CHECKS] != before
    assert [getattr(module, name) for module, name, _ in CHECKS] == before
