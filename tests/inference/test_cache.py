"""The prefix cache against a model of sets: nothing leaked, doubled, or evicted in use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.cache import CacheFull, Lease, PrefixCache
from inference.events import BlockHash, BlocksEvicted, BlocksStored, Cleared
from inference.partitions import Partitions
from inference.request import Namespace
from tests.inference.replay import Replay

Path = tuple[int, ...]
Key = tuple[Namespace, Path]

NAMESPACES = (Namespace("a"), Namespace("b"))
TOTAL = 12


def name_of(path: Path) -> BlockHash:
    return BlockHash(hashlib.blake2b(bytes(path), digest_size=16).digest())


def names_of(path: Path) -> list[BlockHash]:
    return [name_of(path[: length + 1]) for length in range(len(path))]


def contents(cache: PrefixCache) -> list[tuple[BlocksStored, list[int]]]:
    """What is cached, with the numbers of the blocks."""
    block_ids = [
        run.block_ids
        for namespace in sorted(cache._tenants)
        for _, run in cache._tenants[namespace].tree.runs()
    ]
    return list(zip(cache.contents(), block_ids, strict=True))


@dataclass(eq=False)
class Held:
    """What the model knows of a lease."""

    lease: Lease
    namespace: Namespace
    path: Path
    needed: int
    committed: int
    table: int
    seen: list[int] = field(default_factory=list)

    @property
    def locked(self) -> set[Key]:
        return {(self.namespace, self.path[:length]) for length in range(1, self.committed + 1)}


class CacheModel(RuleBasedStateMachine):
    """Every rule predicts exactly what the cache does, evictions and their order included."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(TOTAL, event_blocks_max=20)
        self.stored: dict[Key, int] = {}
        self.leases: list[Held] = []
        self.now = 0
        self.replay = Replay()

    @property
    def locked(self) -> set[Key]:
        return {key for held in self.leases for key in held.locked}

    @property
    def free(self) -> int:
        private = sum(held.table - held.committed for held in self.leases)
        return TOTAL - len(self.stored) - private

    @property
    def available(self) -> int:
        promised = sum(held.needed - held.table for held in self.leases)
        return self.free + len(self.stored.keys() - self.locked) - promised

    def make_room(self, blocks: int) -> None:
        while self.free < blocks:
            parents = {(namespace, path[:-1]) for namespace, path in self.stored}
            leaves = self.stored.keys() - self.locked - parents
            del self.stored[min(leaves, key=lambda key: self.stored[key])]

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        path=st.lists(st.integers(0, 1), min_size=1, max_size=8).map(tuple),
        known=st.integers(0, 8),
        at_once=st.none() | st.integers(0, 8),
    )
    def acquire(self, namespace: Namespace, path: Path, known: int, at_once: int | None) -> None:
        known = min(known, len(path))
        hits = 0
        while hits < known and (namespace, path[: hits + 1]) in self.stored:
            hits += 1
        hit_keys = {(namespace, path[:length]) for length in range(1, hits + 1)}
        fits = len(path) - hits + len(hit_keys - self.locked) <= self.available
        if at_once is not None:
            at_once = min(at_once, len(path))
        try:
            lease = self.cache.acquire(
                namespace, names_of(path)[:known], len(path), at_once=at_once
            )
        except CacheFull:
            assert not fits
            return
        assert fits
        assert lease.cached_blocks == hits
        held = Held(lease, namespace, path, len(path), hits, hits)
        self.leases.append(held)
        self.grown(held, len(path) if at_once is None else at_once)

    def grown(self, held: Held, blocks: int) -> None:
        if blocks > held.table:
            self.make_room(blocks - held.table)
            held.table = blocks
        assert len(held.lease.block_ids) == held.table

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), blocks=st.integers(0, 10))
    def grow(self, data: st.DataObject, blocks: int) -> None:
        held = data.draw(st.sampled_from(self.leases))
        more = max(0, blocks - held.needed)
        if more > self.available:
            with pytest.raises(CacheFull):
                self.cache.grow(held.lease, blocks)
            return
        self.cache.grow(held.lease, blocks)
        held.needed = max(held.needed, blocks)
        self.grown(held, blocks)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), blocks=st.integers(0, 8))
    def commit(self, data: st.DataObject, blocks: int) -> None:
        held = data.draw(st.sampled_from(self.leases))
        end = min(held.committed + blocks, held.table, len(held.path))
        self.cache.commit(held.lease, names_of(held.path)[held.committed : end])
        held.committed = end
        for key in held.locked:
            self.stored.setdefault(key, 0)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.leases))
        end = held.committed
        while end < held.table and (held.namespace, held.path[: end + 1]) in self.stored:
            if end + 1 > len(held.path):
                break
            end += 1
        names = names_of(held.path)[held.committed : min(held.table, len(held.path))]
        assert self.cache.adopt(held.lease, names) == end - held.committed
        held.committed = end

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def release(self, data: st.DataObject, *, keep: bool) -> None:
        held = data.draw(st.sampled_from(self.leases))
        self.cache.release(held.lease, keep=keep)
        self.leases.remove(held)
        self.now += 1
        for key in held.locked:
            self.stored[key] = self.now
        for key in sorted(held.locked, key=lambda key: -len(key[1])) if not keep else ():
            followed = any(path[:-1] == key[1] and space == key[0] for space, path in self.stored)
            if not followed and key not in self.locked:
                del self.stored[key]

    @rule()
    def evict_all(self) -> None:
        assert self.cache.evict_all() == len(self.stored.keys() - self.locked)
        self.stored = {key: self.stored[key] for key in self.stored if key in self.locked}

    @rule()
    def drain(self) -> None:
        self.replay.fold(self.cache.drain_events())
        depths = {key: depth for key, (depth, _) in self.replay.held.items()}
        assert depths == {(space, name_of(path)): len(path) for space, path in self.stored}

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.stored.clear()
        self.leases.clear()

    @rule(namespace=st.sampled_from(NAMESPACES), path=st.lists(st.integers(0, 1), max_size=8))
    def match(self, namespace: Namespace, path: list[int]) -> None:
        hits = 0
        while hits < len(path) and (namespace, tuple(path[: hits + 1])) in self.stored:
            hits += 1
        assert self.cache.match(namespace, names_of(tuple(path))) == hits

    @invariant()
    def counts_agree(self) -> None:
        assert self.cache.free_blocks == self.free
        assert self.cache.available_blocks == self.available

    @invariant()
    def every_block_is_in_exactly_one_place(self) -> None:
        self.cache.check_integrity()
        places = {
            (event.namespace, name): block
            for event, block_ids in contents(self.cache)
            for name, block in zip(event.blocks, block_ids, strict=True)
        }
        for held in self.leases:
            assert held.lease.committed_blocks == held.committed
            table = [places[held.namespace, name] for name in names_of(held.path)[: held.committed]]
            assert table == held.lease.block_ids[: held.committed]

    @invariant()
    def cached_is_what_the_model_says(self) -> None:
        cached = [
            (event.namespace, block) for event in self.cache.contents() for block in event.blocks
        ]
        assert sorted(cached) == sorted((space, name_of(path)) for space, path in self.stored)


