"""The blocks of one namespace that a server holds, and which of them can be reached.

A server may drop a block before the blocks that follow it, and hold the same block twice. Our cache
events know neither (``inference/events.py``), so this tree stands between. Rules:

1. A block is held while it was added more often than dropped.
2. A block is reachable when it and all blocks before it are held. Only such blocks are told, and
   only they match: the others are no use to a prompt.
3. A block that is dropped takes those after it out of reach, the last ones first; they come back
   when it is added again.
4. A block that is not held is remembered only while held ones follow it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from inference.events import BlockHash, BlocksStored
from inference.remote.journal import Journal
from inference.request import Namespace


class _Node:
    """One block. ``children`` is one name without a dict of its own: few blocks have two."""

    __slots__ = ("children", "copies", "depth", "parent", "reachable")

    def __init__(self, parent: BlockHash | None, depth: int) -> None:
        self.parent = parent
        self.depth = depth
        self.copies = 0
        self.reachable = False
        self.children: BlockHash | dict[BlockHash, None] | None = None

    def followers(self) -> list[BlockHash]:
        if self.children is None:
            return []
        return list(self.children) if isinstance(self.children, dict) else [self.children]

    def link(self, child: BlockHash) -> None:
        if self.children is None:
            self.children = child
        elif isinstance(self.children, dict):
            self.children[child] = None
        elif self.children != child:
            self.children = {self.children: None, child: None}

    def unlink(self, child: BlockHash) -> None:
        if isinstance(self.children, dict):
            self.children.pop(child, None)
            if not self.children:
                self.children = None
        elif self.children == child:
            self.children = None


class HeldTree:
    """Held blocks by name, counted; every change of what is reachable goes to the journal."""

    def __init__(self, namespace: Namespace, journal: Journal) -> None:
        self.namespace = namespace
        self.reachable_blocks = 0
        self._journal = journal
        self._nodes: dict[BlockHash, _Node] = {}
        self._first: dict[BlockHash, None] = {}

    def __len__(self) -> int:
        """Blocks remembered, held or not."""
        return len(self._nodes)

    def __contains__(self, block: BlockHash) -> bool:
        node = self._nodes.get(block)
        return node is not None and node.reachable

    def match(self, hashes: Sequence[BlockHash]) -> int:
        """How many of these chained blocks are reachable, from the first one on."""
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high + 1) // 2
            if hashes[middle - 1] in self:
                low = middle
            else:
                high = middle - 1
        return low

    def depth_of(self, block: BlockHash) -> int:
        """How many blocks stand before a known one."""
        return self._nodes[block].depth

    def add(self, parent: BlockHash | None, depth: int, blocks: Sequence[BlockHash]) -> None:
        """Holds one more copy of each of these consecutive blocks.

        Args:
            parent: The block before the first one, held or not; None where that is a root block.
            depth: How many blocks stand before the first one.
            blocks: Their names.
        """
        shown: list[BlockHash] = []
        first, start = parent, depth
        for block in blocks:
            node = self._hold(block, parent, depth)
            if node.copies == 1 and self._shows(node):
                if not shown:
                    first, start = parent, depth
                shown.append(block)
                if node.children is not None:
                    self._tell(first, start, shown)
                    shown = []
                    self._show_below(node)
            parent = block
            depth += 1
        self._tell(first, start, shown)

    def drop(self, blocks: Sequence[BlockHash]) -> None:
        """Gives one copy of each of these held blocks back."""
        for block in blocks:
            node = self._nodes[block]
            assert node.copies > 0
            node.copies -= 1
            if not node.copies:
                if node.reachable:
                    self._hide(block)
                self._let_go(block, node)

    def below(self, block: BlockHash) -> list[BlockHash]:
        """A reachable block and all reachable ones after it, parents first."""
        found, waiting = [], [block]
        while waiting:
            each = waiting.pop()
            found.append(each)
            waiting.extend(b for b in self._nodes[each].followers() if b in self)
        return found

    def clear(self) -> None:
        """Forgets everything, without an event."""
        self._nodes.clear()
        self._first.clear()
        self.reachable_blocks = 0

    def contents(self) -> Iterator[BlocksStored]:
        """All that is reachable, as events that would build it, parents first."""
        waiting = [block for block in reversed(self._first) if block in self]
        while waiting:
            yield self._run(waiting)

    def _run(self, waiting: list[BlockHash]) -> BlocksStored:
        """Takes the last of the waiting blocks and what follows it without a branch."""
        block = waiting.pop()
        first = self._nodes[block]
        run = [block]
        while True:
            after = [b for b in self._nodes[run[-1]].followers() if b in self]
            if len(after) != 1:
                waiting.extend(reversed(after))
                return BlocksStored(
                    namespace=self.namespace,
                    parent=first.parent,
                    depth=first.depth,
                    blocks=tuple(run),
                )
            run.append(after[0])

    def _hold(self, block: BlockHash, parent: BlockHash | None, depth: int) -> _Node:
        node = self._nodes.get(block)
        if node is None:
            node = self._nodes[block] = _Node(parent, depth)
        node.copies += 1
        if node.copies == 1:
            node.parent, node.depth = parent, depth
            if parent is None:
                self._first[block] = None
            else:
                before = self._nodes.get(parent)
                if before is None:
                    before = self._nodes[parent] = _Node(None, depth - 1)
                before.link(block)
        return node

    def _shows(self, node: _Node) -> bool:
        if node.parent is not None and node.parent not in self:
            return False
        node.reachable = True
        self.reachable_blocks += 1
        return True

    def _show_below(self, node: _Node) -> None:
        """A block can be reached again, so what is held after it can be as well."""
        waiting = [b for b in reversed(node.followers()) if self._nodes[b].copies]
        fresh = list(waiting)
        while waiting:
            below = self._nodes[waiting.pop()]
            below.reachable = True
            self.reachable_blocks += 1
            waiting.extend(b for b in below.followers() if self._nodes[b].copies)
        while fresh:
            run = self._run(fresh)
            self._tell(run.parent, run.depth, run.blocks)

    def _hide(self, block: BlockHash) -> None:
        gone = self.below(block)
        for each in gone:
            self._nodes[each].reachable = False
        self.reachable_blocks -= len(gone)
        gone.reverse()
        self._journal.evicted(self.namespace, gone)

    def _let_go(self, block: BlockHash, node: _Node) -> None:
        """Unlinks a block that is held no more; it stays known while others follow it."""
        if node.parent is None:
            self._first.pop(block, None)
        else:
            before = self._nodes[node.parent]
            before.unlink(block)
            if not before.copies and before.children is None:
                del self._nodes[node.parent]
        if node.children is None:
            del self._nodes[block]
        node.parent = None

    def _tell(self, parent: BlockHash | None, depth: int, blocks: Sequence[BlockHash]) -> None:
        if blocks:
            self._journal.stored(self.namespace, parent, depth, blocks)


class HeldForest:
    """The trees of all namespaces, with the journal of their changes.

    Args:
        held_blocks: How many blocks the picture has; for the journal's bound.
    """

    def __init__(self, held_blocks: Callable[[], int]) -> None:
        self.journal = Journal(self.contents, held_blocks)
        self._trees: dict[Namespace, HeldTree] = {}

    def __len__(self) -> int:
        """Blocks remembered, held or not."""
        return sum(len(tree) for tree in self._trees.values())

    @property
    def reachable_blocks(self) -> int:
        return sum(tree.reachable_blocks for tree in self._trees.values())

    def tree(self, namespace: Namespace) -> HeldTree:
        """A namespace's tree, made if there is none."""
        tree = self._trees.get(namespace)
        if tree is None:
            tree = self._trees[namespace] = HeldTree(namespace, self.journal)
        return tree

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        """As :meth:`HeldTree.match`; makes no tree."""
        tree = self._trees.get(namespace)
        return 0 if tree is None else tree.match(hashes)

    def clear(self) -> None:
        """Forgets everything, which is all that the journal then tells."""
        for tree in self._trees.values():
            tree.clear()
        self.journal.clear()

    def contents(self) -> Iterator[BlocksStored]:
        """As :meth:`HeldTree.contents`, of every namespace."""
        for namespace in sorted(self._trees):
            yield from self._trees[namespace].contents()
