"""A peer's record is believed from that peer alone, while its certificate is in force."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.certificate import LEAF_LIFETIME_S
from security.errors import (
    BadSignature,
    Expired,
    IdentityMismatch,
    LimitExceeded,
    Revoked,
    SecurityError,
    UntrustedIssuer,
    WrongOverlay,
)
from security.keys import HostKeys
from security.record import Record, open_record, sign_record
from security.signed import Kind, sign_as_peer, verify_peer
from security.trust import Trust
from tests.security.world import NOTHING, NOW_S, Overlay

SALT = bytes(range(16))


def record(overlay: Overlay, keys: HostKeys, **changes: Any) -> bytes:  # Any: fields of all types
    fields: dict[str, Any] = {
        "leaf": overlay.leaf(keys),
        "issuer": overlay.issuer.der,
        "addresses": ["10.0.0.1:7401", "[fe80::1%eth0]:7401"],
        "generation": 5,
        "boot_salt": SALT,
        "seq": 1,
        "zone": "attic",
        "models": ["smollm2"],
    }
    return sign_record(keys, overlay.overlay_id, **{**fields, **changes})


def opened(overlay: Overlay, data: bytes, now_s: float = NOW_S) -> Record:
    return open_record(data, overlay.trust, now_s, NOTHING).value


def test_a_record_comes_back_as_it_was_signed() -> None:
    overlay = Overlay()
    keys = overlay.host()
    data = record(overlay, keys)
    found = open_record(data, overlay.trust, NOW_S, NOTHING)
    assert (found.signer, found.data) == (keys.peer_id, data)
    assert found.value.peer_id == keys.peer_id
    assert found.value.addresses == ("10.0.0.1:7401", "[fe80::1%eth0]:7401")
    assert (found.value.generation, found.value.boot_salt, found.value.seq) == (5, SALT, 1)
    assert (found.value.zone, found.value.models) == ("attic", ("smollm2",))


def test_an_issuer_that_is_new_to_us_is_believed_under_our_root() -> None:
    overlay = Overlay()
    found = open_record(
        record(overlay, overlay.host()), Trust.of(overlay.root.der), NOW_S, NOTHING
    ).value
    assert overlay.trust.with_issuer(found.issuer_der) == overlay.trust


def test_a_record_about_another_host_is_refused() -> None:
    overlay = Overlay()
    thief, victim = overlay.host(), overlay.host()
    with pytest.raises(IdentityMismatch):
        record(overlay, thief, leaf=overlay.leaf(victim))
    body = verify_peer(record(overlay, victim), Kind.RECORD, overlay.overlay_id).value
    with pytest.raises(IdentityMismatch):
        opened(overlay, sign_as_peer(thief, overlay.overlay_id, Kind.RECORD, body))


def test_a_record_with_a_foreign_certificate_is_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    keys = overlay.host()
    with pytest.raises(WrongOverlay):
        opened(overlay, record(overlay, keys, leaf=foreign.leaf(keys)))
    with pytest.raises(UntrustedIssuer):
        opened(overlay, record(overlay, keys, issuer=foreign.issuer.der))
    with pytest.raises(WrongOverlay):
        opened(overlay, record(foreign, keys))


def test_a_record_ends_with_its_certificate_and_with_revocation() -> None:
    overlay = Overlay()
    keys = overlay.host()
    data = record(overlay, keys)
    with pytest.raises(Expired):
        opened(overlay, data, NOW_S + LEAF_LIFETIME_S + 1)
    for revoked in (keys.peer_id, overlay.issuer.issuer_id):
        with pytest.raises(Revoked):
            open_record(data, overlay.trust, NOW_S, overlay.revoked(revoked))


def test_an_altered_record_is_refused() -> None:
    overlay = Overlay()
    data = bytearray(record(overlay, overlay.host()))
    data[data.index(b"10.0.0.1")] ^= 1
    with pytest.raises(BadSignature):
        opened(overlay, bytes(data))


@pytest.mark.parametrize(
    "excess",
    [
        {"addresses": ["x"] * 17},
        {"addresses": ["x" * 81]},
        {"models": ["x"] * 17},
        {"zone": "x" * 200},
        {"boot_salt": bytes(15)},
        {"generation": 1 << 63},
    ],
    ids=lambda excess: next(iter(excess)),
)
def test_what_is_over_a_bound_is_not_signed(excess: dict[str, object]) -> None:
    overlay = Overlay()
    with pytest.raises(LimitExceeded):
        record(overlay, overlay.host(), **excess)


def test_newer_records_supersede_older_ones() -> None:
    overlay = Overlay()
    keys = overlay.host()
    first = opened(overlay, record(overlay, keys))
    later = opened(overlay, record(overlay, keys, seq=2))
    restarted = opened(overlay, record(overlay, keys, generation=6, seq=0))
    assert later.supersedes(first)
    assert restarted.supersedes(later)
    assert not first.supersedes(first)


@given(st.binary(max_size=200))
def test_a_signed_record_of_garbage_is_refused(body: bytes) -> None:
    overlay = Overlay()
    with pytest.raises(SecurityError):
        opened(overlay, sign_as_peer(overlay.host(), overlay.overlay_id, Kind.RECORD, body))
