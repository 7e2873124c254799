"""A signature holds for one kind, overlay, signer and body, and nothing else."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import (
    BadSignature,
    LimitExceeded,
    MalformedObject,
    SecurityError,
    UnsupportedVersion,
    UntrustedIssuer,
    WrongKind,
    WrongOverlay,
)
from security.signed import (
    BODY_BYTES_MAX,
    Kind,
    SignedObject,
    Verified,
    _Witness,
    claimed_signer,
    sign_as_issuer,
    sign_as_peer,
    verify_issuer,
    verify_peer,
    vouch,
)
from tests.security.world import Overlay


def relabelled(data: bytes, **changes: object) -> bytes:
    signed = msgspec.msgpack.decode(data, type=SignedObject)
    return msgspec.msgpack.encode(msgspec.structs.replace(signed, **changes))


def test_a_hosts_object_comes_back_with_its_signer_and_its_very_bytes() -> None:
    overlay = Overlay()
    keys = overlay.host()
    data = sign_as_peer(keys, overlay.overlay_id, Kind.HEAD, b"body")
    verified = verify_peer(data, Kind.HEAD, overlay.overlay_id)
    assert (verified.value, verified.signer, verified.data) == (b"body", keys.peer_id, data)
    assert claimed_signer(data) == keys.peer_id


def test_an_issuers_object_comes_back_with_its_signer() -> None:
    overlay = Overlay()
    data = sign_as_issuer(overlay.issuer, Kind.EPOCH, b"body")
    verified = verify_issuer(data, Kind.EPOCH, overlay.trust)
    assert (verified.value, verified.signer) == (b"body", overlay.issuer.issuer_id)


def test_a_signature_for_one_kind_is_none_for_another() -> None:
    overlay = Overlay()
    data = sign_as_peer(overlay.host(), overlay.overlay_id, Kind.HEAD, b"body")
    with pytest.raises(WrongKind):
        verify_peer(data, Kind.FRAME, overlay.overlay_id)
    with pytest.raises(BadSignature):
        verify_peer(relabelled(data, kind="frame"), Kind.FRAME, overlay.overlay_id)


def test_a_signature_in_one_overlay_is_none_in_another() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    data = sign_as_peer(overlay.host(), overlay.overlay_id, Kind.HEAD, b"body")
    with pytest.raises(WrongOverlay):
        verify_peer(data, Kind.HEAD, foreign.overlay_id)
    moved = relabelled(data, overlay=bytes.fromhex(foreign.overlay_id))
    with pytest.raises(BadSignature):
        verify_peer(moved, Kind.HEAD, foreign.overlay_id)


def test_another_hosts_name_under_a_signature_is_refused() -> None:
    overlay = Overlay()
    data = sign_as_peer(overlay.host(), overlay.overlay_id, Kind.HEAD, b"body")
    other = overlay.host().identity.public_key().public_bytes_raw()
    with pytest.raises(BadSignature):
        verify_peer(relabelled(data, signer=other), Kind.HEAD, overlay.overlay_id)


def test_hosts_do_not_sign_for_issuers_nor_issuers_for_hosts() -> None:
    overlay = Overlay()
    by_host = sign_as_peer(overlay.host(), overlay.overlay_id, Kind.EPOCH, b"body")
    by_issuer = sign_as_issuer(overlay.issuer, Kind.HEAD, b"body")
    with pytest.raises(BadSignature):
        verify_issuer(by_host, Kind.EPOCH, overlay.trust)
    with pytest.raises(BadSignature):
        verify_peer(by_issuer, Kind.HEAD, overlay.overlay_id)
    with pytest.raises(MalformedObject):
        claimed_signer(by_issuer)


def test_an_issuer_that_is_not_known_is_not_believed() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    data = sign_as_issuer(foreign.issuer, Kind.EPOCH, b"body")
    ours = relabelled(data, overlay=bytes.fromhex(overlay.overlay_id))
    with pytest.raises(UntrustedIssuer):
        verify_issuer(ours, Kind.EPOCH, overlay.trust)


def test_only_this_package_makes_verified_values() -> None:
    with pytest.raises(TypeError):
        Verified(value=b"forged", signer="me", data=b"", witness=_Witness())
    with pytest.raises(TypeError):
        Verified(value=b"forged", signer="me", data=b"", witness=cast("_Witness", None))


def test_a_verified_value_cannot_be_changed() -> None:
    overlay = Overlay()
    data = sign_as_peer(overlay.host(), overlay.overlay_id, Kind.HEAD, b"body")
    verified = verify_peer(data, Kind.HEAD, overlay.overlay_id)
    with pytest.raises(AttributeError):
        verified.value = b"forged"  # type: ignore[misc]
    assert vouch(7, of=verified).signer == verified.signer


def test_sizes_and_versions_are_bounded() -> None:
    overlay = Overlay()
    keys = overlay.host()
    with pytest.raises(LimitExceeded):
        sign_as_peer(keys, overlay.overlay_id, Kind.HEAD, bytes(BODY_BYTES_MAX + 1))
    data = sign_as_peer(keys, overlay.overlay_id, Kind.HEAD, bytes(100))
    with pytest.raises(MalformedObject):
        verify_peer(data, Kind.HEAD, overlay.overlay_id, size_max=100)
    with pytest.raises(UnsupportedVersion):
        verify_peer(relabelled(data, v=2), Kind.HEAD, overlay.overlay_id)


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=0), st.integers(1, 255))
def test_no_single_altered_byte_passes(position: int, difference: int) -> None:
    overlay = Overlay()
    data = bytearray(sign_as_peer(overlay.host(), overlay.overlay_id, Kind.HEAD, b"a body"))
    data[position % len(data)] ^= difference
    with pytest.raises(SecurityError):
        verify_peer(bytes(data), Kind.HEAD, overlay.overlay_id)


@pytest.mark.parametrize(
    ("plain", "wider"),
    [
        (b"\x96\x01\xc4\x10", b"\x96\xcc\x01\xc4\x10"),
        (b"\x96\x01\xc4\x10", b"\xdc\x00\x06\x01\xc4\x10"),
        (b"\xaarevocation", b"\xd9\x0arevocation"),
        (b"\xc4\x04body", b"\xc5\x00\x04body"),
    ],
)
def test_another_spelling_of_the_same_object_is_refused(plain: bytes, wider: bytes) -> None:
    overlay = Overlay()
    data = sign_as_issuer(overlay.issuer, Kind.REVOCATION, b"body")
    assert data.count(plain) == 1
    respelled = data.replace(plain, wider)
    assert msgspec.msgpack.decode(respelled) == msgspec.msgpack.decode(data)
    with pytest.raises(MalformedObject):
        verify_issuer(respelled, Kind.REVOCATION, overlay.trust)
    with pytest.raises(MalformedObject):
        claimed_signer(respelled)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    overlay_id = Overlay().overlay_id
    with pytest.raises(SecurityError):
        verify_peer(data, Kind.HEAD, overlay_id)
