"""A strict fold of cache events: what a peer that is told of a cache must be able to rely on."""

from __future__ import annotations

from collections.abc import Iterable

from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace


class Replay:
    """Folds events and asserts that each is legal; ``held`` maps a block to depth and parent."""

    def __init__(self) -> None:
        self.held: dict[tuple[Namespace, BlockHash], tuple[int, BlockHash | None]] = {}

    def fold(self, events: Iterable[CacheEvent]) -> None:
        for event in events:
            match event:
                case BlocksStored():
                    self._store(event)
                case BlocksEvicted():
                    self._evict(event)
                case Cleared():
                    assert event.namespace is None
                    self.held.clear()

    def _store(self, event: BlocksStored) -> None:
        parent, depth = event.parent, event.depth
        assert event.blocks
        assert (parent is None) == (depth == 0)
        for block in event.blocks:
            assert parent is None or self.held[event.namespace, parent][0] == depth
            assert (event.namespace, block) not in self.held
            depth += 1
            self.held[event.namespace, block] = (depth, parent)
            parent = block

    def _evict(self, event: BlocksEvicted) -> None:
        parents = {parent: 0 for _, parent in self.held.values()}
        for (space, _), (_, parent) in self.held.items():
            if space == event.namespace:
                parents[parent] += 1
        for block in event.blocks:
            assert not parents.get(block), "a block goes before those that follow it"
            _, parent = self.held.pop((event.namespace, block))
            parents[parent] -= 1
