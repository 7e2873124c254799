"""The picture of a cache against a plain model: a set of paths, closed under prefixes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from inference.events import BlockHash, BlocksEvicted, BlocksStored, Cleared
from inference.request import Namespace
from overlay.gossip.blocktree import BlockForest, BlockTree
from overlay.gossip.digest import Digest

Path = tuple[int, ...]

SPACE = Namespace("t")
STRIDE = 3
PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=10).map(tuple)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), PATHS),
        st.tuples(st.just("evict"), st.integers(0, 50)),
        st.tuples(st.just("again"), PATHS),
        st.tuples(st.just("clear"), st.none()),
        st.tuples(st.just("delta"), st.none()),
    ),
    max_size=40,
)


def name(path: Path) -> BlockHash:
    return BlockHash(hashlib.blake2b(bytes(path), digest_size=16).digest())


def prefixes(path: Path) -> list[Path]:
    return [path[: depth + 1] for depth in range(len(path))]


def chain(path: Path) -> list[BlockHash]:
    return [name(prefix) for prefix in prefixes(path)]


def stored(path: Path, depth: int) -> BlocksStored:
    """The event for the part of a path behind its first ``depth`` blocks."""
    return BlocksStored(
        namespace=SPACE,
        parent=name(path[:depth]) if depth else None,
        depth=depth,
        blocks=tuple(chain(path)[depth:]),
    )


def published(cached: set[Path]) -> set[BlockHash]:
    """Ends, branch points and strides, by definition."""

    def children(path: Path) -> int:
        return sum(len(other) == len(path) + 1 and other[:-1] == path for other in cached)

    return {name(path) for path in cached if children(path) != 1 or len(path) % STRIDE == 0}


@given(steps=STEPS, questions=st.lists(PATHS, max_size=5))
def test_tree_published_set_and_match_are_those_of_the_model(
    steps: list[tuple[str, object]], questions: list[Path]
) -> None:
    tree = BlockTree(Digest(), STRIDE)
    cached: set[Path] = set()
    replayed: set[BlockHash] = set()
    for action, detail in steps:
        if action in {"store", "again"}:
            assert isinstance(detail, tuple)
            known = sum(prefix in cached for prefix in prefixes(detail))
            if action == "again" or known < len(detail):
                # An engine tells of new blocks only; telling of known ones again changes nothing.
                tree.store(stored(detail, 0 if action == "again" else known))
            cached.update(prefixes(detail))
        elif action == "evict":
            assert isinstance(detail, int)
            for _ in range(detail % 4):
                leaves = sorted(p for p in cached if not any(q[:-1] == p for q in cached))
                if leaves:
                    gone = leaves[detail % len(leaves)]
                    cached.discard(gone)
                    tree.evict(BlocksEvicted(namespace=SPACE, blocks=(name(gone),)))
        elif action == "clear":
            cached.clear()
            tree.clear()
        else:
            added, removed = tree.digest.take_changes()
            replayed = (replayed - set(removed)) | set(added)
            assert replayed == published(cached)
        assert len(tree) == len(cached)
        assert set(tree.digest.blocks()) == published(cached)
        for question in questions:
            held = sum(prefix in cached for prefix in prefixes(question))
            assert tree.match(chain(question)) == held


def test_an_unknown_block_is_passed_over_when_evicted() -> None:
    tree = BlockTree(Digest())
    tree.evict(BlocksEvicted(namespace=SPACE, blocks=(name((1,)),)))
    assert len(tree) == 0
    assert tree.digest.take_changes() == ([], [])


def test_a_forest_keeps_namespaces_apart() -> None:
    forest = BlockForest()
    one, two = Namespace("one"), Namespace("two")
    path = (0, 1, 0)
    for space in (one, two):
        forest.fold(
            [BlocksStored(namespace=space, parent=None, depth=0, blocks=tuple(chain(path)))]
        )
    assert forest.match(one, chain(path)) == forest.match(two, chain(path)) == 3
    forest.fold([Cleared(namespace=one)])
    assert forest.match(one, chain(path)) == 0
    assert forest.match(two, chain(path)) == 3
    forest.fold([Cleared()])
    assert forest.match(two, chain(path)) == 0
    assert forest.match(Namespace("never seen"), chain(path)) == 0
