"""The ledger knows what a process has signed, to the byte."""

from __future__ import annotations

import msgspec

from chaos.entropy import SeededEntropy
from chaos.founding import found
from chaos.observe.ledger import Ledger, body_of, tapped
from overlay.identity import Identity
from security.signed import Kind, SignedObject, sign_as_peer, verify_peer


def identity() -> Identity:
    _, identities = found(
        {"h": ("t",)}, ("t",), entropy=lambda of: SeededEntropy(1, of), now_unix_s=1.8e9
    )
    return identities["h"]


def changed(data: bytes, **fields: bytes) -> bytes:
    signed = msgspec.msgpack.decode(data, type=SignedObject)
    return msgspec.msgpack.encode(msgspec.structs.replace(signed, **fields))


def test_the_tapped_key_signs_as_the_key_does_and_its_work_is_genuine() -> None:
    ledger, own = Ledger(), identity()
    told: list[bytes] = []

    def on_signed(message: bytes, signature: bytes) -> None:
        told.append(message)
        ledger.note(message, signature)

    data = sign_as_peer(tapped(own, on_signed).keys, own.trust.overlay_id, Kind.HEAD, b"some body")
    assert data == sign_as_peer(own.keys, own.trust.overlay_id, Kind.HEAD, b"some body")
    assert verify_peer(data, Kind.HEAD, own.trust.overlay_id).value == b"some body"
    assert ledger.genuine(data)
    assert [body_of(message, "head") for message in told] == [b"some body"]
    assert body_of(told[0], "frame") is None


def test_another_body_signature_or_key_is_not_genuine() -> None:
    ledger, own = Ledger(), identity()
    data = sign_as_peer(
        tapped(own, ledger.note).keys, own.trust.overlay_id, Kind.HEAD, b"some body"
    )
    assert not ledger.genuine(changed(data, body=b"some b0dy"))
    assert not ledger.genuine(changed(data, signature=bytes(64)))
    assert not ledger.genuine(changed(data, signer=bytes(32)))
    assert not ledger.genuine(data[:-1])
    untapped = sign_as_peer(own.keys, own.trust.overlay_id, Kind.HEAD, b"other body")
    assert not ledger.genuine(untapped)


def test_what_was_signed_before_the_tap_can_be_noted() -> None:
    ledger, own = Ledger(), identity()
    data = sign_as_peer(own.keys, own.trust.overlay_id, Kind.RECORD, b"r")
    ledger.note_object(data)
    assert ledger.genuine(data)
