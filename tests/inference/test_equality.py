"""Batching, caching, preemption and resume change no answer: 100 prompts against ``generate``."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from inference import pool, step
from inference.step import ModelStep, Rows
from tests.inference.bench import Bench, block_bytes, opened
from tests.inference.equality import Comparison, Expected, Reference, compare

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL_BLOCKS = 90
ANSWER_TOKENS = 12
Prompt = tuple[int, ...]

log = logging.getLogger(__name__)


def mmlu_prompts(encode: Callable[[str], Sequence[int]], count: int, most: int) -> list[Prompt]:
    """Real questions, each after the same two solved ones of its subject."""
    file = DATA / "mmlu.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    solved: dict[str, str] = {}
    found: list[Prompt] = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 3000)]
    for row in rows:
        text = row["q"] + "".join(f"\n{n}. {choice}" for n, choice in zip("ABCD", row["c"]))  # noqa: B905 - may be fewer
        if row["split"] == "dev" and len(solved.get(row["s"], "")) < most:
            solved[row["s"]] = solved.get(row["s"], "") + f"{text}\nAnswer: {row['a']}\n\n"
    for row in rows[:: max(1, len(rows) // count)][:count]:
        ids = encode(solved.get(row["s"], "")[: 2 * most])[: most // 2]
        found.append((*ids, *encode(row["q"])[: most // 2]))
    return [prompt for prompt in found if prompt]


def mooncake_prompts(vocabulary: int, count: int, most: int) -> list[Prompt]:
    """Sharing as in real chat traffic: each of its 512-token blocks stands for 16 tokens here."""
    file = DATA / "mooncake_conversation.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line)["hash_ids"] for line in islice(lines, 40 * count)]
    # The longest shared ones: a trace's requests of the same first blocks follow each other.
    rows.sort(key=lambda ids: ids[:4])
    found = []
    for ids in rows[:: max(1, len(rows) // count)][:count]:
        blocks = [random.Random(each).choices(range(3, vocabulary), k=16) for each in ids]
        found.append((*[token for block in blocks for token in block][: most - 1], 7))
    return found


def drawn_prompts(vocabulary: int, count: int, most: int, check: Callable[..., None]) -> None:
    """Hypothesis draws lists of prompts: prefixes of a few shared texts, each with an end."""
    texts = [random.Random(n).choices(range(3, vocabulary), k=most) for n in range(3)]
    one = st.tuples(
        st.integers(0, 2),
        st.integers(0, most - 41) | st.sampled_from([0, 15, 16, 17, 255, 256, 257]),
        st.lists(st.integers(3, vocabulary - 1), min_size=1, max_size=40),
    )

    @settings(
        max_examples=3,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(one, min_size=count, max_size=count))
    def run(drawn: list[tuple[int, int, list[int]]]) -> None:
        check([(*texts[text][: min(cut, most - 41)], *end) for text, cut, end in drawn])

    run()


def expect(reference: Reference, prompts: Sequence[Prompt]) -> list[tuple[str, Expected]]:
    return [
        (f"prompt {number} ({len(prompt)} tokens)", reference.answer(prompt, ANSWER_TOKENS))
        for number, prompt in enumerate(prompts)
    ]


def check_everything(
    bench: Bench, small: Bench, reference: Reference, prompts: Sequence[Prompt], seen: Comparison
) -> None:
    """Every way in which the engine may come to an answer."""
    rng = random.Random(len(prompts))
    expected = expect(reference, prompts)
    bench.core.reset()
    # In batches of all sizes, cold at first and warm wherever prompts share something.
    compare(bench, expected, seen, at_once=3)
    # All warm, and in another order.
    compare(bench, expected[::-1], seen)
    # Resumed anywhere.
    cuts = [rng.randrange(len(answer.token_ids) + 1) for _, answer in expected]
    compare(bench, expected, seen, emitted=cuts)
    # A second turn that finds the first answer's blocks, which were computed one by one.
    turns = [(*answer.prompt, *answer.token_ids, 5, 6) for _, answer in expected[:8]]
    compare(bench, expect(reference, turns), seen)
    # With so little memory that answers are preempted and prefixes evicted.
    small.core.reset()
    context = small.core.capabilities().models[0].context_tokens - ANSWER_TOKENS
    compare(small, [each for each in expected if len(each[1].prompt) <= context], seen, shaken=rng)


def check_cold_against_warm(bench: Bench, prompts: Sequence[Prompt]) -> None:
    """The same code path and batch: no tolerance at all."""
    for prompt in prompts:
        cold = bench.cold(prompt, max_tokens=ANSWER_TOKENS)
        warm = bench.ask(prompt, max_tokens=ANSWER_TOKENS)
        assert warm.token_ids == cold.token_ids
        assert warm.cached_tokens == (len(prompt) - 1) // 16 * 16


@pytest.fixture(scope="module")
def pair(tiny_folder: Path) -> Iterator[tuple[Bench, Bench, Reference]]:
    """An engine with room, one with little, and the reference."""
    size = SMALL_BLOCKS * block_bytes()
    with (
        opened(model=str(tiny_folder), kv_cache_bytes=4 << 20) as bench,
        opened(model=str(tiny_folder), kv_cache_bytes=size) as small,
    ):
        yield bench, small, Reference(bench)


def test_drawn_prompts_give_what_generate_gives(pair: tuple[Bench, Bench, Reference]) -> None:
    seen = Comparison()
    drawn_prompts(258, 16, 700, lambda prompts: check_everything(*pair, prompts, seen))
    log.warning("drawn: %s", seen)
    seen.check()
    assert pair[1].core._batch.preemptions > 5


def test_prompts_of_traces_give_what_generate_gives(
    pair: tuple[Bench, Bench, Reference],
) -> None:
    seen = Comparison()
    prompts = mmlu_prompts(lambda text: [byte + 2 for byte in text.encode()], 26, 600)
    prompts += mooncake_prompts(258, 26, 600)
    check_everything(*pair, prompts, seen)
    log.warning("traces: %s", seen)
    seen.check()


def test_cold_and_warm_answers_are_equal(pair: tuple[Bench, Bench, Reference]) -> None:
    drawn_prompts(258, 12, 700, lambda prompts: check_cold_against_warm(pair[0], prompts))


Patched = Callable[[pytest.MonkeyPatch], None]


def position_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode rows are told a position too far."""
    plain = ModelStep._forward

    def forward(self: ModelStep, ids: list[int], positions: list[int], *rest: object) -> object:
        moved = positions if len(positions) >= 16 else [each + 1 for each in positions]
        return plain(self, ids, moved, *rest)  # type: ignore[arg-type] - passed on as given

    monkeypatch.setattr(ModelStep, "_forward", forward)


