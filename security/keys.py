"""The two keys of a host: Ed25519 for what it says, X25519 for what is sealed to it.

Both come from 32 bytes of the entropy port each, so that a simulation is repeatable. They are
written by ``overlay/home.py`` (0600) in the form made here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from security.errors import MalformedObject, UnsupportedVersion
from security.peer_id import PeerId, peer_id_of

Secret: TypeAlias = Callable[[int], bytes]
"""``overlay.ports.Entropy.secret``: that many unpredictable bytes."""

_MAGIC = b"rhizome host keys "
_VERSION = b"1\n"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeys:
    """The private keys of one host."""

    identity: Ed25519PrivateKey = field(repr=False)
    sealing: X25519PrivateKey = field(repr=False)
    peer_id: PeerId
    sealing_public: bytes

    @classmethod
    def generate(cls, secret: Secret) -> HostKeys:
        """Makes the keys of a new host."""
        return cls._of(secret(_KEY_BYTES), secret(_KEY_BYTES))

    @classmethod
    def _of(cls, identity: bytes, sealing: bytes) -> HostKeys:
        identity_key = Ed25519PrivateKey.from_private_bytes(identity)
        sealing_key = X25519PrivateKey.from_private_bytes(sealing)
        return cls(
            identity=identity_key,
            sealing=sealing_key,
            peer_id=peer_id_of(identity_key.public_key()),
            sealing_public=sealing_key.public_key().public_bytes_raw(),
        )

    def to_bytes(self) -> bytes:
        """The form for the host's own folder. Secret."""
        return (
            _MAGIC + _VERSION + self.identity.private_bytes_raw() + self.sealing.private_bytes_raw()
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> HostKeys:
        """Reads what ``to_bytes`` wrote.

        Raises:
            MalformedObject: when it is something else.
            UnsupportedVersion: when another version wrote it.
        """
        if not data.startswith(_MAGIC):
            raise MalformedObject("these are not host keys")
        body = data.removeprefix(_MAGIC)
        if not body.startswith(_VERSION):
            raise UnsupportedVersion("host keys of another version")
        raw = body.removeprefix(_VERSION)
        if len(raw) != 2 * _KEY_BYTES:
            raise MalformedObject("these host keys are damaged")
        return cls._of(raw[:_KEY_BYTES], raw[_KEY_BYTES:])

    def identity_pem(self) -> bytes:
        """The identity key as PKCS 8, as TLS takes it. Secret."""
        return self.identity.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def check_sealing_public(raw: bytes) -> None:
    """Checks that something can be sealed to a key that came from outside.

    Raises:
        MalformedObject: when it has not 32 bytes, or is one of the few points that give every
            sender the same, known secret.
    """
    try:
        probe = X25519PrivateKey.from_private_bytes(bytes([1]) * _KEY_BYTES)
        probe.exchange(X25519PublicKey.from_public_bytes(raw))
    except ValueError:
        raise MalformedObject("nothing can be sealed to that key") from None
