"""What a tenant's own requests can have left at an engine."""

from __future__ import annotations

from chaos.observe.serving import Blocks, LeftBehind


def test_blocks_are_named_by_all_that_stands_before_their_end() -> None:
    one, two = Blocks(range(64)), Blocks(range(40))
    assert len(one.names) == 4
    assert two.names == one.names[:2]
    assert Blocks(range(1, 65)).names[3] != one.names[3]
    assert two.extend(range(40, 64)) == one.names[2:]
    assert two.names == one.names


def test_a_request_does_not_explain_its_own_hit() -> None:
    left, names = LeftBehind(), Blocks(range(64)).names
    left.add(1, names)
    assert left.blocks(1, names) == 0
    assert left.blocks(2, names) == 4


def test_what_two_have_brought_explains_both() -> None:
    left, names = LeftBehind(), Blocks(range(64)).names
    left.add(1, names)
    left.add(2, names[:3])
    assert left.blocks(1, names) == 3
    assert left.blocks(2, names) == 4


def test_only_a_prefix_counts() -> None:
    left, names = LeftBehind(), Blocks(range(64)).names
    left.add(1, names[1:])
    assert left.blocks(2, names) == 0
