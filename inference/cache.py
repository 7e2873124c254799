"""The prefix cache of an engine: which block holds what, who uses it, and what went.

Blocks are ``total_blocks`` numbers from ``first_block`` on; what a number stands for (KV memory, or
nothing in the toy engine) is the engine's business. Each block is in exactly one place: free,
private to one lease, or in one namespace's tree. Rules:

1. A request takes a :class:`Lease`, which locks what it found cached. It is promised more blocks:
   growing within the promise never fails, beyond it raises ``CacheFull`` when there are none.
2. Computed full blocks are committed to the tree and may be shared from then on. Where the tree has
   the same block already, the lease takes that one and gives its own back.
3. A part of the blocks is reserved, in equal shares, for the namespaces that hold any. Above its
   share a namespace borrows: it takes no block from one that holds its share or less, unless told
   so (``beyond``), and what it has cached above is the first to go.
4. Blocks are evicted only when memory is needed, least recently used leaves first: among namespaces
   above their share, then the asking one's own, then all. Namespaces never share a block.
5. Every change of the tree is an event, in order. When nobody drains them they are dropped, and
   the next drain gives ``Cleared`` and the whole content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.errors import EngineOverloaded
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.free_list import FreeList
from inference.radix import BlockTokens, Evicted, LeafQueue, RadixTree, Run
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
    have. ``sealed`` says that nothing more of this request can be kept, as where the tree has
    other tokens under the next block's name; ``void`` that what it has committed goes with it.
    """

    namespace: Namespace
    cached_blocks: int
    committed_blocks: int
    block_ids: list[int]
    promised: int
    run: Run = field(repr=False)
    sealed: bool = False
    void: bool = False
    released: bool = False


@dataclass(slots=True, eq=False)
class _Tenant:
    """What one namespace holds: its tree, and blocks that are its leases' own."""

    tree: RadixTree
    private_blocks: int = 0
    leases: list[Lease] = field(default_factory=list)

    @property
    def held_blocks(self) -> int:
        return self.tree.blocks + self.private_blocks


