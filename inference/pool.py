"""KV memory of the embedded engine: blocks of 16 tokens, the same in every layer.

A block's number comes from ``inference/cache.py``; token ``t`` of a request lives in slot
``blocks[t // 16] * 16 + t % 16``. Slots beyond the numbered blocks are ours: the first is never
written and stands for keys that a mask hides, the others take what is thrown away.
Memory is zeroed, which the operating system does on first use, so an empty pool costs nothing; and
the first use of a block takes longer, unless the pool is touched at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from inference.blocks import blocks_for
from inference.request import BLOCK_TOKENS

THROWN_SLOTS = 256
"""Slots for rows that are thrown away, where writing them is to take as long as any."""

Slots = slice | torch.Tensor
"""Which slots to read: a run of them (no copy), or their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """What one token's keys and values look like; equal in all layers."""

    layers: int
    kv_heads: int
    head_dim: int

    def block_bytes(self, dtype: torch.dtype) -> int:
        """Memory of one block: keys and values of 16 tokens in every layer."""
        return 2 * self.layers * BLOCK_TOKENS * self.kv_heads * self.head_dim * dtype.itemsize


class BlockPool:
    """The keys and values of ``blocks`` blocks on one device.

    ``uniform`` makes writing take the same time wherever it goes: all memory is touched at once,
    and :data:`THROWN_SLOTS` rows that are thrown away are not written into one slot.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        uniform: bool = False,
    ) -> None:
        self.shape = shape
        self.blocks = blocks
        self.dtype = dtype
        self.device = device
        self._thrown = THROWN_SLOTS if uniform else 1
        slots = blocks * BLOCK_TOKENS + 1 + self._thrown
        size = (shape.layers, 2, slots, shape.kv_heads, shape.head_dim)
        self._memory = torch.zeros(size, dtype=dtype, device=device)
        if uniform:
            self._memory.zero_()
        # Views [1, kv_heads, slots, head_dim], made once: attention takes slices of them.
        self._heads = [
            (layer[0].transpose(0, 1)[None], layer[1].transpose(0, 1)[None])
            for layer in self._memory
        ]
        self.zero_slot = blocks * BLOCK_TOKENS
        self.dump_slot = self.zero_slot + 1

    def thrown_slots(self, count: int) -> list[int]:
        """Where so many rows go of which nothing is kept."""
        return [self.dump_slot + row % self._thrown for row in range(count)]

    def write(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Puts the rows' keys and values (``[rows, kv_heads, head_dim]``) into their slots."""
        self._memory[layer, 0].index_copy_(0, slots, keys)
        self._memory[layer, 1].index_copy_(0, slots, values)

    def read(self, layer: int, slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of these slots, ``[1, kv_heads, slots, head_dim]`` each."""
        if isinstance(slots, slice):
            keys, values = self._heads[layer]
            return keys[:, :, slots], values[:, :, slots]
        keys, values = self._memory[layer]
        return (
            keys.index_select(0, slots).transpose(0, 1)[None],
            values.index_select(0, slots).transpose(0, 1)[None],
        )

    def close(self) -> None:
        """Gives the memory back; nothing can be read or written any more."""
        self._heads = []
        self._memory = torch.empty(0)


def slot_numbers(blocks: Sequence[int], start: int, end: int) -> list[int]:
    """The slots of the tokens ``start`` to ``end`` of a request with this block table."""
    return [
        blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
        for position in range(start, end)
    ]


def leading_slots(blocks: Sequence[int], end: int) -> Slots:
    """The slots of the first ``end`` tokens; a slice where the blocks follow each other."""
    count = blocks_for(end)
    first = blocks[0]
    if blocks[count - 1] - first == count - 1 and list(blocks[:count]) == list(
        range(first, first + count)
    ):
        return slice(first * BLOCK_TOKENS, first * BLOCK_TOKENS + end)
    return numbered_slots(blocks, end)


def numbered_slots(blocks: Sequence[int], end: int) -> torch.Tensor:
    """The same as numbers in any case, on the CPU."""
    count = blocks_for(end)
    firsts = torch.tensor(blocks[:count], dtype=torch.long) * BLOCK_TOKENS
    return (firsts[:, None] + torch.arange(BLOCK_TOKENS)).flatten()[:end]
