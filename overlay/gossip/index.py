"""Which peers hold which prefix: one dict from tag to a bitmask of peers, for each tenant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress, count

from security.peer_id import PeerId
from security.tenant import TenantId

ENTRIES_MAX = 4_000_000
"""Tags of all tenants together, about 100 bytes each; what goes beyond is not taken in."""


class Index:
    """Tags of what the other peers publish."""

    def __init__(self) -> None:
        self._tags: dict[TenantId, dict[int, int]] = {}
        self._bits: dict[PeerId, int] = {}
        self._peers: list[PeerId | None] = []
        self._everybody = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, tenant: TenantId, peer_id: PeerId, tags: Iterable[int]) -> None:
        """The peer holds these prefixes."""
        bit = self._bit(peer_id)
        table = self._tags.setdefault(tenant, {})
        for tag in tags:
            before = table.get(tag)
            if before is not None:
                table[tag] = before | bit
            elif self._size < ENTRIES_MAX:
                table[tag] = bit
                self._size += 1

    def remove(self, tenant: TenantId, peer_id: PeerId, tags: Iterable[int]) -> None:
        """The peer holds them no more."""
        keep = ~self._bit(peer_id)
        table = self._tags.get(tenant, {})
        for tag in tags:
            before = table.get(tag)
            if before is None:
                continue
            if before & keep:
                table[tag] = before & keep
            else:
                del table[tag]
                self._size -= 1

    def forget(self, peer_id: PeerId) -> None:
        """Frees a peer's bit; its tags must have been removed."""
        bit = self._bits.pop(peer_id, None)
        if bit is not None:
            self._everybody ^= bit
            self._peers[bit.bit_length() - 1] = None

    def lookup(self, tenant: TenantId, tags: Sequence[int]) -> list[tuple[int, int]]:
        """Who holds how much of a chain of tags, deepest first.

        Args:
            tenant: Whose tags they are.
            tags: Of the prompt's blocks, in order.

        Returns:
            Pairs (blocks held, mask of the peers whose longest claim that is).
        """
        table = self._tags.get(tenant)
        found: list[tuple[int, int]] = []
        if not table:
            return found
        # Most tags are in nobody's digest: they are passed over without a step of Python's own.
        masks = list(map(table.get, tags))
        masks.reverse()
        seen, deepest = 0, len(masks)
        for above, mask in zip(compress(count(), masks), filter(None, masks), strict=False):
            fresh = mask & ~seen
            if fresh:
                found.append((deepest - above, fresh))
                seen |= fresh
                if seen == self._everybody:
                    break
        return found

    def peers(self, mask: int) -> list[PeerId]:
        """The peers of a mask."""
        found = []
        while mask:
            bit = mask & -mask
            peer_id = self._peers[bit.bit_length() - 1]
            if peer_id is not None:
                found.append(peer_id)
            mask ^= bit
        return found

    def _bit(self, peer_id: PeerId) -> int:
        bit = self._bits.get(peer_id)
        if bit is None:
            place = self._peers.index(None) if None in self._peers else len(self._peers)
            if place == len(self._peers):
                self._peers.append(peer_id)
            else:
                self._peers[place] = peer_id
            bit = self._bits[peer_id] = 1 << place
            self._everybody |= bit
        return bit