CacheModel.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestCacheAgainstTheModel = CacheModel.TestCase


def filled(cache: PrefixCache, path: Path, namespace: Namespace = NAMESPACES[0]) -> Lease:
    lease = cache.acquire(namespace, names_of(path), len(path))
    cache.commit(lease, names_of(path)[lease.committed_blocks :])
    return lease


def test_blocks_in_use_are_never_evicted() -> None:
    cache = PrefixCache(4)
    lease = filled(cache, (1, 2, 3))
    with pytest.raises(CacheFull):
        cache.acquire(NAMESPACES[0], [], 2)
    assert cache.match(NAMESPACES[0], names_of((1, 2, 3))) == 3
    cache.release(lease)
    cache.release(cache.acquire(NAMESPACES[0], [], 2))
    assert cache.match(NAMESPACES[0], names_of((1, 2, 3))) == 2


def test_a_refused_request_changes_nothing() -> None:
    cache = PrefixCache(4)
    cache.release(filled(cache, (1, 2)))
    running = filled(cache, (5, 6))
    cache.drain_events()
    with pytest.raises(CacheFull):
        cache.acquire(NAMESPACES[0], names_of((1, 2)), 3)
    assert cache.drain_events() == ()
    assert cache.available_blocks == 2
    cache.release(running)
    assert cache.available_blocks == 4


def test_growing_within_the_promise_never_fails() -> None:
    cache = PrefixCache(8)
    cache.release(filled(cache, (1, 2, 3, 4, 5, 6)))
    one = cache.acquire(NAMESPACES[0], names_of((1, 2)), 5, at_once=2)
    other = cache.acquire(NAMESPACES[1], [], 3, at_once=0)
    assert cache.match(NAMESPACES[0], names_of((1, 2, 3, 4, 5, 6))) == 6
    with pytest.raises(CacheFull):
        cache.acquire(NAMESPACES[0], [], 1)
    cache.grow(one, 5)
    cache.grow(other, 3)
    assert cache.free_blocks == 0
    assert cache.match(NAMESPACES[0], names_of((1, 2, 3))) == 2


def test_two_requests_that_computed_the_same_blocks_keep_them_once() -> None:
    cache = PrefixCache(8)
    path = (1, 2, 3)
    one = cache.acquire(NAMESPACES[0], names_of(path), 3)
    other = cache.acquire(NAMESPACES[0], names_of(path), 3)
    assert not set(one.block_ids) & set(other.block_ids)
    cache.commit(one, names_of(path))
    cache.commit(other, names_of(path))
    assert other.block_ids == one.block_ids
    assert cache.free_blocks == 5
    cache.release(one)
    with pytest.raises(CacheFull):
        cache.acquire(NAMESPACES[0], [], 6)
    cache.release(other)
    assert cache.available_blocks == 8


