"""Cache events that are lost for a while, and what is believed since."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.gap import EventGap
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace

A, B = Namespace("a"), Namespace("b")


def blocks(text: str) -> tuple[BlockHash, ...]:
    return tuple(BlockHash(char.encode()) for char in text)


def stored(text: str, after: str = "", namespace: Namespace = A) -> BlocksStored:
    parent = blocks(after)[-1] if after else None
    return BlocksStored(namespace=namespace, parent=parent, depth=len(after), blocks=blocks(text))


def evicted(text: str) -> BlocksEvicted:
    return BlocksEvicted(namespace=A, blocks=blocks(text))


@dataclass
class Bench:
    """A gap of five seconds in the events of a cache that held abc, and another tenant's x."""

    now_s: float = 100.0
    lost: list[int] = field(default_factory=list)
    gap: EventGap = field(init=False)

    def __post_init__(self) -> None:
        held = [stored("abc"), stored("x", namespace=B)]
        self.gap = EventGap(5.0, lambda: held, lambda: self.now_s, lambda: self.lost.append(1))
        assert self.gap([]) == []

    def after(self, *lost: CacheEvent) -> EventGap:
        """The gap when it is over, with these events in it."""
        self.now_s += 1
        assert self.gap(list(lost)) == []
        self.now_s += 5
        return self.gap


def test_what_is_told_first_is_what_is_known() -> None:
    gap = EventGap(5.0, list, lambda: 0.0, lambda: None)
    assert gap([stored("abc")]) == [stored("abc")]


def test_it_is_noticed_with_the_first_event_after_it() -> None:
    bench = Bench()
    gap = bench.after(stored("d", "abc"), evicted("d"))
    assert (bench.lost, gap.noticed) == ([1, 1], False)
    assert gap([]) == []
    assert not gap.noticed
    assert gap([stored("y")]) == [stored("y")]
    assert gap.noticed


def test_a_gap_in_which_nothing_happens_is_none() -> None:
    gap = Bench().after()
    assert gap([stored("d", "abc")]) == [stored("d", "abc")]
    assert not gap.noticed


def test_a_block_whose_parent_was_not_told_is_nobodys() -> None:
    gap = Bench().after(stored("d", "abc"))
    assert gap([stored("e", "abcd"), evicted("e")]) == []


def test_only_what_is_not_known_yet_is_told() -> None:
    gap = Bench().after(evicted("cba"))
    assert gap([stored("abcd")]) == [stored("d", "abc")]
    assert gap([stored("ab")]) == []


def test_what_stands_on_an_evicted_block_goes_first() -> None:
    gap = Bench().after(evicted("c"))
    assert gap([evicted("b")]) == [evicted("cb")]
    assert gap([evicted("b")]) == []


def test_a_request_that_finds_less_proves_the_rest_wrong() -> None:
    gap = Bench().after(evicted("cb"))
    gap.found(A, blocks("abcz"), 1)
    assert gap([]) == [evicted("cb")]
    gap.found(A, blocks("abcz"), 1)
    gap.found(A, blocks("a"), 1)
    assert gap([]) == []


def test_a_cleared_cache_makes_it_exact_again() -> None:
    gap = Bench().after(evicted("c"))
    gap([stored("y")])
    assert gap([Cleared(namespace=B), stored("z")]) == [Cleared(namespace=B), stored("z")]
    assert gap.noticed
    assert gap([Cleared(), stored("abc")]) == [Cleared(), stored("abc")]
    assert not gap.noticed
