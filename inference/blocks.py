"""Chain hashes that name blocks of tokens.

A prompt is cut into full blocks of 16 tokens. A block's name is keyed BLAKE2b (16 bytes) of its
predecessor's name and its own tokens, so it stands for the block and everything before it; equal
names mean equal prefixes. The key is the tenant's, so two tenants never share a name. The first
block follows the root, which names what makes two peers' tokens comparable: served model name,
tokenizer and chat template. Formula and test vectors: ``docs/protocol.md`` and
``tests/inference/vectors.json``. Chaining is as in vLLM's prefix cache.

::

    root  = BLAKE2b-128(key, person="rhizome/root/1", 3 x (4-byte length, UTF-8))
    block = BLAKE2b-128(key, person="rhizome/block/1", parent, 16 x 4-byte token id)

Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import cast

from inference.errors import InvalidRequest
from inference.events import BlockHash
from inference.request import BLOCK_TOKENS, PrefixIdentity

KEY_BYTES = 32
HASH_BYTES = 16

_ROOT_PERSON = b"rhizome/root/1"
_BLOCK_PERSON = b"rhizome/block/1"
_BLOCK = struct.Struct(f"{4 * BLOCK_TOKENS}s")


class BlockChain:
    """The block names of one tenant and one prefix identity.

    Args:
        key: The tenant's chain key, 32 bytes.
        identity: What must be equal for tokens to be comparable.

    Raises:
        ValueError: When the key has another length.
    """

    def __init__(self, key: bytes, identity: PrefixIdentity) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a chain key has {KEY_BYTES} bytes")
        self._keyed = hashlib.blake2b(key=key, digest_size=HASH_BYTES, person=_BLOCK_PERSON)
        fields = (identity.served_model, identity.tokenizer, identity.template)
        encoded = [field.encode() for field in fields]
        body = b"".join(struct.pack("<I", len(field)) + field for field in encoded)
        root = hashlib.blake2b(body, key=key, digest_size=HASH_BYTES, person=_ROOT_PERSON)
        self.root = BlockHash(root.digest())

    def hashes(self, token_ids: Sequence[int]) -> list[BlockHash]:
        """The names of a prompt's full blocks, from the first on; a partial block has none.

        Raises:
            InvalidRequest: When a token id is no 32-bit number.
        """
        return self.extend(self.root, token_ids)

    def extend(self, parent: BlockHash, token_ids: Sequence[int]) -> list[BlockHash]:
        """The names of the full blocks that these tokens make after ``parent``.

        Raises:
            InvalidRequest: When a token id is no 32-bit number.
        """
        data = token_bytes(token_ids)
        fresh = self._keyed.copy
        name: bytes = parent
        names: list[bytes] = []
        for (tokens,) in _BLOCK.iter_unpack(data[: len(data) // _BLOCK.size * _BLOCK.size]):
            block = fresh()
            block.update(name)
            block.update(tokens)
            name = block.digest()
            names.append(name)
        # A cast, as calling the new type for each block costs a fifth of the whole.
        return cast("list[BlockHash]", names)


def reusable_blocks(prompt_tokens: int) -> int:
    """How many leading blocks of a prompt may come from a cache: its last token never does."""
    return max(0, prompt_tokens - 1) // BLOCK_TOKENS


def blocks_for(tokens: int) -> int:
    """How many blocks hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def token_bytes(token_ids: Sequence[int]) -> bytes:
    """Token ids as they are hashed: 32 bits each, little-endian.

    Raises:
        InvalidRequest: When a token id is no 32-bit number.
    """
    try:
        numbers = array("I", token_ids)
    except (OverflowError, TypeError) as error:
        raise InvalidRequest("a token id is not a 32-bit number", param="prompt") from error
    assert numbers.itemsize == 4, "array('I') holds 32-bit numbers wherever CPython runs"
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def block_tokens(token_ids: Sequence[int]) -> list[bytes]:
    """The tokens of each full block, packed: equal for equal tokens only.

    Raises:
        InvalidRequest: When a token id is no 32-bit number.
    """
    data = token_bytes(token_ids)
    return [
        tokens for (tokens,) in _BLOCK.iter_unpack(data[: len(data) // _BLOCK.size * _BLOCK.size])
    ]
