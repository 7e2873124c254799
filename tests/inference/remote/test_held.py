"""Held blocks and the journal, rule by rule; the mirror's and estimate's tests do the rest."""

from __future__ import annotations

from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.remote.held import HeldTree
from inference.remote.journal import Journal
from tests.inference.remote.folding import NS_A, Fold, names

A, B, C, D = names(NS_A, range(64))


class Shelf:
    """A tree with its journal."""

    def __init__(self, blocks_min: int = 100) -> None:
        self.journal = Journal(lambda: self.tree.contents(), self.size, blocks_min=blocks_min)
        self.tree = HeldTree(NS_A, self.journal)

    def size(self) -> int:
        return self.tree.reachable_blocks

    def drain(self) -> list[tuple[str, tuple[BlockHash, ...]]]:
        return [(type(event).__name__, blocks(event)) for event in self.journal.drain()]


def blocks(event: CacheEvent) -> tuple[BlockHash, ...]:
    return () if isinstance(event, Cleared) else event.blocks


def test_a_parent_that_goes_first_takes_its_followers_and_brings_them_back() -> None:
    shelf = Shelf()
    shelf.tree.add(None, 0, [A, B, C, D])
    assert shelf.drain() == [("BlocksStored", (A, B, C, D))]
    shelf.tree.drop([B])
    assert shelf.drain() == [("BlocksEvicted", (D, C, B))]
    assert shelf.tree.match([A, B, C, D]) == 1
    shelf.tree.drop([C])
    shelf.tree.add(A, 1, [B])
    assert shelf.drain() == [("BlocksStored", (B,))]
    shelf.tree.add(B, 2, [C])
    assert shelf.drain() == [("BlocksStored", (C, D))]


def test_followers_without_a_parent_wait_out_of_reach() -> None:
    shelf = Shelf()
    shelf.tree.add(B, 2, [C, D])
    assert shelf.drain() == []
    shelf.tree.add(None, 0, [A, B])
    assert shelf.drain() == [("BlocksStored", (A, B, C, D))]


def test_copies_are_counted() -> None:
    shelf = Shelf()
    shelf.tree.add(None, 0, [A, B])
    shelf.tree.add(None, 0, [A])
    shelf.tree.drop([A])
    assert shelf.tree.match([A, B]) == 2
    shelf.tree.drop([A])
    assert shelf.tree.match([A, B]) == 0
    shelf.tree.drop([B])
    assert len(shelf.tree) == 0


def test_undrained_events_are_bounded_and_then_told_as_the_content() -> None:
    shelf = Shelf(blocks_min=8)
    shelf.tree.add(None, 0, [A, B])
    for _ in range(10):
        shelf.tree.add(B, 2, [C])
        shelf.tree.drop([C])
    fold = Fold()
    events = shelf.journal.drain()
    fold.fold(events)
    assert events == (
        Cleared(),
        BlocksStored(namespace=NS_A, parent=None, depth=0, blocks=(A, B)),
    )
    assert shelf.journal.drain() == ()


def test_a_clear_forgets_what_was_told_before() -> None:
    shelf = Shelf()
    shelf.tree.add(None, 0, [A, B])
    shelf.tree.clear()
    shelf.journal.clear()
    shelf.tree.add(None, 0, [A])
    shelf.tree.drop([A])
    assert [type(event) for event in shelf.journal.drain()] == [
        Cleared,
        BlocksStored,
        BlocksEvicted,
    ]
