"""The published set under a budget, and the deltas that tell of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.events import BlockHash
from overlay.gossip.digest import Digest

STEPS = st.lists(
    st.tuples(st.sampled_from(["end", "stride", "withdraw", "take"]), st.integers(0, 15)),
    max_size=120,
)


def block(number: int) -> BlockHash:
    return BlockHash(number.to_bytes(16, "big"))


@given(steps=STEPS, budget=st.integers(1, 8))
def test_the_budget_is_kept_ends_go_before_strides_and_deltas_replay(
    steps: list[tuple[str, int]], budget: int
) -> None:
    digest = Digest(budget)
    wanted: dict[BlockHash, bool] = {}
    replayed: set[BlockHash] = set()

    def replay() -> None:
        added, removed = digest.take_changes()
        assert not set(added) & set(removed)
        assert replayed.isdisjoint(added)
        assert replayed.issuperset(removed)
        replayed.difference_update(removed)
        replayed.update(added)
        assert replayed == set(digest.blocks())

    for action, number in steps:
        if action == "take":
            replay()
        elif action == "withdraw":
            digest.withdraw(block(number))
            wanted.pop(block(number), None)
        else:
            digest.publish(block(number), end=action == "end")
            wanted[block(number)] = action == "end"
        published = digest.blocks()
        ends = {name for name, end in wanted.items() if end}
        assert len(published) == len(set(published)) == len(digest)
        assert len(published) == min(budget, len(wanted))
        assert set(published) <= set(wanted)
        assert len(ends & set(published)) == min(budget, len(ends))
        assert digest.truncated == (len(wanted) > budget)
    replay()


def test_changes_are_told_once() -> None:
    digest = Digest()
    digest.publish(block(1), end=True)
    assert digest.take_changes() == ([block(1)], [])
    assert digest.take_changes() == ([], [])


def test_what_came_and_went_between_two_deltas_is_in_neither() -> None:
    digest = Digest()
    digest.publish(block(1), end=True)
    digest.withdraw(block(1))
    assert digest.take_changes() == ([], [])


def test_a_change_between_end_and_stride_is_no_change_for_the_others() -> None:
    digest = Digest()
    digest.publish(block(1), end=True)
    digest.take_changes()
    digest.publish(block(1), end=False)
    assert digest.take_changes() == ([], [])
    assert block(1) in digest


def test_an_end_that_waits_takes_the_place_of_one_that_became_a_stride() -> None:
    digest = Digest(1)
    digest.publish(block(1), end=True)
    digest.publish(block(2), end=True)
    assert digest.blocks() == [block(1)]
    digest.publish(block(1), end=False)
    assert digest.blocks() == [block(2)]
    digest.withdraw(block(2))
    assert digest.blocks() == [block(1)]
