"""The estimate against a model of lists, and rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.events import BlockHash
from inference.remote.cache_picture import Outcome
from inference.remote.estimate import CAPACITY_MIN, Estimate
from inference.remote.evidence import RUNNING_MAX, Evidence
from inference.request import Namespace
from tests.inference.remote.folding import NS_A, NS_B, Fold, names, tokens_of

Path = tuple[int, ...]
Key = tuple[Namespace, Path]

CONFIRM_S = 50.0

# Each element is so many blocks, which makes 64 blocks of capacity few.
WIDTH = 8
paths = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple)
namespaces = st.sampled_from((NS_A, NS_B))


def blocks_of(namespace: Namespace, path: Path) -> list[BlockHash]:
    return names(namespace, tokens_of(path, 16 * WIDTH))


class EstimateModel(RuleBasedStateMachine):
    """Blocks in the order of their last use, the last ones of a chain first."""

    def __init__(self) -> None:
        super().__init__()
        self.estimate = Estimate(capacity_blocks=CAPACITY_MIN, confirm_s=CONFIRM_S)
        self.estimate._forest.journal._blocks_min = 40
        self.capacity = CAPACITY_MIN
        self.used: dict[tuple[Namespace, BlockHash], float] = {}
        self.parents: dict[BlockHash, BlockHash | None] = {}
        self.running: dict[str, tuple[Namespace, list[BlockHash], int]] = {}
        self.now_s = 0.0
        self.count = 0
        self.fold = Fold()

    def expire(self) -> None:
        self.used = {k: s for k, s in self.used.items() if self.now_s - s < CONFIRM_S}

    def match(self, namespace: Namespace, blocks: list[BlockHash]) -> int:
        hits = 0
        while hits < len(blocks) and (namespace, blocks[hits]) in self.used:
            hits += 1
        return hits

    def place(self, namespace: Namespace, blocks: list[BlockHash]) -> None:
        for parent, block in zip([None, *blocks], blocks, strict=False):
            self.parents[block] = parent
        for block in reversed(blocks):
            self.used.pop((namespace, block), None)
            self.used[namespace, block] = self.now_s
        while len(self.used) > self.capacity:
            del self.used[next(iter(self.used))]

    def follows(self, block: BlockHash, first: BlockHash) -> bool:
        above: BlockHash | None = block
        while above is not None and above != first:
            above = self.parents[above]
        return above == first

    @rule(namespace=namespaces, path=paths, wait_s=st.integers(0, 20))
    def start(self, namespace: Namespace, path: Path, wait_s: int) -> None:
        self.now_s += wait_s
        self.expire()
        self.count += 1
        request_id, blocks = f"r{self.count}", blocks_of(namespace, path)
        expected = self.match(namespace, blocks)
        assert self.estimate.started(request_id, namespace, blocks, self.now_s) == expected
        self.running[request_id] = (namespace, blocks, expected)

    @rule(data=st.data())
    def prefill(self, data: st.DataObject) -> None:
        if self.running:
            request_id = data.draw(st.sampled_from(sorted(self.running)))
            self.estimate.prefilled(request_id, self.now_s)
            namespace, blocks, _ = self.running[request_id]
            self.place(namespace, blocks)

    @rule(data=st.data(), found=st.none() | st.integers(0, 4 * WIDTH), answered=st.booleans())
    def finish(self, data: st.DataObject, found: int | None, answered: bool) -> None:
        if not self.running:
            return
        request_id = data.draw(st.sampled_from(sorted(self.running)))
        namespace, blocks, expected = self.running.pop(request_id)
        self.expire()
        outcome = Outcome(
            answered=answered,
            prompt_tokens=16 * len(blocks) + 1,
            cached_tokens=None if found is None else 16 * found,
        )
        self.estimate.finished(request_id, outcome, self.now_s)
        if not answered:
            return
        if found is not None:
            self.judge(namespace, blocks, expected, min(found, len(blocks)))
        self.place(namespace, blocks)

    def judge(
        self, namespace: Namespace, blocks: list[BlockHash], expected: int, found: int
    ) -> None:
        if found > expected and len(self.used) >= self.capacity:
            self.capacity = min(4 * CAPACITY_MIN, self.capacity + max(1, self.capacity // 64))
        if found < expected and (namespace, blocks[found]) in self.used:
            for space, block in list(self.used):
                if (
                    space == namespace
                    and self.follows(block, blocks[found])
                    and block not in blocks
                ):
                    del self.used[space, block]
            least = self.capacity - self.capacity // 8
            self.capacity = max(CAPACITY_MIN, least, min(self.capacity, len(self.used)))

    @rule(wait_s=st.integers(0, 30))
    def tick(self, wait_s: int) -> None:
        self.now_s += wait_s
        self.expire()
        self.estimate.tick(self.now_s)

    @rule()
    def restart(self) -> None:
        self.estimate.cleared()
        self.used.clear()
        self.running.clear()

    @rule()
    def drain(self) -> None:
        self.fold.fold(self.estimate.drain())
        for namespace in (NS_A, NS_B):
            assert self.fold.blocks(namespace) == {
                b for space, b in self.used if space == namespace
            }

    @invariant()
    def agrees(self) -> None:
        assert len(self.estimate) == len(self.used)
        assert self.estimate.capacity_blocks == self.capacity
        assert list(self.estimate._used_s.items()) == list(self.used.items())

    def teardown(self) -> None:
        self.drain()


TestEstimate = EstimateModel.TestCase
TestEstimate.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@pytest.fixture(name="estimate")
def fixture_estimate() -> Estimate:
    return Estimate(capacity_blocks=1000)


def ask(
    estimate: Estimate, path: Path, now_s: float = 0.0, *, width: int = 16, **outcome: object
) -> int:
    blocks = names(NS_A, tokens_of(path, width))
    expected = estimate.started("r", NS_A, blocks, now_s)
    estimate.finished("r", Outcome(**{"answered": True} | outcome), now_s)  # type: ignore[arg-type]
    return expected


def test_what_was_answered_is_expected_next_time(estimate: Estimate) -> None:
    assert ask(estimate, (1, 2)) == 0
    assert ask(estimate, (1, 2, 3)) == 2
    assert not estimate.exact


def test_what_was_not_answered_is_not(estimate: Estimate) -> None:
    ask(estimate, (1, 2), answered=False)
    assert ask(estimate, (1, 2)) == 0


def test_blocks_count_from_the_first_token_on(estimate: Estimate) -> None:
    blocks = names(NS_A, tokens_of((1, 2)))
    estimate.started("long", NS_A, blocks, 0.0)
    assert estimate.match(NS_A, blocks) == 0
    estimate.prefilled("long", 1.0)
    assert estimate.match(NS_A, blocks) == 2
    assert estimate.match(NS_B, blocks) == 0


def test_a_miss_takes_other_prompts_that_shared_the_missing_part(estimate: Estimate) -> None:
    ask(estimate, (1, 2, 3))
    ask(estimate, (1, 4))
    ask(estimate, (1, 2, 5), prompt_tokens=49, cached_tokens=16)
    assert ask(estimate, (1, 2, 3)) == 2
    assert ask(estimate, (1, 4)) == 2
    assert dict(estimate.posture())["blocks that were not there"] == "1"


def test_an_unconfirmed_block_ages_out(estimate: Estimate) -> None:
    ask(estimate, (1, 2), 0.0)
    ask(estimate, (1, 3), 600.0)
    estimate.tick(1000.0)
    assert estimate.match(NS_A, names(NS_A, tokens_of((1, 2)))) == 1
    estimate.tick(1600.0)
    assert len(estimate) == 0


def test_a_prompt_larger_than_the_capacity_is_held_from_its_beginning() -> None:
    estimate = Estimate(capacity_blocks=CAPACITY_MIN)
    blocks = names(NS_A, tokens_of(tuple(range(100))))
    estimate.started("r", NS_A, blocks, 0.0)
    estimate.finished("r", Outcome(answered=True), 1.0)
    assert estimate.match(NS_A, blocks) == CAPACITY_MIN


def test_the_server_s_own_block_size_is_no_miss() -> None:
    estimate = Estimate(capacity_blocks=1000, block_tokens=128)
    ask(estimate, (1,), width=320)
    ask(estimate, (1,), width=320, prompt_tokens=320, cached_tokens=256)
    assert dict(estimate.posture())["calibration"].startswith("100 %")


def test_calibration_is_said(estimate: Estimate) -> None:
    assert dict(estimate.posture())["calibration"].startswith("no request")
    ask(estimate, (1, 2, 3, 4))
    ask(estimate, (1, 2, 3, 4), prompt_tokens=65, cached_tokens=64)
    ask(estimate, (1, 2, 3, 4), prompt_tokens=65, cached_tokens=0)
    assert dict(estimate.posture())["calibration"] == (
        "50 % of the expected blocks were there, 2 requests"
    )


@pytest.mark.parametrize(
    ("first_token_s", "alone", "rate", "other"),
    [
        (1.6, True, 1000.0, 100),  # cold: the whole prompt's time
        (1.3, True, 1000.0, 100),
        (0.8, True, 1000.0, 200),  # neither
        (0.01, True, 1000.0, 200),  # warm
        (1.6, False, 1000.0, 200),  # others ran
        (1.6, True, 0.0, 200),  # no rate is known
        (1.6, True, 100_000.0, 200),  # the difference is too small to tell
        (None, True, 1000.0, 200),
    ],
)
def test_without_a_report_the_time_to_the_first_token_tells(
    first_token_s: float | None, alone: bool, rate: float, other: int
) -> None:
    estimate = Estimate(capacity_blocks=1000)
    ask(estimate, (1, 2), width=1600)
    ask(
        estimate,
        (1,),
        width=1600,
        prompt_tokens=1601,
        first_token_s=first_token_s,
        alone=alone,
        prefill_tokens_per_s=rate,
    )
    assert ask(estimate, (1, 2), width=1600) == other


def test_requests_that_never_finish_are_bounded() -> None:
    evidence = Evidence()
    for number in range(RUNNING_MAX + 5):
        evidence.started(str(number), NS_A, [], 0)
    assert evidence.running("4") is None
    assert evidence.running("5") is not None
    assert evidence.finished("unknown", Outcome(answered=True)) is None


def test_a_namespace_that_is_dropped_is_forgotten_and_others_are_not() -> None:
    estimate = Estimate(capacity_blocks=1000)
    for namespace in (NS_A, NS_B):
        blocks = blocks_of(namespace, (1, 2))
        estimate.started("r", namespace, blocks, 0.0)
        estimate.finished("r", Outcome(answered=True), 0.0)
    assert estimate.match(NS_A, blocks_of(NS_A, (1, 2))) == 2 * WIDTH
    estimate.drop(NS_A)
    assert estimate.match(NS_A, blocks_of(NS_A, (1, 2))) == 0
    assert estimate.match(NS_B, blocks_of(NS_B, (1, 2))) == 2 * WIDTH
    assert len(estimate) == 2 * WIDTH