def test_the_least_recently_used_leaf_goes_first_across_tenants() -> None:
    cache = PrefixCache(6)
    cache.release(filled(cache, (1, 2)))
    cache.release(filled(cache, (3, 4), NAMESPACES[1]))
    cache.release(filled(cache, (1, 5)))
    cache.drain_events()
    cache.release(cache.acquire(NAMESPACES[0], [], 4))
    evicted = [event for event in cache.drain_events() if isinstance(event, BlocksEvicted)]
    assert [(event.namespace, event.blocks) for event in evicted] == [
        (NAMESPACES[0], (name_of((1, 2)),)),
        (NAMESPACES[1], (name_of((3, 4)), name_of((3,)))),
    ]


def test_tenants_never_hit_each_others_blocks() -> None:
    cache = PrefixCache(8)
    cache.release(filled(cache, (1, 2), NAMESPACES[0]))
    assert cache.match(NAMESPACES[1], names_of((1, 2))) == 0
    lease = cache.acquire(NAMESPACES[1], names_of((1, 2)), 2)
    assert lease.cached_blocks == 0
    cache.commit(lease, names_of((1, 2)))
    first = cache.acquire(NAMESPACES[0], names_of((1, 2)), 2)
    assert not set(first.block_ids) & set(lease.block_ids)


def test_events_nobody_drains_collapse_into_the_content() -> None:
    cache = PrefixCache(4, event_blocks_max=8)
    for number in range(20):
        cache.release(filled(cache, (number, number)))
    events = cache.drain_events()
    assert events[0] == Cleared()
    assert len(events) == 3
    replay = Replay()
    replay.fold(events)
    assert sorted(depth for depth, _ in replay.held.values()) == [1, 1, 2, 2]
    assert cache.drain_events() == ()
    cache.release(filled(cache, (30,)))
    assert [type(event) for event in cache.drain_events()] == [BlocksEvicted, BlocksStored]


def test_neighbouring_blocks_are_given_to_one_request() -> None:
    cache = PrefixCache(16)
    leases = [cache.acquire(NAMESPACES[0], [], 4) for _ in range(3)]
    assert [lease.block_ids for lease in leases] == [[*range(4)], [*range(4, 8)], [*range(8, 12)]]
    cache.release(leases[1])
    assert cache.acquire(NAMESPACES[0], [], 4).block_ids == [*range(4, 8)]


def test_what_a_namespace_has_cached_can_be_dropped_and_others_keep_theirs() -> None:
    cache = PrefixCache(8)
    cache.release(filled(cache, (1, 2), NAMESPACES[0]))
    cache.release(filled(cache, (1, 2), NAMESPACES[1]))
    replay = Replay()
    replay.fold(cache.drain_events())
    cache.drop(NAMESPACES[0])
    cache.check_integrity()
    assert cache.match(NAMESPACES[0], names_of((1, 2))) == 0
    assert cache.match(NAMESPACES[1], names_of((1, 2))) == 2
    assert (cache.free_blocks, cache.held_by(NAMESPACES[0])) == (6, 0)
    replay.fold(cache.drain_events())
    assert {namespace for namespace, _ in replay.held} == {NAMESPACES[1]}


def test_dropped_blocks_in_use_go_when_their_request_ends_and_nothing_is_added() -> None:
    cache = PrefixCache(8)
    lease = cache.acquire(NAMESPACES[0], [], 4)
    cache.commit(lease, names_of((1, 2)))
    cache.drop(NAMESPACES[0])
    assert cache.match(NAMESPACES[0], names_of((1, 2))) == 2
    cache.commit(lease, [name_of((1, 2, 3))])
    assert cache.match(NAMESPACES[0], names_of((1, 2, 3))) == 2
    cache.check_integrity()
    fresh = cache.acquire(NAMESPACES[0], [], 1)
    cache.commit(fresh, names_of((9,)))
    cache.release(lease)
    cache.check_integrity()
    assert cache.match(NAMESPACES[0], names_of((1, 2))) == 0
    cache.release(fresh)
    assert cache.match(NAMESPACES[0], names_of((9,))) == 1
    cache.drop(NAMESPACES[1])
    assert cache.match(NAMESPACES[0], names_of((9,))) == 1


def test_of_fixed_parts_one_tenants_is_dropped_and_an_unknown_ones_is_no_error() -> None:
    parts = Partitions(8, NAMESPACES)
    for namespace in NAMESPACES:
        parts.part(namespace).release(filled(parts.part(namespace), (1, 2), namespace))
    parts.drop(NAMESPACES[0])
    parts.drop(Namespace("nobody"))
    parts.check_integrity()
    held = [parts.part(each).match(each, names_of((1, 2))) for each in NAMESPACES]
    assert held == [0, 2]
