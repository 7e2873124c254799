"""Fixed parts of an engine's blocks, one a tenant: nobody borrows, evicts or is placed by another.

Each part is a prefix cache of its own over its own run of blocks, so what one tenant does changes
neither what another may hold nor where its blocks are. Who the tenants are is told from outside; a
change of them makes the parts anew, empty.
"""

from __future__ import annotations

from collections.abc import Iterable

from inference.cache import Lease, PrefixCache
from inference.events import CacheEvent, Cleared
from inference.request import BLOCK_TOKENS, Namespace


class Partitions:
    """The blocks of all tenants.

    Args:
        total_blocks: How many blocks there are, at least 1.
        tenants: Whose; what remains when they are divided by their number is not used.
    """

    def __init__(self, total_blocks: int, tenants: Iterable[Namespace]) -> None:
        assert total_blocks > 0
        self.total_blocks = total_blocks
        self._parts: dict[Namespace, PrefixCache] = {}
        self.divide(tenants)
        self._cleared = False

    @property
    def tenants(self) -> frozenset[Namespace]:
        return frozenset(self._parts)

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        held = sum(part.total_blocks - part.free_blocks for part in self._parts.values())
        return self.total_blocks - held

    def divide(self, tenants: Iterable[Namespace]) -> None:
        """Makes the parts anew for these tenants; leases taken before are void."""
        names = sorted(set(tenants))
        size = self.total_blocks // max(1, len(names))
        self._parts = {
            name: PrefixCache(size, first_block=at * size)
            for at, name in enumerate(names)
            if size > 0
        }
        self._cleared = True

    def part(self, namespace: Namespace) -> PrefixCache:
        """The cache of one of the tenants."""
        return self._parts[namespace]

    def part_tokens(self, tenants: int) -> int:
        """The longest prompt and answer that fit into a part when there are so many."""
        return self.total_blocks // max(1, tenants) * BLOCK_TOKENS

    def drop(self, namespace: Namespace) -> None:
        """Drops what a tenant has cached; what running requests use goes when they end."""
        if namespace in self._parts:
            self._parts[namespace].drop(namespace)

    def clear(self) -> None:
        """Forgets everything; leases taken before are void."""
        for part in self._parts.values():
            part.clear()
        self._cleared = True

    def drain_events(self) -> tuple[CacheEvent, ...]:
        """What was stored and evicted since the last call; in order for each tenant."""
        events: list[CacheEvent] = []
        for namespace in sorted(self._parts):
            events += self._parts[namespace].drain_events()
        if self._cleared or any(isinstance(event, Cleared) for event in events):
            # One part's tale begins anew: so does that of all, as only all can be cleared.
            self._cleared = False
            events = [Cleared()]
            for namespace in sorted(self._parts):
                events += self._parts[namespace].contents()
        return tuple(events)

    def check_integrity(self) -> None:
        """Asserts that each part is whole and that no two have a block in common; for tests."""
        end = 0
        for namespace in sorted(self._parts):
            part = self._parts[namespace]
            part.check_integrity()
            assert part.first_block >= end
            end = part.first_block + part.total_blocks
        assert end <= self.total_blocks

    def check_leases(self, leases: Iterable[Lease]) -> None:
        """Asserts that these are all leases that there are; for tests."""
        mine: dict[Namespace, list[Lease]] = {namespace: [] for namespace in self._parts}
        for lease in leases:
            mine[lease.namespace].append(lease)
        for namespace, part in self._parts.items():
            part.check_leases(mine[namespace])
