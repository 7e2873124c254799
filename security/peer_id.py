"""PeerId: a host's name is its Ed25519 public key, in libp2p's text form.

The key is wrapped as libp2p's protobuf (``08 01 12 20`` and 32 bytes), that as an identity
multihash (``00 24``), and the whole is written in base58 with Bitcoin's alphabet: 52 characters
that begin with ``12D3KooW``. One key has one text: anything that does not come out again letter by
letter is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NewType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from security.errors import MalformedIdentity

PeerId = NewType("PeerId", str)

PEER_ID_CHARS = 52

_PREFIX = bytes.fromhex("002408011220")
_KEY_BYTES = 32
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
NAMES_KEPT = 4096
"""Names and keys of which the other form is remembered: each object of gossip needs one."""

_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}


def peer_id_of(public: Ed25519PublicKey) -> PeerId:
    """The name of the host that holds this key."""
    return peer_id_of_bytes(public.public_bytes_raw())


@lru_cache(maxsize=NAMES_KEPT)
def peer_id_of_bytes(public: bytes) -> PeerId:
    """The name of the host that holds this key, from its 32 raw bytes.

    Raises:
        MalformedIdentity: when they are not 32 bytes.
    """
    if len(public) != _KEY_BYTES:
        raise MalformedIdentity("an Ed25519 key has 32 bytes")
    number = int.from_bytes(_PREFIX + public, "big")
    letters = []
    while number:
        number, value = divmod(number, 58)
        letters.append(_ALPHABET[value])
    # Base58 writes each leading zero byte as its own "1"; the prefix has exactly one.
    return PeerId("1" + "".join(reversed(letters)))


@lru_cache(maxsize=NAMES_KEPT)
def key_of_bytes(public: bytes) -> Ed25519PublicKey:
    """The key of these 32 raw bytes.

    Raises:
        ValueError: when they are not 32 bytes.
    """
    return Ed25519PublicKey.from_public_bytes(public)


def parse_peer_id(text: str) -> PeerId:
    """Checks a PeerId that came from outside.

    Raises:
        MalformedIdentity: when it is not the text of an Ed25519 key.
    """
    return peer_id_of_bytes(public_bytes_of(PeerId(text)))


def public_key_of(peer_id: PeerId) -> Ed25519PublicKey:
    """The key that a PeerId is.

    Raises:
        MalformedIdentity: when it is not the text of an Ed25519 key.
    """
    return key_of_bytes(public_bytes_of(peer_id))


@lru_cache(maxsize=NAMES_KEPT)
def public_bytes_of(peer_id: PeerId) -> bytes:
    """The 32 raw bytes of the key that a PeerId is.

    Raises:
        MalformedIdentity: when it is not the text of an Ed25519 key.
    """
    if len(peer_id) != PEER_ID_CHARS:
        raise MalformedIdentity(f"a PeerId has {PEER_ID_CHARS} characters, not {len(peer_id)}")
    number = 0
    for letter in peer_id:
        value = _VALUES.get(letter)
        if value is None:
            raise MalformedIdentity("a PeerId is written in base58")
        number = number * 58 + value
    try:
        raw = number.to_bytes(len(_PREFIX) + _KEY_BYTES, "big")
    except OverflowError:
        raise MalformedIdentity("not the PeerId of an Ed25519 key") from None
    # 52 letters and the fixed prefix leave one text for each key: no second spelling exists.
    if not raw.startswith(_PREFIX) or not peer_id.startswith("12"):
        raise MalformedIdentity("not the PeerId of an Ed25519 key")
    return raw[len(_PREFIX) :]