class PrefixCache:
    """Blocks in use, blocks kept for reuse, and free ones.

    Args:
        total_blocks: How many blocks there are, at least 1.
        reserved_fraction: The part of them, 0 to 1, that is reserved in equal shares. More keeps a
            quiet tenant's cache for longer, less lets a busy one use what others leave idle.
        event_blocks_max: How many blocks undrained events may name before they are dropped. The
            default is twice the number of blocks: past that, the content is shorter to tell.
        first_block: The number of its first block, where several caches share one memory.
    """

    def __init__(
        self,
        total_blocks: int,
        *,
        reserved_fraction: float = 0.0,
        event_blocks_max: int | None = None,
        first_block: int = 0,
    ) -> None:
        assert total_blocks > 0
        assert 0 <= reserved_fraction <= 1
        self.total_blocks = total_blocks
        self.first_block = first_block
        self._reserved_blocks = int(total_blocks * reserved_fraction)
        default = max(EVENT_BLOCKS_MIN, 2 * total_blocks)
        self._event_blocks_max = default if event_blocks_max is None else event_blocks_max
        self._events: list[CacheEvent] = []
        self._event_blocks = 0
        self._events_lost = False
        self._forget()

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return self._free.count

    @property
    def available_blocks(self) -> int:
        """Blocks that a new request could still be promised, if all shares were ignored."""
        return self._free.count + self._leaves.unlocked_blocks - self._promised

    def available_to(self, namespace: Namespace) -> int:
        """Blocks that this namespace could still be promised while others keep their shares."""
        asking = self._tenants.get(namespace)
        share = self.share_of(namespace)
        available = self._free.count - self._promised
        for tenant in self._tenants.values():
            unlocked = tenant.tree.unlocked_blocks
            spare = unlocked if tenant is asking else tenant.held_blocks - share
            available += min(unlocked, max(0, spare))
        return available

    def share_of(self, namespace: Namespace) -> int:
        """How many blocks are reserved for a namespace; the same for each."""
        return self._reserved_blocks // (len(self._tenants) + (namespace not in self._tenants))

    def held_by(self, namespace: Namespace) -> int:
        """How many blocks a namespace has, in use or cached."""
        tenant = self._tenants.get(namespace)
        return 0 if tenant is None else tenant.held_blocks

    def match(
        self,
        namespace: Namespace,
        hashes: Sequence[BlockHash],
        tokens: Sequence[BlockTokens] = (),
    ) -> int:
        """How many leading blocks are cached; changes nothing."""
        tenant = self._tenants.get(namespace)
        return 0 if tenant is None else tenant.tree.match(hashes, tokens).blocks

    def acquire(
        self,
        namespace: Namespace,
        hashes: Sequence[BlockHash],
        needed_blocks: int,
        *,
        tokens: Sequence[BlockTokens] = (),
        at_once: int | None = None,
        beyond: bool = False,
    ) -> Lease:
        """Locks the cached prefix of a request and promises it the rest.

        Args:
            namespace: Whose blocks.
            hashes: Names of the leading blocks that may come from the cache; see
                :func:`inference.blocks.reusable_blocks`.
            needed_blocks: Length of the block table that is promised, those in ``hashes`` included.
            tokens: The tokens of the blocks in ``hashes``, which are compared as well. An engine
                whose blocks hold memory always gives them.
            at_once: Length of the block table now; the default is all of it.
            beyond: Whether other namespaces' shares may be used.

        Raises:
            CacheFull: When running requests hold too much; nothing has changed then.
        """
        assert len(hashes) <= needed_blocks
        tenant = self._tenants.get(namespace) or _Tenant(RadixTree(namespace, self._leaves))
        match = tenant.tree.match(hashes, tokens)
        promised = needed_blocks - match.blocks
        self._check(namespace, promised + tenant.tree.unlocked_in(match), beyond=beyond)
        self._tenants[namespace] = tenant
        run = tenant.tree.lock(match)
        lease = Lease(namespace, match.blocks, match.blocks, _path_blocks(run), promised, run)
        tenant.leases.append(lease)
        self._promised += promised
        self.grow(lease, needed_blocks if at_once is None else at_once)
        return lease

    def grow(self, lease: Lease, blocks: int, *, beyond: bool = False) -> None:
        """Makes the block table at least ``blocks`` long, evicting what nobody uses.

        Raises:
            CacheFull: When there are not so many beyond the promise; nothing has changed then.
        """
        count = blocks - len(lease.block_ids)
        if count <= 0:
            return
        assert not lease.released
        more = count - lease.promised
        if more > 0:
            self._check(lease.namespace, more, beyond=beyond)
        tenant = self._tenants[lease.namespace]
        if count > self._free.count:
            self._evict(count - self._free.count, tenant)
        lease.block_ids.extend(self._free.take(count, after=lease.block_ids))
        tenant.private_blocks += count
        kept = min(count, lease.promised)
        lease.promised -= kept
        self._promised -= kept

    def adopt(
        self,
        lease: Lease,
        hashes: Sequence[BlockHash],
        tokens: Sequence[BlockTokens] = (),
    ) -> int:
        """Takes over what others have committed since, in place of blocks not computed yet.

        Args:
            lease: All that it has computed is committed.
            hashes: Names of the blocks that follow.
            tokens: Their tokens.

        Returns:
            How many blocks need not be computed any more.
        """
        assert not lease.released
        tree = self._tenants[lease.namespace].tree
        done = 0
        while (shared := tree.descend(lease.run, hashes, done, tokens)) is not None:
            lease.run = shared
            self._exchange(lease, shared.block_ids)
            done += len(shared.hashes)
        return done

    def commit(
        self,
        lease: Lease,
        hashes: Sequence[BlockHash],
        tokens: Sequence[BlockTokens] = (),
    ) -> None:
        """Makes the next blocks of a lease reusable.

        Args:
            lease: Its ``block_ids`` may change: a block that the tree already has is taken from
                there.
            hashes: Names of the computed full blocks that follow those committed before.
            tokens: Their tokens.
        """
        assert lease.committed_blocks + len(hashes) <= len(lease.block_ids)
        if lease.sealed:
            return
        done = self.adopt(lease, hashes, tokens)
        if done == len(hashes):
            return
        if hashes[done] in lease.run.children:
            lease.sealed = True
            return
        tenant = self._tenants[lease.namespace]
        first, end = lease.committed_blocks, lease.committed_blocks + len(hashes) - done
        parent = lease.run.hashes[-1] if lease.run.hashes else None
        fresh = tuple(hashes[done:])
        lease.run = tenant.tree.append(
            lease.run, fresh, lease.block_ids[first:end], tokens[done:] if tokens else ()
        )
        lease.committed_blocks = end
        tenant.private_blocks -= len(fresh)
        self._record(
            BlocksStored(namespace=lease.namespace, parent=parent, depth=first, blocks=fresh),
            len(fresh),
        )

    def release(self, lease: Lease, *, keep: bool = True) -> None:
        """Ends a lease: committed blocks stay until they are evicted, the others are free.

        Args:
            lease: Void from now on.
            keep: False drops what it committed or found as well, where nobody else uses it: a
                request that failed may have left wrong numbers there.
        """
        assert not lease.released
        lease.released = True
        tenant = self._tenants[lease.namespace]
        own = _own(lease)
        self._free.give(own)
        tenant.private_blocks -= len(own)
        tenant.leases.remove(lease)
        self._promised -= lease.promised
        tenant.tree.unlock(lease.run)
        run = lease.run
        while (lease.void or not keep) and run.evictable and run.parent is not None:
            parent = run.parent
            self._drop(self._leaves.take(run, len(run.hashes)))
            run = parent
        self._leave(lease.namespace)

    def evict_all(self) -> int:
        """Drops whatever nobody uses; how many blocks went."""
        free = self._free.count
        self._evict(self._leaves.unlocked_blocks)
        return self._free.count - free

    def drop(self, namespace: Namespace) -> None:
        """Drops what a namespace has cached; what running requests use goes when they end."""
        tenant = self._tenants.get(namespace)
        if tenant is None:
            return
        for lease in tenant.leases:
            lease.sealed = lease.void = True
        tree = tenant.tree
        for gone in self._leaves.evict(
            tree.unlocked_blocks, [tree], lambda _: tree.unlocked_blocks
        ):
            self._drop(gone)
        self._leave(namespace)

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
        for namespace in sorted(self._tenants):
            for depth, run in self._tenants[namespace].tree.runs():
                parent = run.parent.hashes[-1] if run.parent and run.parent.hashes else None
                stored.append(
                    BlocksStored(
                        namespace=namespace, parent=parent, depth=depth, blocks=tuple(run.hashes)
                    )
                )
        return stored

    def check_integrity(self) -> None:
        """Asserts that every block is in exactly one place and that all counts are right.

        Walks everything, so it is for tests and for finding faults, not for every step.
        """
        places = self._free.blocks()
        assert len(places) == self._free.count
        locks: dict[int, int] = {}
        for tenant in self._tenants.values():
            own = [block for lease in tenant.leases for block in _own(lease)]
            assert len(own) == tenant.private_blocks
            places += own
            for lease in tenant.leases:
                assert not lease.released
                assert lease.block_ids[: lease.committed_blocks] == _path_blocks(lease.run)
                above: Run | None = lease.run
                while above is not None:
                    locks[id(above)] = locks.get(id(above), 0) + 1
                    above = above.parent
        for tenant in self._tenants.values():
            assert tenant.leases or tenant.tree.blocks
            places += tenant.tree.check_integrity(locks)
        end = self.first_block + self.total_blocks
        assert sorted(places) == list(range(self.first_block, end))
        trees = [tenant.tree for tenant in self._tenants.values()]
        assert self._leaves.unlocked_blocks == sum(tree.unlocked_blocks for tree in trees)
        assert self._promised == sum(
            lease.promised for tenant in self._tenants.values() for lease in tenant.leases
        )
        assert 0 <= self._promised <= self._free.count + self._leaves.unlocked_blocks

    def check_leases(self, leases: Sequence[Lease]) -> None:
        """Asserts that these are all leases that there are; for tests."""
        mine = [id(lease) for tenant in self._tenants.values() for lease in tenant.leases]
        assert sorted(mine) == sorted(id(lease) for lease in leases)

    def _forget(self) -> None:
        self._free = FreeList(self.total_blocks, first=self.first_block)
        self._leaves = LeafQueue()
        self._tenants: dict[Namespace, _Tenant] = {}
        self._promised = 0

    def _check(self, namespace: Namespace, blocks: int, *, beyond: bool) -> None:
        """Raises ``CacheFull`` where a namespace cannot be promised so many blocks more."""
        if blocks > (self.available_blocks if beyond else self.available_to(namespace)):
            raise CacheFull("running requests hold too much of the cache")

    def _leave(self, namespace: Namespace) -> None:
        """Forgets a namespace that holds nothing any more."""
        tenant = self._tenants[namespace]
        if not tenant.leases and not tenant.tree.blocks:
            del self._tenants[namespace]

    def _exchange(self, lease: Lease, shared: Sequence[int]) -> None:
        first, end = lease.committed_blocks, lease.committed_blocks + len(shared)
        own = lease.block_ids[first:end]
        self._free.give(own)
        self._tenants[lease.namespace].private_blocks -= len(own)
        lease.block_ids[first:end] = shared
        lease.committed_blocks = end

    def _evict(self, blocks: int, asking: _Tenant | None = None) -> None:
        """Frees so many blocks; there must be as many that nobody uses."""
        trees = [tenant.tree for tenant in self._tenants.values()]
        share = self._reserved_blocks // max(1, len(trees))
        goal = self._free.count + blocks
        for among, spare in (
            (trees, lambda tree: self.held_by(tree.namespace) - share),
            ([] if asking is None else [asking.tree], lambda tree: tree.unlocked_blocks),
            (trees, lambda tree: tree.unlocked_blocks),
        ):
            for gone in self._leaves.evict(goal - self._free.count, among, spare):
                self._drop(gone)
        assert self._free.count >= goal
        for tree in trees:
            self._leave(tree.namespace)

    def _drop(self, gone: Evicted) -> None:
        self._free.give(gone.block_ids)
        self._record(BlocksEvicted(namespace=gone.namespace, blocks=gone.hashes), len(gone.hashes))

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


def _own(lease: Lease) -> list[int]:
    return lease.block_ids[lease.committed_blocks :]
