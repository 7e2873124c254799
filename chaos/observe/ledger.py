"""Every object that a host's own process has signed: what a forged or altered one is held against.

The tap is the private key itself. An object is genuine when its signer's process signed exactly
these bytes; that its signature can be verified is not asked, as that is what is being tested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlay.identity import Identity
from security.signed import SignedObject
from security.signing import message_of

_object = msgspec.msgpack.Decoder(SignedObject)


@dataclass(slots=True)
class Ledger:
    """Signatures by what they were made for."""

    _signed: dict[bytes, bytes] = field(default_factory=dict)
    _genuine: set[bytes] = field(default_factory=set)
    """Objects that were found to be genuine: what was signed once stays signed."""

    def note(self, message: bytes, signature: bytes) -> None:
        """A process signs ``message``."""
        self._signed[_digest(message)] = signature

    def note_object(self, data: bytes) -> None:
        """A process has signed this object."""
        signed = _object.decode(data)
        self.note(_message_of(signed), signed.signature)

    def genuine(self, data: bytes) -> bool:
        """Whether an object is one that was signed, to the byte."""
        if data in self._genuine:
            return True
        try:
            signed = _object.decode(data)
        except msgspec.MsgspecError:
            return False
        if self._signed.get(_digest(_message_of(signed))) != signed.signature:
            return False
        self._genuine.add(data)
        return True

    def __len__(self) -> int:
        return len(self._signed)


class TappedKey:
    """An identity key; ``on_signed`` is told of every message and its signature."""

    def __init__(self, inner: Ed25519PrivateKey, on_signed: Callable[[bytes, bytes], None]) -> None:
        self._inner = inner
        self._on_signed = on_signed

    def sign(self, data: bytes) -> bytes:
        signature = self._inner.sign(data)
        self._on_signed(data, signature)
        return signature


def tapped(identity: Identity, on_signed: Callable[[bytes, bytes], None]) -> Identity:
    """The same identity, whose key tells of what it signs."""
    key = cast("Ed25519PrivateKey", TappedKey(identity.keys.identity, on_signed))
    return replace(identity, keys=replace(identity.keys, identity=key))


def body_of(message: bytes, kind: str) -> bytes | None:
    """The body of a signed message of a host, None where it is of another kind."""
    head = b"rhizome/" + kind.encode() + b"/v1\0"
    return message[len(head) + 49 :] if message.startswith(head) else None


def _message_of(signed: SignedObject) -> bytes:
    return message_of(signed.overlay, signed.kind, signed.signer, signed.body)


def _digest(message: bytes) -> bytes:
    return hashlib.blake2b(message, digest_size=16).digest()
