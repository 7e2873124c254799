"""False claims of a cache."""

from __future__ import annotations

from random import Random

from chaos.claims import CHURN_RUN_BLOCKS, Churn, StandStill, TooLittle, TooMuch
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace
from overlay.gossip.blocktree import BlockForest

A, B = Namespace("a"), Namespace("b")
BLOCKS = tuple(BlockHash(bytes([number]) * 16) for number in range(4))
STORED = BlocksStored(namespace=A, parent=None, depth=0, blocks=BLOCKS)
GONE = BlocksEvicted(namespace=A, blocks=BLOCKS[2:])


def test_standing_still_tells_nothing() -> None:
    effects: list[int] = []
    claims = StandStill(lambda: effects.append(1))
    assert claims([STORED, GONE, Cleared()]) == []
    assert claims([]) == []
    assert effects == [1]


def test_too_little_tells_of_what_goes_only() -> None:
    effects: list[int] = []
    claims = TooLittle(lambda: effects.append(1))
    assert claims([STORED, GONE, Cleared()]) == [GONE, Cleared()]
    assert claims([GONE]) == [GONE]
    assert effects == [1]


def test_too_much_tells_of_prompts_once_and_of_nothing_true() -> None:
    effects: list[int] = []
    claims = TooMuch(lambda: [(A, BLOCKS), (B, ())], lambda: effects.append(1))
    assert claims([GONE]) == [STORED]
    assert claims([GONE, Cleared()]) == []
    assert effects == [1]


def test_churn_comes_and_goes_beside_the_truth_and_leaves_no_more_than_its_rate() -> None:
    now_s = 0.0
    forest, made = BlockForest(), []
    claims = Churn(
        namespaces=lambda: [A, B],
        blocks_per_s=80.0,
        rng=Random(1),
        now_s=lambda: now_s,
        on_effect=made.append,
    )
    truth: list[CacheEvent] = [STORED]
    for _ in range(50):
        now_s += 2.0
        told = claims(truth)
        assert told[: len(truth)] == truth
        truth = []
        forest.fold(told)
        held = len(forest.tree(A)) + len(forest.tree(B)) - len(BLOCKS)
        assert 0 < held <= 160
    assert sum(made) == 50 * 160
    assert forest.match(A, BLOCKS) == len(BLOCKS)


def test_churn_waits_until_a_whole_prefix_is_due() -> None:
    now_s = 0.0
    claims = Churn(
        namespaces=lambda: [A],
        blocks_per_s=1.0,
        rng=Random(1),
        now_s=lambda: now_s,
        on_effect=lambda _: None,
    )
    now_s = CHURN_RUN_BLOCKS - 0.5
    assert claims([]) == []
    now_s = CHURN_RUN_BLOCKS + 0.5
    assert len(claims([])) == 1
