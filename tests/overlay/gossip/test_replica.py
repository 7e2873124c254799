"""A stream's frames applied in order: gaps, checkpoints, floors."""

from __future__ import annotations

import pytest

from overlay.errors import ProtocolError
from overlay.gossip.messages import Content
from overlay.gossip.replica import TAGS_MAX, Replica
from overlay.gossip.tagset import pack_tags


def content(
    added: list[int], removed: list[int] | None = None, *, truncated: bool = False
) -> Content:
    return Content(pack_tags(added), pack_tags(removed or []), truncated)


def test_deltas_go_on_one_by_one_and_checkpoints_forwards() -> None:
    replica = Replica(seq=4)
    assert [replica.takes(seq, checkpoint=False) for seq in (3, 4, 5, 6)] == [
        False,
        False,
        True,
        False,
    ]
    assert [replica.takes(seq, checkpoint=True) for seq in (3, 4, 5, 60)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_gap_clears_nothing() -> None:
    replica = Replica()
    replica.apply(1, content([1, 2]), checkpoint=False)
    assert not replica.takes(3, checkpoint=False)
    assert replica.tags == {1, 2}
    assert replica.visible


def test_changes_are_what_differs() -> None:
    replica = Replica()
    first = replica.apply(1, content([1, 2]), checkpoint=False)
    assert (first.added, first.removed) == ([1, 2], [])
    second = replica.apply(2, content([2, 3], [1, 9]), checkpoint=False)
    assert (second.added, second.removed) == ([3], [1])
    third = replica.apply(7, content([3, 4]), checkpoint=True)
    assert (third.added, third.removed) == ([4], [2])
    fourth = replica.apply(8, content([], [3, 4]), checkpoint=False)
    assert (fourth.added, sorted(fourth.removed)) == ([], [3, 4])
    fifth = replica.apply(9, content([6]), checkpoint=False)
    assert (fifth.added, fifth.removed) == ([6], [])


def test_nothing_is_shown_below_the_floor_and_everything_from_it_on() -> None:
    replica = Replica(floor=3)
    for seq in (1, 2):
        change = replica.apply(seq, content([seq]), checkpoint=False)
        assert (change.added, change.removed) == ([], [])
        assert not replica.visible
    change = replica.apply(3, content([3], [1]), checkpoint=False)
    assert (change.added, change.removed) == ([2, 3], [])
    assert replica.visible


def test_a_checkpoint_of_an_older_number_than_the_floor_is_not_shown() -> None:
    replica = Replica(floor=10)
    assert replica.apply(9, content([1]), checkpoint=True).added == []
    assert replica.apply(12, content([2]), checkpoint=True).added == [2]


def test_malformed_tags_change_nothing() -> None:
    replica = Replica()
    replica.apply(1, content([1]), checkpoint=False)
    for bad in (Content(b"12345", b"", True), Content(b"", b"1234567", True)):
        with pytest.raises(ProtocolError):
            replica.apply(2, bad, checkpoint=False)
    assert (replica.seq, replica.tags, replica.truncated) == (1, {1}, False)


def test_a_checkpoint_that_removes_something_is_refused() -> None:
    replica = Replica()
    replica.apply(1, content([1]), checkpoint=False)
    with pytest.raises(ProtocolError):
        replica.apply(2, content([2], [1]), checkpoint=True)
    assert (replica.seq, replica.tags) == (1, {1})


def test_tags_are_bounded_by_deltas_and_by_checkpoints() -> None:
    replica = Replica()
    replica.apply(1, content(list(range(TAGS_MAX + 5))), checkpoint=True)
    assert len(replica.tags) == TAGS_MAX
    change = replica.apply(2, content([10**9, 10**9 + 1], [0]), checkpoint=False)
    assert len(replica.tags) == TAGS_MAX
    assert change.added == [10**9]
    assert change.removed == [0]


def test_it_says_that_something_was_left_out() -> None:
    replica = Replica()
    replica.apply(1, content([1], truncated=True), checkpoint=False)
    assert replica.truncated
