"""A path-compressed radix tree of cached blocks, and the order in which they are evicted.

Each edge is a run of consecutive blocks. Rules:

1. Names are chain hashes (``blocks.py``): equal names mean equal prefixes, so bisection finds how
   far two runs agree, without comparing every block.
2. ``match`` changes nothing. Only locking and storing split runs.
3. A lock covers a run and all runs above it; a locked block is never evicted, and below an unlocked
   run nothing is locked.
4. Eviction takes single blocks from the tail of the leaf that was unlocked longest ago, so no block
   ever loses its parent. Runs are not joined again: each keeps its own time of last use.

The idea is RadixAttention's (SGLang); lock counts up to the root and the split that keeps the lower
node are as in mini-sglang.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inference.events import BlockHash
from inference.request import Namespace


class Run:
    """Consecutive blocks without a branch: their names, where they are stored, what follows."""

    __slots__ = ("block_ids", "children", "hashes", "locks", "parent", "queued", "tree", "used_at")

    def __init__(
        self,
        tree: RadixTree,
        parent: Run | None,
        hashes: list[BlockHash],
        block_ids: list[int],
    ) -> None:
        assert len(hashes) == len(block_ids)
        self.tree = tree
        self.parent = parent
        self.hashes = hashes
        self.block_ids = block_ids
        self.children: dict[BlockHash, Run] = {}
        self.locks = 0
        self.used_at = 0
        self.queued = False

    @property
    def evictable(self) -> bool:
        """Whether the run's last block may go: nobody uses it and nothing follows it."""
        return not self.locks and not self.children and self.parent is not None


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
    """Unlocked leaves of all trees of one cache, least recently used first.

    ``unlocked_blocks`` counts the blocks that could be evicted one after another. Each run stands
    in the heap at most once; an entry that has grown old is put right when it comes up.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Run]] = []
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
            heapq.heappush(self._heap, (run.used_at, self._entries, run))

    def evict(self, blocks: int) -> Iterator[Evicted]:
        """Takes so many blocks out of the trees, run by run. There must be as many unlocked."""
        assert 0 <= blocks <= self.unlocked_blocks
        while blocks:
            run = self._oldest()
            taken = min(blocks, len(run.hashes))
            blocks -= taken
            self.unlocked_blocks -= taken
            yield run.tree.trim(run, taken)
            self.offer(run if run.hashes else _parent_of(run))

    def _oldest(self) -> Run:
        while True:
            used_at, _, run = heapq.heappop(self._heap)
            run.queued = False
            if run.evictable and run.used_at == used_at:
                return run
            self.offer(run)


class RadixTree:
    """The cached blocks of one namespace. Block numbers belong to the caller."""

    def __init__(self, namespace: Namespace, leaves: LeafQueue) -> None:
        self.namespace = namespace
        self.root = Run(self, None, [], [])
        self._leaves = leaves

    def match(self, hashes: Sequence[BlockHash]) -> Match:
        """Finds the longest cached prefix; changes nothing, not even the order of eviction.

        Args:
            hashes: Chain hashes of consecutive blocks from the first one on.
        """
        run, inside, depth = self.root, 0, 0
        while depth < len(hashes):
            child = run.children.get(hashes[depth])
            if child is None:
                break
            run, inside = child, _common(child.hashes, hashes, depth)
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
        now = self._leaves.tick()
        above: Run | None = run
        while above is not None:
            assert above.locks > 0
            above.locks -= 1
            above.used_at = now
            if not above.locks:
                self._leaves.unlocked_blocks += len(above.hashes)
            above = above.parent
        self._leaves.offer(run)

    def descend(self, run: Run, hashes: Sequence[BlockHash], start: int) -> Run | None:
        """Moves a lock on ``run`` further down, to blocks named ``hashes[start:]``.

        Returns:
            The next run, which agrees with the names as far as it goes and is now locked too; None
            where nothing of that name follows.
        """
        child = run.children.get(hashes[start]) if start < len(hashes) else None
        if child is None:
            return None
        common = _common(child.hashes, hashes, start)
        if common < len(child.hashes):
            child = self._split(child, common)
        self._lock_one(child)
        return child

    def append(self, run: Run, hashes: Sequence[BlockHash], block_ids: Sequence[int]) -> Run:
        """Stores new blocks after a run that the caller has locked.

        Returns:
            The run that ends with them, in the place of ``run``: locked for the caller.
        """
        assert run.locks
        assert hashes
        assert hashes[0] not in run.children
        if run.locks == 1 and not run.children and run.parent is not None:
            run.hashes.extend(hashes)
            run.block_ids.extend(block_ids)
            return run
        child = Run(self, run, list(hashes), list(block_ids))
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
        return gone

    def runs(self) -> Iterator[tuple[int, Run]]:
        """All runs with the number of blocks before each, parents first."""
        waiting = [(0, child) for child in reversed(self.root.children.values())]
        while waiting:
            depth, run = waiting.pop()
            yield depth, run
            below = depth + len(run.hashes)
            waiting.extend((below, child) for child in reversed(run.children.values()))

    def _lock_one(self, run: Run) -> None:
        if not run.locks:
            self._leaves.unlocked_blocks -= len(run.hashes)
        run.locks += 1

    def _split(self, run: Run, at: int) -> Run:
        """Cuts a run in two; ``run`` stays the lower part, so that its locks mean the same.

        The upper part is locked next, so it gets its time of last use when that lock is given back.
        """
        assert 0 < at < len(run.hashes)
        parent = _parent_of(run)
        upper = Run(self, parent, run.hashes[:at], run.block_ids[:at])
        upper.locks = run.locks
        parent.children[upper.hashes[0]] = upper
        del run.hashes[:at]
        del run.block_ids[:at]
        run.parent = upper
        upper.children[run.hashes[0]] = run
        return upper


def _parent_of(run: Run) -> Run:
    assert run.parent is not None, "the root is never cut or evicted"
    return run.parent


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
