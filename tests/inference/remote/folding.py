"""What the tests of pictures share: a strict fold of our events, and names of made-up prompts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from inference.blocks import BlockChain
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.remote.events.frames import EngineHash, Removed, Stored
from inference.request import Namespace, PrefixIdentity
from overlay.gossip.blocktree import BlockForest

IDENTITY = PrefixIdentity(served_model="m", tokenizer="t", template="x")
NS_A, NS_B = Namespace("a"), Namespace("b")
KEYS = {NS_A: b"a" * 32, NS_B: b"b" * 32}


class Fold:
    """Folds events, asserts that each is legal, and keeps a peer's own forest beside it."""

    def __init__(self) -> None:
        self.held: dict[tuple[Namespace, BlockHash], tuple[int, BlockHash | None]] = {}
        self.forest = BlockForest()

    def fold(self, events: Iterable[CacheEvent]) -> None:
        told = tuple(events)
        self.forest.fold(told)
        for event in told:
            match event:
                case BlocksStored():
                    self._store(event)
                case BlocksEvicted():
                    self._evict(event)
                case Cleared():
                    assert event.namespace is None
                    self.held.clear()

    def blocks(self, namespace: Namespace) -> set[BlockHash]:
        found = {block for space, block in self.held if space == namespace}
        assert len(self.forest.tree(namespace)) == len(found)
        return found

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


def names(namespace: Namespace, tokens: Sequence[int]) -> list[BlockHash]:
    """The names of a prompt's full blocks for a tenant."""
    return BlockChain(KEYS[namespace], IDENTITY).hashes(tokens)


def tokens_of(path: Sequence[int], size: int = 16) -> list[int]:
    """A prompt in which block i is ``size`` times the same token."""
    return [token for token in path for _ in range(size)]


def stored(
    block_hashes: Sequence[EngineHash],
    parent: EngineHash | None,
    token_ids: Sequence[int],
    *,
    size: int = 16,
    salt: str | None = None,
    foreign_from: int | None = None,
    medium: str | None = "GPU",
    group: int | None = 0,
    kind: str | None = None,
) -> Stored:
    return Stored(
        block_hashes=tuple(block_hashes),
        parent=parent,
        token_ids=array("I", token_ids),
        block_size=size,
        salt=salt,
        foreign_from=len(block_hashes) if foreign_from is None else foreign_from,
        medium=medium,
        group=group,
        kind=kind,
    )


def removed(
    *block_hashes: EngineHash, medium: str | None = "GPU", group: int | None = 0
) -> Removed:
    return Removed(block_hashes=block_hashes, medium=medium, group=group)
