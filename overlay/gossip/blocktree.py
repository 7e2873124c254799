"""What an engine's cache holds, as its events tell it: one tree of blocks per namespace.

The engine is the authority; this is its events folded in order. Blocks are chain hashes, so a block
stands for its whole prefix, and a tree is closed under prefixes: leaves go first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace
from overlay.gossip.digest import STRIDE_BLOCKS, Digest


@dataclass(slots=True)
class _Block:
    parent: BlockHash | None
    depth: int
    children: int = 0


class BlockTree:
    """The cached blocks of one namespace, and the digest of them that is published."""

    def __init__(self, digest: Digest, stride_blocks: int = STRIDE_BLOCKS) -> None:
        self._blocks: dict[BlockHash, _Block] = {}
        self._stride_blocks = stride_blocks
        self.digest = digest

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, hashes: Sequence[BlockHash]) -> int:
        """How many of these chained blocks are cached, from the first one on."""
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high + 1) // 2
            if hashes[middle - 1] in self._blocks:
                low = middle
            else:
                high = middle - 1
        return low

    def store(self, event: BlocksStored) -> None:
        """Takes a run in; blocks that are known already are left as they are."""
        blocks, parent, depth = self._blocks, event.parent, event.depth
        changed: dict[BlockHash, None] = {}
        for block in event.blocks:
            depth += 1
            if block not in blocks:
                if parent in blocks:
                    blocks[parent].children += 1
                    changed[parent] = None
                blocks[block] = _Block(parent, depth)
                changed[block] = None
            parent = block
        # Judged when the run is whole: on the way each of its blocks is an end for a moment.
        for block in changed:
            self._judge(block)

    def evict(self, event: BlocksEvicted) -> None:
        """Takes blocks out; unknown ones are passed over."""
        blocks = self._blocks
        changed: dict[BlockHash, None] = {}
        for block in event.blocks:
            known = blocks.pop(block, None)
            if known is None:
                continue
            self.digest.withdraw(block)
            if known.parent is not None and known.parent in blocks:
                blocks[known.parent].children -= 1
                changed[known.parent] = None
        for block in changed:
            if block in blocks:
                self._judge(block)

    def clear(self) -> None:
        """Nothing is cached any more."""
        for block in self._blocks:
            self.digest.withdraw(block)
        self._blocks.clear()

    def _judge(self, block: BlockHash) -> None:
        """Publishes ends of runs, branch points and strides; withdraws what is none of them."""
        known = self._blocks[block]
        if known.children != 1:
            self.digest.publish(block, end=True)
        elif known.depth % self._stride_blocks == 0:
            self.digest.publish(block, end=False)
        else:
            self.digest.withdraw(block)


class BlockForest:
    """The trees of all namespaces, with a digest each."""

    def __init__(self, make_digest: Callable[[], Digest] = Digest) -> None:
        self._make_digest = make_digest
        self._trees: dict[Namespace, BlockTree] = {}

    def tree(self, namespace: Namespace) -> BlockTree:
        """The tree of a namespace, empty where nothing was ever cached."""
        found = self._trees.get(namespace)
        if found is None:
            found = self._trees[namespace] = BlockTree(self._make_digest())
        return found

    def fold(self, events: Sequence[CacheEvent]) -> None:
        """Takes an engine's events in, in order."""
        for event in events:
            match event:
                case BlocksStored():
                    self.tree(event.namespace).store(event)
                case BlocksEvicted():
                    self.tree(event.namespace).evict(event)
                case Cleared(namespace=None):
                    for tree in self._trees.values():
                        tree.clear()
                case Cleared():
                    assert event.namespace is not None
                    self.tree(event.namespace).clear()

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        """Blocks of a chain that are cached here."""
        tree = self._trees.get(namespace)
        return 0 if tree is None else tree.match(hashes)
