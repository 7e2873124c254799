"""The root's private key apart from the issuer's state, encrypted under a passphrase.

It is needed to sign issuers and for nothing else, so an overlay runs for years without it. The file
is a msgpack map with the root's certificate in clear; the key is sealed with ChaCha20-Poly1305
under a key that scrypt makes of the passphrase (128 MiB and some tenths of a second a guess), and
bound to that certificate.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from security.certificate import RootKey, parse_root
from security.certificate_form import CERTIFICATE_BYTES_MAX, key_id
from security.errors import BadSeal, LimitExceeded, MalformedObject, SecurityError
from security.keys import Secret
from security.wire import decode

VERSION = 1
FILE_BYTES_MAX = 4096
PASSPHRASE_CHARS_MIN, PASSPHRASE_CHARS_MAX = 12, 1024

_SCRYPT_N: Final = 1 << 17
_SCRYPT_R: Final = 8
_SALT_BYTES, _NONCE_BYTES, _SEALED_BYTES = 16, 12, 48


class RootKeyFile(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="root-key"
):
    """What is written. The cost of scrypt belongs to the version."""

    v: Annotated[int, Meta(ge=0, le=255)]
    root: Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
    salt: Annotated[bytes, Meta(min_length=_SALT_BYTES, max_length=_SALT_BYTES)]
    nonce: Annotated[bytes, Meta(min_length=_NONCE_BYTES, max_length=_NONCE_BYTES)]
    sealed: Annotated[bytes, Meta(min_length=_SEALED_BYTES, max_length=_SEALED_BYTES)]


def seal_root(root: RootKey, passphrase: str, secret: Secret) -> bytes:
    """The root key's file.

    Raises:
        LimitExceeded: when the passphrase is too short or too long.
    """
    if not PASSPHRASE_CHARS_MIN <= len(passphrase) <= PASSPHRASE_CHARS_MAX:
        raise LimitExceeded(
            f"a passphrase has {PASSPHRASE_CHARS_MIN} to {PASSPHRASE_CHARS_MAX} characters"
        )
    salt, nonce = secret(_SALT_BYTES), secret(_NONCE_BYTES)
    key = _key_of(passphrase, salt)
    sealed = ChaCha20Poly1305(key).encrypt(nonce, root.private.private_bytes_raw(), root.der)
    return msgspec.msgpack.encode(
        RootKeyFile(v=VERSION, root=root.der, salt=salt, nonce=nonce, sealed=sealed)
    )


def open_root(data: bytes, passphrase: str) -> RootKey:
    """Reads what ``seal_root`` wrote.

    Raises:
        MalformedObject, UnsupportedVersion: when it is no file of a root key, or is damaged.
        BadSeal: when the passphrase is another one.
    """
    file = _read(data)
    try:
        private = ChaCha20Poly1305(_key_of(passphrase, file.salt)).decrypt(
            file.nonce, file.sealed, file.root
        )
        key = Ed25519PrivateKey.from_private_bytes(private)
        root = parse_root(file.root)
    except InvalidTag:
        raise BadSeal("that is not the passphrase of this root key") from None
    except SecurityError:
        raise MalformedObject("the root key's file is damaged") from None
    if key_id(key.public_key()) != root.root_id:
        raise MalformedObject("the root key's file holds another root's key")
    return RootKey(private=key, der=file.root, overlay_id=root.overlay_id)


def root_of(data: bytes) -> bytes:
    """The certificate of the root whose key a file holds.

    Raises:
        MalformedObject, UnsupportedVersion: when it is no file of a root key.
    """
    return _read(data).root


def _read(data: bytes) -> RootKeyFile:
    if len(data) > FILE_BYTES_MAX:
        raise MalformedObject("that is too large for a root key's file")
    return decode(data, RootKeyFile, VERSION, "a root key's file")


def _key_of(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=1).derive(passphrase.encode())
