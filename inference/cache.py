"""The prefix cache of an engine: which block holds what, who uses it, and what went.

Blocks are numbers from 0 to ``total_blocks - 1``; what a number stands for (KV memory, or nothing
in the toy engine) is the engine's business. Each block is in exactly one place: on the free list,
private to one lease, or in one namespace's tree. Rules:

1. A request takes a :class:`Lease` on the blocks that it needs at most; it gets memory for them as
   it grows, and growing within the promise never fails.
2. Computed full blocks are committed to the tree and may be shared from then on. Where the tree has
   the same block already, the lease takes that one and gives its own back.
3. Blocks are evicted only when memory is needed, least recently used leaves first, across all
   namespaces; namespaces never share a block.
4. Every change of the tree is an event, in order. When nobody drains them they are dropped, and
   the next drain gives ``Cleared`` and the whole content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.errors import EngineOverloaded
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.radix import LeafQueue, RadixTree, Run
from inference.request import Namespace

EVENT_BLOCKS_MIN = 4096
"""Blocks that events may name while nobody drains them, at least; see ``PrefixCache``."""


class CacheFull(EngineOverloaded):
    """Running requests hold too many blocks; wait until one has ended."""


@dataclass(slots=True, eq=False)
class Lease:
    """The blocks of one running request.

    ``block_ids`` is its block table: ``cached_blocks`` shared ones that were found, then its own.
    The first ``committed_blocks`` of them are in the tree. ``promised`` is how many more it may
    have.
    """

    namespace: Namespace
    cached_blocks: int
    committed_blocks: int
    block_ids: list[int]
    promised: int
    run: Run = field(repr=False)
    released: bool = False


class PrefixCache:
    """Blocks in use, blocks kept for reuse, and free ones.

    Args:
        total_blocks: How many blocks there are, at least 1.
        event_blocks_max: How many blocks undrained events may name before they are dropped. The
            default is twice the number of blocks: past that, the content is shorter to tell.
    """

    def __init__(self, total_blocks: int, *, event_blocks_max: int | None = None) -> None:
        assert total_blocks > 0
        self.total_blocks = total_blocks
        default = max(EVENT_BLOCKS_MIN, 2 * total_blocks)
        self._event_blocks_max = default if event_blocks_max is None else event_blocks_max
        self._events: list[CacheEvent] = []
        self._event_blocks = 0
        self._events_lost = False
        self._forget()

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def available_blocks(self) -> int:
        """Blocks that a new request could still be promised."""
        return len(self._free) + self._leaves.unlocked_blocks - self._promised

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        """How many leading blocks are cached; changes nothing."""
        tree = self._trees.get(namespace)
        return 0 if tree is None else tree.match(hashes).blocks

    def acquire(
        self,
        namespace: Namespace,
        hashes: Sequence[BlockHash],
        needed_blocks: int,
        *,
        at_once: int | None = None,
    ) -> Lease:
        """Locks the cached prefix of a request and promises it the rest.

        Args:
            namespace: Whose blocks.
            hashes: Names of the leading blocks that may come from the cache; see
                :func:`inference.blocks.reusable_blocks`.
            needed_blocks: Length of the block table at most, those in ``hashes`` included.
            at_once: Length of the block table now; the default is all of it.

        Raises:
            CacheFull: When running requests hold too much; nothing has changed then.
        """
        assert len(hashes) <= needed_blocks
        tree = self._tree(namespace)
        match = tree.match(hashes)
        promised = needed_blocks - match.blocks
        if promised + tree.unlocked_in(match) > self.available_blocks:
            raise CacheFull("running requests hold too much of the cache")
        run = tree.lock(match)
        lease = Lease(namespace, match.blocks, match.blocks, _path_blocks(run), promised, run)
        self._promised += promised
        self.grow(lease, needed_blocks if at_once is None else at_once)
        return lease

    def grow(self, lease: Lease, blocks: int) -> None:
        """Makes the block table at least ``blocks`` long, evicting what nobody uses."""
        count = blocks - len(lease.block_ids)
        if count <= 0:
            return
        assert not lease.released
        assert count <= lease.promised
        if count > len(self._free):
            self._evict(count - len(self._free))
        lease.block_ids.extend(reversed(self._free[-count:]))
        del self._free[-count:]
        lease.promised -= count
        self._promised -= count

    def commit(self, lease: Lease, hashes: Sequence[BlockHash]) -> None:
        """Makes the next blocks of a lease reusable.

        Args:
            lease: Its ``block_ids`` may change: a block that the tree already has is taken from
                there.
            hashes: Names of the computed full blocks that follow those committed before.
        """
        assert not lease.released
        assert lease.committed_blocks + len(hashes) <= len(lease.block_ids)
        tree = self._tree(lease.namespace)
        done = 0
        while (shared := tree.descend(lease.run, hashes, done)) is not None:
            lease.run = shared
            self._exchange(lease, shared.block_ids)
            done += len(shared.hashes)
        if done == len(hashes):
            return
        first, end = lease.committed_blocks, lease.committed_blocks + len(hashes) - done
        parent = lease.run.hashes[-1] if lease.run.hashes else None
        fresh = tuple(hashes[done:])
        lease.run = tree.append(lease.run, fresh, lease.block_ids[first:end])
        lease.committed_blocks = end
        self._record(
            BlocksStored(namespace=lease.namespace, parent=parent, depth=first, blocks=fresh),
            len(fresh),
        )

    def release(self, lease: Lease) -> None:
        """Ends a lease: committed blocks stay until they are evicted, the others are free."""
        assert not lease.released
        lease.released = True
        self._free.extend(reversed(lease.block_ids[lease.committed_blocks :]))
        self._promised -= lease.promised
        self._tree(lease.namespace).unlock(lease.run)

    def clear(self) -> None:
        """Forgets everything; leases taken before are void and must not be used any more."""
        self._forget()
        self._events = [Cleared()]
        self._event_blocks = 0
        self._events_lost = False

    def drain_events(self) -> tuple[CacheEvent, ...]:
        """What was stored and evicted since the last call, in order."""
        events: list[CacheEvent] = self._events
        if self._events_lost:
            events = [Cleared(), *self.contents()]
        self._events = []
        self._event_blocks = 0
        self._events_lost = False
        return tuple(events)

    def contents(self) -> list[BlocksStored]:
        """All that is cached, as events that would build it, parents first."""
        stored = []
        for namespace in sorted(self._trees):
            for depth, run in self._trees[namespace].runs():
                parent = run.parent.hashes[-1] if run.parent and run.parent.hashes else None
                stored.append(
                    BlocksStored(
                        namespace=namespace, parent=parent, depth=depth, blocks=tuple(run.hashes)
                    )
                )
        return stored

    def _forget(self) -> None:
        # The lowest numbers are taken first, and in order: neighbours are cheaper to read.
        self._free = list(range(self.total_blocks - 1, -1, -1))
        self._leaves = LeafQueue()
        self._trees: dict[Namespace, RadixTree] = {}
        self._promised = 0

    def _tree(self, namespace: Namespace) -> RadixTree:
        tree = self._trees.get(namespace)
        if tree is None:
            tree = self._trees[namespace] = RadixTree(namespace, self._leaves)
        return tree

    def _exchange(self, lease: Lease, shared: Sequence[int]) -> None:
        first, end = lease.committed_blocks, lease.committed_blocks + len(shared)
        self._free.extend(reversed(lease.block_ids[first:end]))
        lease.block_ids[first:end] = shared
        lease.committed_blocks = end

    def _evict(self, blocks: int) -> None:
        for gone in self._leaves.evict(blocks):
            self._free.extend(gone.block_ids)
            self._record(
                BlocksEvicted(namespace=gone.namespace, blocks=gone.hashes), len(gone.hashes)
            )

    def _record(self, event: CacheEvent, blocks: int) -> None:
        if self._events_lost:
            return
        self._event_blocks += blocks
        self._events.append(event)
        if self._event_blocks > self._event_blocks_max:
            self._events = []
            self._events_lost = True


def _path_blocks(run: Run) -> list[int]:
    """The block numbers from the first one to the end of a run."""
    parts = []
    above: Run | None = run
    while above is not None:
        parts.append(above.block_ids)
        above = above.parent
    return [block for part in reversed(parts) for block in part]
