"""Tags: 48 bits of a block's chain hash under a tenant's epoch key.

AES with a secret key is a pseudo-random function of the 16 byte hash, so a tag tells nobody outside
the tenant which prompt it stands for, and a new epoch makes new tags without touching tokens. All
hashes of a prompt go through the cipher in one call.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from security.errors import LimitExceeded

HASH_BYTES = 16


class Tagger:
    """Makes the tags of one key. The cipher is set up once, which takes longer than a prompt."""

    def __init__(self, tag_key: bytes) -> None:
        # Single blocks of one key, each a value of its own: what ECB is, and no message is
        # encrypted.
        cipher = Cipher(algorithms.AES(tag_key), modes.ECB())  # noqa: S305
        self._encrypt = cipher.encryptor().update

    def tags_of(self, hashes: Sequence[bytes]) -> list[int]:
        """The tags of these hashes, in their order.

        Args:
            hashes: 16 bytes each.

        Raises:
            LimitExceeded: when one of them has another length.
        """
        joined = b"".join(hashes)
        if len(joined) != HASH_BYTES * len(hashes):
            raise LimitExceeded(f"chain hashes have {HASH_BYTES} bytes")
        blocks = bytearray(self._encrypt(joined))
        # The low 6 bytes of each 16 are the tag, little-endian; bytes 6 and 7 are cleared, 8 to 15
        # skipped. Strides keep this out of the interpreter's loop.
        blocks[6::16] = blocks[7::16] = bytes(len(hashes))
        words = array("Q", bytes(blocks))
        if sys.byteorder == "big":
            words.byteswap()
        return words[::2].tolist()


def tags_of(tag_key: bytes, hashes: Sequence[bytes]) -> list[int]:
    """The tags of these hashes under ``TenantKeys.tag_key``, as ``Tagger`` makes them."""
    return Tagger(tag_key).tags_of(hashes)
