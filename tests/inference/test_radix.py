from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from inference.events import BlockHash
from inference.radix import Evicted, LeafQueue, RadixTree, Run
from inference.request import Namespace

paths = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def names_of(path: Sequence[int]) -> list[BlockHash]:
    return [
        BlockHash(hashlib.blake2b(bytes(path[: length + 1]), digest_size=16).digest())
        for length in range(len(path))
    ]


def store(tree: RadixTree, path: Sequence[int]) -> Run:
    """Stores a path's blocks, numbered by their name, and leaves it locked."""
    names = names_of(path)
    match = tree.match(names)
    run = tree.lock(match)
    fresh = names[match.blocks :]
    return tree.append(run, fresh, [name[0] for name in fresh]) if fresh else run


def evict(leaves: LeafQueue, tree: RadixTree, blocks: int) -> list[Evicted]:
    return list(leaves.evict(blocks, [tree], lambda each: each.unlocked_blocks))


def shape(tree: RadixTree) -> list[tuple[int, list[BlockHash], int]]:
    return [(depth, list(run.hashes), run.locks) for depth, run in tree.runs()]


@given(st.lists(paths, max_size=8), paths)
def test_match_finds_the_longest_stored_prefix_and_changes_nothing(
    stored: list[list[int]], asked: list[int]
) -> None:
    tree = RadixTree(Namespace("a"), LeafQueue())
    for path in stored:
        tree.unlock(store(tree, path))
    known = {name for path in stored for name in names_of(path)}
    before = shape(tree)
    match = tree.match(names_of(asked))
    hits = 0
    while hits < len(asked) and names_of(asked)[hits] in known:
        hits += 1
    assert match.blocks == hits
    assert shape(tree) == before
    assert {name for _, names, _ in before for name in names} == known


@given(st.lists(paths, max_size=8))
def test_runs_are_as_long_as_branches_allow(stored: list[list[int]]) -> None:
    tree = RadixTree(Namespace("a"), LeafQueue())
    for path in stored:
        tree.unlock(store(tree, path))
    ends = {names_of(path)[-1] for path in stored}
    for _, run in tree.runs():
        assert len(run.children) > 1 or run.hashes[-1] in ends


@given(st.lists(paths, min_size=1, max_size=6), paths, st.integers(0, 40))
def test_a_locked_path_outlives_any_eviction(
    stored: list[list[int]], kept: list[int], blocks: int
) -> None:
    leaves = LeafQueue()
    tree = RadixTree(Namespace("a"), leaves)
    for path in stored:
        tree.unlock(store(tree, path))
    lock = store(tree, kept)
    count = min(blocks, leaves.unlocked_blocks)
    gone = [name for evicted in evict(leaves, tree, count) for name in evicted.hashes]
    assert len(gone) == count
    assert not set(gone) & set(names_of(kept))
    assert tree.match(names_of(kept)).blocks == len(kept)
    remaining = leaves.unlocked_blocks
    assert sum(len(evicted.hashes) for evicted in evict(leaves, tree, remaining)) == remaining
    assert [name for _, names, _ in shape(tree) for name in names] == names_of(kept)
    tree.unlock(lock)
    assert leaves.unlocked_blocks == len(kept)


def test_a_lock_stays_with_its_blocks_when_its_run_is_cut() -> None:
    leaves = LeafQueue()
    tree = RadixTree(Namespace("a"), leaves)
    whole = store(tree, [1, 1, 1, 1])
    other = store(tree, [1, 1, 2])
    assert [(len(names), locks) for _, names, locks in shape(tree)] == [(2, 2), (2, 1), (1, 1)]
    tree.unlock(other)
    assert leaves.unlocked_blocks == 1
    tree.unlock(whole)
    assert leaves.unlocked_blocks == 5


def test_a_decoding_request_extends_its_run_in_place() -> None:
    tree = RadixTree(Namespace("a"), LeafQueue())
    run = store(tree, [1, 2])
    names = names_of([1, 2, 3, 4])
    for at in (2, 3):
        run = tree.append(run, names[at : at + 1], [at])
    assert [names for _, names, _ in shape(tree)] == [names]


def test_the_queue_of_leaves_holds_each_run_once() -> None:
    leaves = LeafQueue()
    tree = RadixTree(Namespace("a"), leaves)
    tree.unlock(store(tree, [1]))
    tree.unlock(store(tree, [2]))
    for _ in range(1000):
        tree.unlock(store(tree, [1]))
    assert len(tree.leaves) == 2
    assert [name for gone in evict(leaves, tree, 1) for name in gone.hashes] == names_of([2])


def test_equal_names_of_other_tokens_are_no_hit() -> None:
    tree = RadixTree(Namespace("a"), LeafQueue())
    names = names_of([1, 2, 3])
    root = tree.lock(tree.match(names))
    run = tree.append(root, names, [0, 1, 2], [b"one", b"two", b"three"])
    assert tree.match(names, [b"one", b"two", b"three"]).blocks == 3
    assert tree.match(names, [b"one", b"TWO", b"three"]).blocks == 1
    assert tree.match(names, [b"ONE", b"two", b"three"]).blocks == 0
    assert tree.descend(root, names, 0, [b"ONE", b"two", b"three"]) is None
    tree.lock(tree.match([]))
    below = tree.descend(root, names, 0, [b"one", b"TWO", b"three"])
    assert below is not None
    assert (below.hashes, below.tokens) == (names[:1], [b"one"])
    tree.unlock(below)
    tree.unlock(run)
    tree.check_integrity({})
