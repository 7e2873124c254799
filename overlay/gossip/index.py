"""Which peers hold which prefix: one dict from tag to a bitmask of peers, for each tenant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, count
from operator import ne

from overlay.gossip.digest import STRIDE_BLOCKS
from security.peer_id import PeerId
from security.tenant import TenantId

ENTRIES_MAX = 4_000_000
"""Tags of all tenants together, about 100 bytes each; what goes beyond is not taken in."""

Found = list[tuple[int, int]]
"""Blocks held, and the mask of the peers whose longest claim that is; deepest first."""


@dataclass(slots=True)
class _Table:
    """One tenant's tags. ``strided`` are those of the ``holders`` that publish every stride."""

    tags: dict[int, int] = field(default_factory=dict)
    holders: int = 0
    strided: int = 0


class Index:
    """Tags of what the other peers publish."""

    def __init__(self) -> None:
        self._tables: dict[TenantId, _Table] = {}
        self._bits: dict[PeerId, int] = {}
        self._names: dict[int, PeerId] = {}
        self._cut = 0
        """Peers of whose tags some were not taken in."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(
        self, tenant: TenantId, peer_id: PeerId, tags: Iterable[int], *, strided: bool = False
    ) -> None:
        """The peer holds these prefixes.

        Args:
            tenant: Whose tags they are.
            peer_id: Who holds them.
            tags: Of the prefixes' last blocks.
            strided: Whether of everything that the peer publishes now, these included, every
                :data:`STRIDE_BLOCKS`-th block of the way is published too.
        """
        bit = self._bit(peer_id)
        table = self._tables.setdefault(tenant, _Table())
        table.holders |= bit
        table.strided = table.strided | bit if strided else table.strided & ~bit
        masks = table.tags
        for tag in tags:
            before = masks.get(tag)
            if before is not None:
                masks[tag] = before | bit
            elif self._size < ENTRIES_MAX:
                masks[tag] = bit
                self._size += 1
            else:
                self._cut |= bit

    def remove(self, tenant: TenantId, peer_id: PeerId, tags: Iterable[int]) -> None:
        """The peer holds them no more."""
        keep = ~self._bit(peer_id)
        table = self._tables.get(tenant)
        masks = {} if table is None else table.tags
        for tag in tags:
            before = masks.get(tag)
            if before is None:
                continue
            if before & keep:
                masks[tag] = before & keep
            else:
                del masks[tag]
                self._size -= 1

    def forget(self, peer_id: PeerId) -> None:
        """Frees a peer's bit; its tags must have been removed."""
        bit = self._bits.pop(peer_id, None)
        if bit is not None:
            self._cut &= ~bit
            for table in self._tables.values():
                table.holders &= ~bit
                table.strided &= ~bit
            del self._names[bit]

    def lookup(self, tenant: TenantId, tags: Sequence[int]) -> Found:
        """Who holds how much of a chain of tags.

        Args:
            tenant: Whose tags they are.
            tags: Of the prompt's blocks, in order.
        """
        table = self._tables.get(tenant)
        if table is None or not table.tags:
            return []
        if table.holders & (self._cut | ~table.strided):
            return _look_at_all(table, tags)
        return _look_at_strides(table, tags)

    def claims(self, tenant: TenantId, tags: Sequence[int]) -> dict[PeerId, int]:
        """How many blocks of a chain each peer says it holds, arguments as in ``lookup``."""
        names, found = self._names, {}
        for depth, mask in self.lookup(tenant, tags):
            if mask in names:
                found[names[mask]] = depth
            else:
                found.update(dict.fromkeys(self.peers(mask), depth))
        return found

    def peers(self, mask: int) -> list[PeerId]:
        """The peers of a mask."""
        found = []
        while mask:
            bit = mask & -mask
            if bit in self._names:
                found.append(self._names[bit])
            mask ^= bit
        return found

    def _bit(self, peer_id: PeerId) -> int:
        bit = self._bits.get(peer_id)
        if bit is None:
            bit = 1
            while bit in self._names:
                bit <<= 1
            self._bits[peer_id] = bit
            self._names[bit] = peer_id
        return bit


def _look_at_all(table: _Table, tags: Sequence[int]) -> Found:
    """Looks every tag up: where a budget has left strides out, nothing leads to a claim."""
    found: Found = []
    # Most tags are in nobody's digest: they are passed over without a step of Python's own.
    masks = list(map(table.tags.get, tags))
    masks.reverse()
    seen, deepest = 0, len(masks)
    for above, mask in zip(compress(count(), masks), filter(None, masks), strict=False):
        fresh = mask & ~seen
        if fresh:
            found.append((deepest - above, fresh))
            seen |= fresh
            if seen == table.holders:
                break
    return found


def _look_at_strides(table: _Table, tags: Sequence[int]) -> Found:
    """Looks up the strides, and other tags only where somebody's strides end.

    Who claims a block claims every stride before it, so its longest claim is there.
    """
    find = table.tags.get
    found: Found = []
    seen = 0
    strides = [table.holders, *map(find, tags[STRIDE_BLOCKS - 1 :: STRIDE_BLOCKS])]
    some_end_here = map(ne, strides, [*strides[1:], None])
    for index in reversed(list(compress(count(), some_end_here))):
        mask = strides[index] or 0
        fresh = mask & ~seen
        if not fresh:
            continue
        seen |= mask
        stride = index * STRIDE_BLOCKS
        between = tags[stride : stride + STRIDE_BLOCKS - 1]
        depth = stride + len(between)
        for holders in map(find, reversed(between)):
            if holders and (longest := holders & fresh):
                found.append((depth, longest))
                fresh ^= longest
            depth -= 1
        if fresh and stride:
            found.append((stride, fresh))
    return found