def key_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode rows do not see the last key."""
    plain = step.leading_slots
    monkeypatch.setattr(step, "leading_slots", lambda blocks, end: plain(blocks, max(1, end - 1)))


def block_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt's rows look for its second block in the place of its first."""
    plain = pool.numbered_slots

    def shifted(blocks: Sequence[int], end: int) -> torch.Tensor:
        table = [*blocks]
        return plain([*table[1:2], *table[1:]] if len(table) > 1 else table, end)

    monkeypatch.setattr(step, "numbered_slots", shifted)


def hit_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit is taken to be a block longer than it is."""
    from inference.generation import Generation

    plain = Generation.next_chunk

    def next_chunk(self: Generation, *rest: object, **named: object) -> Rows:
        if self.computed and self.computed + 16 < self.given_tokens:
            self.computed += 16
        return plain(self, *rest, **named)  # type: ignore[arg-type] - passed on as given

    monkeypatch.setattr(Generation, "next_chunk", next_chunk)


@pytest.mark.parametrize(
    "planted", [position_off_by_one, key_off_by_one, block_off_by_one, hit_off_by_one]
)
def test_a_planted_mistake_is_found(
    pair: tuple[Bench, Bench, Reference], monkeypatch: pytest.MonkeyPatch, planted: Patched
) -> None:
    base = random.Random(1).choices(range(3, 258), k=300)
    prompts = [tuple(base[:cut]) + (9,) * 20 for cut in (40, 80, 200, 290)]
    expected = expect(pair[2], prompts)
    pair[0].core.reset()
    fine, broken = Comparison(), Comparison()
    compare(pair[0], expected, fine)
    fine.check()
    pair[0].core.reset()
    planted(monkeypatch)
    compare(pair[0], expected, broken)
    with pytest.raises(AssertionError):
        broken.check()
    pair[0].core.reset()


@pytest.mark.slow
@pytest.mark.model
def test_the_real_model_gives_what_generate_gives() -> None:
    """The same with SmolLM2: fewer passes, as each takes a minute."""
    longer = {"queue_max": 200}  # all are asked at once
    with (
        opened(kv_cache_bytes=1 << 28, **longer) as bench,
        opened(kv_cache_bytes=1 << 25, **longer) as small,
    ):
        reference = Reference(bench)
        encode = bench.core._tokenizer._backend.encode
        seen = Comparison()
        prompts = mmlu_prompts(lambda text: encode(text).ids, 60, 120)
        prompts += mooncake_prompts(40_000, 40, 100)
        check_everything(bench, small, reference, prompts, seen)
        log.warning("real model: %s", seen)
        seen.check()
