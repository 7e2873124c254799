"""A path-compressed radix tree of cached blocks, and the order in which they are evicted.

Each edge is a run of consecutive blocks. Rules:

1. Names are chain hashes (``blocks.py``): equal names mean equal prefixes, so bisection finds how
   far two runs agree, without comparing every block.
2. ``match`` changes nothing. Only locking and storing split runs.
3. A lock covers a run and all runs above it; a locked block is never evicted, and below an unlocked
   run nothing is locked.
4. Eviction takes single blocks from the tail of the leaf that was unlocked longest ago, so no block
   ever loses its parent. Runs are not joined again: each keeps its own time of last use.
5. A name alone never makes a hit where the tokens are known: a block whose tokens differ ends the
   match, however equal the names.

The idea is RadixAttention's (SGLang); lock counts up to the root and the split that keeps the lower
node are as in mini-sglang.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from inference.events import BlockHash
from inference.request import Namespace

BlockTokens = bytes
"""The tokens of one block as ``inference.blocks.block_tokens`` packs them."""


class Run:
    """Consecutive blocks without a branch: their names, where they are stored, what follows.

    ``tokens`` has one entry a block, or none at all where the cache is not told them.
    """

    __slots__ = (
        *("block_ids", "children", "hashes", "locks", "parent", "queued", "tokens", "tree"),
        "used_at",
    )

    def __init__(
        self,
        tree: RadixTree,
        parent: Run | None,
        hashes: list[BlockHash],
        block_ids: list[int],
        tokens: list[BlockTokens],
    ) -> None:
        assert len(hashes) == len(block_ids)
        assert not tokens or len(tokens) == len(hashes)
        self.tree = tree
        self.parent = parent
        self.hashes = hashes
        self.block_ids = block_ids
        self.tokens = tokens
        self.children: dict[BlockHash, Run] = {}
        self.locks = 0
        self.used_at = 0
        self.queued = False

    @property
    def evictable(self) -> bool:
        """Whether the run's last block may go: nobody uses it and nothing follows it."""
        return not self.locks and not self.children and bool(self.hashes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How far names are cached: ``blocks`` in all, the last ``inside`` of them in ``run``."""

    run: Run
    inside: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """Blocks that one run lost, the deepest first."""

    namespace: Namespace
    hashes: tuple[BlockHash, ...]
    block_ids: tuple[int, ...]


class LeafQueue:
    """The order in which leaves of all trees of one cache are evicted, least recently used first.

    ``unlocked_blocks`` counts the blocks that could be evicted one after another. Each tree has a
    heap of its own (``RadixTree.leaves``), in which each run stands at most once; an entry that has
    grown old is put right when it comes up.
    """

    def __init__(self) -> None:
        self._ticks = 0
        self._entries = 0
        self.unlocked_blocks = 0

    def tick(self) -> int:
        """The next moment of logical time."""
        self._ticks += 1
        return self._ticks

    def offer(self, run: Run) -> None:
        """Takes a run in if it may be evicted and is not there yet."""
        if run.evictable and not run.queued:
            run.queued = True
            self._entries += 1
            heapq.heappush(run.tree.leaves, (run.used_at, self._entries, run))

    def oldest(self, tree: RadixTree) -> Run | None:
        """The leaf of this tree that was used longest ago; it stays where it is."""
        heap = tree.leaves
        while heap:
            used_at, _, run = heap[0]
            if run.evictable and run.used_at == used_at:
                return run
            heapq.heappop(heap)
            run.queued = False
            self.offer(run)
        return None

    def evict(
        self, blocks: int, trees: Sequence[RadixTree], spare: Callable[[RadixTree], int]
    ) -> Iterator[Evicted]:
        """Takes so many blocks out of the trees, run by run, oldest leaf first.

        Args:
            blocks: How many at most.
            trees: Whose.
            spare: How many blocks a tree may lose at present; asked again after each run.
        """
        while blocks:
            found = [
                (leaf.used_at, at, leaf)
                for at, tree in enumerate(trees)
                if spare(tree) > 0 and (leaf := self.oldest(tree)) is not None
            ]
            if not found:
                return
            run = min(found)[2]
            taken = min(blocks, len(run.hashes), spare(run.tree))
            blocks -= taken
            yield self.take(run, taken)

    def take(self, run: Run, blocks: int) -> Evicted:
        """Takes the last blocks of an unlocked leaf out of its tree."""
        parent = _parent_of(run)
        gone = run.tree.trim(run, blocks)
        self.offer(run if run.hashes else parent)
        return gone


class RadixTree:
    """The cached blocks of one namespace. Block numbers belong to the caller.

    ``blocks`` is how many there are, ``unlocked_blocks`` how many of them nobody uses; ``leaves``
    is this tree's part of the queue.
    """

    def __init__(self, namespace: Namespace, queue: LeafQueue) -> None:
        self.namespace = namespace
        self.root = Run(self, None, [], [], [])
        self.blocks = 0
        self.unlocked_blocks = 0
        self.leaves: list[tuple[int, int, Run]] = []
        self._queue = queue

    def match(self, hashes: Sequence[BlockHash], tokens: Sequence[BlockTokens] = ()) -> Match:
        """Finds the longest cached prefix; changes nothing, not even the order of eviction.

        Args:
            hashes: Chain hashes of consecutive blocks from the first one on.
            tokens: The tokens of the same blocks; none where only names are compared.
        """
        run, inside, depth = self.root, 0, 0
        while depth < len(hashes):
            child = run.children.get(hashes[depth])
            if child is None:
                break
            common = _same(child, hashes, tokens, depth)
            if not common:
                break
            run, inside = child, common
            depth += inside
            if inside < len(run.hashes):
                break
        return Match(run=run, inside=inside, blocks=depth)

    def unlocked_in(self, match: Match) -> int:
        """How many of the matched blocks nobody has locked."""
        if match.run.locks:
            return 0
        unlocked, run = match.inside, match.run.parent
        while run is not None and not run.locks:
            unlocked += len(run.hashes)
            run = run.parent
        return unlocked

    def lock(self, match: Match) -> Run:
        """Locks the matched blocks and returns the run that ends with them."""
        run = match.run
        if match.inside < len(run.hashes):
            run = self._split(run, match.inside)
        above: Run | None = run
        while above is not None:
            self._lock_one(above)
            above = above.parent
        return run

    def unlock(self, run: Run) -> None:
        """Gives one lock of the run and of all above it back; they count as just used."""
        now = self._queue.tick()
        above: Run | None = run
        while above is not None:
            assert above.locks > 0
            above.locks -= 1
            above.used_at = now
            if not above.locks:
                self._count_unlocked(len(above.hashes))
            above = above.parent
        self._queue.offer(run)

    def descend(
        self,
        run: Run,
        hashes: Sequence[BlockHash],
        start: int,
        tokens: Sequence[BlockTokens] = (),
    ) -> Run | None:
        """Moves a lock on ``run`` further down, to blocks named ``hashes[start:]``.

        Returns:
            The next run, which agrees with the names as far as it goes and is now locked too; None
            where nothing of that name follows.
        """
        child = run.children.get(hashes[start]) if start < len(hashes) else None
        common = 0 if child is None else _same(child, hashes, tokens, start)
        if child is None or not common:
            return None
        if common < len(child.hashes):
            child = self._split(child, common)
        self._lock_one(child)
        return child

    def append(
        self,
        run: Run,
        hashes: Sequence[BlockHash],
        block_ids: Sequence[int],
        tokens: Sequence[BlockTokens] = (),
    ) -> Run:
        """Stores new blocks after a run that the caller has locked.

        Returns:
            The run that ends with them, in the place of ``run``: locked for the caller.
        """
        assert run.locks
        assert hashes
        assert hashes[0] not in run.children
        self.blocks += len(hashes)
        if run.locks == 1 and not run.children and run.parent is not None:
            run.hashes.extend(hashes)
            run.block_ids.extend(block_ids)
            run.tokens.extend(tokens)
            assert not run.tokens or len(run.tokens) == len(run.hashes)
            return run
        child = Run(self, run, list(hashes), list(block_ids), list(tokens))
        child.locks = 1
        run.children[hashes[0]] = child
        return child

    def trim(self, run: Run, blocks: int) -> Evicted:
        """Takes the last blocks of an unlocked leaf away; an empty run leaves the tree."""
        assert run.evictable
        first = len(run.hashes) - blocks
        gone = Evicted(
            namespace=self.namespace,
            hashes=tuple(reversed(run.hashes[first:])),
            block_ids=tuple(reversed(run.block_ids[first:])),
        )
        if not first:
            del _parent_of(run).children[run.hashes[0]]
        del run.hashes[first:]
        del run.block_ids[first:]
        del run.tokens[first:]
        self.blocks -= blocks
        self._count_unlocked(-blocks)
        return gone

    def runs(self) -> Iterator[tuple[int, Run]]:
        """All runs with the number of blocks before each, parents first."""
        waiting = [(0, child) for child in reversed(self.root.children.values())]
        while waiting:
            depth, run = waiting.pop()
            yield depth, run
            below = depth + len(run.hashes)
            waiting.extend((below, child) for child in reversed(run.children.values()))

    def check_integrity(self, locks: Mapping[int, int]) -> list[int]:
        """Asserts that the tree and its counts agree.

        Args:
            locks: How many leases go through each run, by the run's ``id``.

        Returns:
            The numbers of all its blocks.
        """
        blocks: list[int] = []
        unlocked = 0
        queued = [run for _, _, run in self.leaves if run.queued]
        for _, run in self.runs():
            parent = _parent_of(run)
            assert run.hashes
            assert len(run.hashes) == len(run.block_ids)
            assert len(run.tokens) in (0, len(run.hashes))
            assert parent.children[run.hashes[0]] is run
            assert run.locks == locks.get(id(run), 0)
            assert run.queued or not run.evictable
            blocks += run.block_ids
            unlocked += 0 if run.locks else len(run.hashes)
        assert len(queued) == len({id(run) for run in queued})
        assert len(blocks) == self.blocks
        assert unlocked == self.unlocked_blocks
        return blocks

    def _lock_one(self, run: Run) -> None:
        if not run.locks:
            self._count_unlocked(-len(run.hashes))
        run.locks += 1

    def _count_unlocked(self, blocks: int) -> None:
        self.unlocked_blocks += blocks
        self._queue.unlocked_blocks += blocks

    def _split(self, run: Run, at: int) -> Run:
        """Cuts a run in two; ``run`` stays the lower part, so that its locks mean the same.

        The upper part is locked next, so it gets its time of last use when that lock is given back.
        """
        assert 0 < at < len(run.hashes)
        parent = _parent_of(run)
        upper = Run(self, parent, run.hashes[:at], run.block_ids[:at], run.tokens[:at])
        upper.locks = run.locks
        parent.children[upper.hashes[0]] = upper
        del run.hashes[:at]
        del run.block_ids[:at]
        del run.tokens[:at]
        run.parent = upper
        upper.children[run.hashes[0]] = run
        return upper


def _parent_of(run: Run) -> Run:
    assert run.parent is not None, "the root is never cut or evicted"
    return run.parent


def _same(run: Run, hashes: Sequence[BlockHash], tokens: Sequence[BlockTokens], start: int) -> int:
    """How many blocks of a run are those named ``hashes[start:]``, by their tokens too."""
    common = _common(run.hashes, hashes, start)
    if not tokens or not run.tokens or run.tokens[:common] == list(tokens[start : start + common]):
        return common
    return next(at for at in range(common) if run.tokens[at] != tokens[start + at])


def _common(run: Sequence[BlockHash], hashes: Sequence[BlockHash], start: int) -> int:
    """How many names agree, at least one: a name that agrees vouches for all before it."""
    low, high = 1, min(len(run), len(hashes) - start)
    if run[high - 1] == hashes[start + high - 1]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if run[middle - 1] == hashes[start + middle - 1]:
            low = middle
        else:
            high = middle
    return low
