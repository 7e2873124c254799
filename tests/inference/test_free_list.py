"""Free blocks: none lost, none given twice, neighbours where there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.free_list import ROOM_BLOCKS, FreeList


@given(total=st.integers(1, 200), sizes=st.lists(st.integers(-40, 40), max_size=60))
def test_every_block_is_free_or_given_out_once(total: int, sizes: list[int]) -> None:
    free = FreeList(total)
    held: list[list[int]] = []
    for size in sizes:
        if size < 0 and held:
            free.give(held.pop(-size % len(held)))
        elif 0 <= size <= free.count:
            after = held[-1] if held else []
            held.append(free.take(size, after=after))
            assert len(held[-1]) == size
        taken = [block for blocks in held for block in blocks]
        assert len(taken) == len(set(taken))
        assert sorted(taken + free.blocks()) == list(range(total))
        assert free.count == total - len(taken)


def test_a_request_grows_into_its_neighbours_and_the_next_leaves_it_room() -> None:
    free = FreeList(300)
    first = free.take(3, after=[])
    second = free.take(4, after=[])
    assert (first, second) == ([0, 1, 2], [*range(3 + ROOM_BLOCKS, 7 + ROOM_BLOCKS)])
    for _ in range(ROOM_BLOCKS):
        first += free.take(1, after=first)
    assert first == list(range(3 + ROOM_BLOCKS))
    # The next block is the other's, so this one goes elsewhere, again with room.
    assert free.take(1, after=first)[0] > second[-1]


def test_what_is_in_pieces_is_given_in_pieces() -> None:
    free = FreeList(8)
    held = free.take(8, after=[])
    free.give(held[1::2])
    assert sorted(free.take(4, after=[])) == [1, 3, 5, 7]
    with pytest.raises(AssertionError):
        free.take(1, after=[])
