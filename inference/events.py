"""What an engine says about its cache: blocks stored, evicted, all cleared.

The engine is the authority on what is cached; whoever keeps a picture of it folds these events in
order. A block is named by its chain hash (``inference/blocks.py``), which stands for the block and
everything before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from inference.request import Namespace

BlockHash = NewType("BlockHash", bytes)
"""16 bytes: keyed BLAKE2b of (parent hash, the block's tokens)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksStored:
    """Consecutive blocks became reusable. ``parent`` is None when the first one is a root block.

    ``depth`` is how many blocks stand before the first one, so ``blocks[i]`` covers
    ``(depth + i + 1) * 16`` tokens. The parent is always stored already.
    """

    namespace: Namespace
    parent: BlockHash | None
    depth: int
    blocks: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksEvicted:
    """These blocks are gone; no stored block has an evicted parent (leaves go first)."""

    namespace: Namespace
    blocks: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """Nothing is cached any more, in one namespace, or anywhere when it is None."""

    namespace: Namespace | None = None


CacheEvent = BlocksStored | BlocksEvicted | Cleared
