"""The real model in float32: what comes from the cache changes no token."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from inference.events import BlocksEvicted, BlocksStored
from inference.request import ChatPrompt, Message
from tests.inference.bench import Bench, opened

pytestmark = pytest.mark.model

ANSWER_TOKENS = 8
SMALL_CACHE_BLOCKS = 36

TEXT = (
    "A lighthouse keeper wrote down the weather every morning for forty years. The pages tell of "
    "storms, of ships that came too near, of birds that rested on the railing, and of one winter "
    "when the sea froze as far as anybody could see. His granddaughter found the books in a trunk "
    "and read them aloud in the kitchen, a year each evening, while the lamp burned low. "
)


def words(bench: Bench, count: int, *, start: int = 0) -> list[int]:
    """So many tokens of running text."""
    ids = bench.core._tokenizer._backend.encode(TEXT * (count // 60 + 2)).ids
    return ids[start : start + count]


def prompts(bench: Bench) -> list[tuple[list[int], list[int], int]]:
    """(what was asked before, the prompt, how much of it is cached then)."""
    base = words(bench, 128)
    other = [token + 1 for token in base]
    # Sharing that ends at a block's edge, one before it, one after it, and in mid-block.
    edges = (16, 31, 32, 33, 48, 64, 65, 80)
    cases = [(base, base[:shared] + other[:24], shared // 16 * 16) for shared in edges]
    # Nothing shared at all, and less than a block.
    cases += [(base, other[:40], 0), (base, base[:15] + other[:20], 0)]
    # The whole prompt cached: its last token is computed all the same.
    cases += [(base, base[:count], (count - 1) // 16 * 16) for count in (16, 17, 32, 64, 65, 100)]
    # Around the end of a prefill chunk.
    long = words(bench, 300, start=5)
    cases += [(long[:255], long[:256], 240), (long[:256], long[:257], 256)]
    cases += [(long[:272], long[:272], 256), (long[:290], long[:258] + other[:16], 256)]
    return cases


@pytest.fixture(scope="module")
def cold() -> Iterator[Bench]:
    """An engine of its own that reuses nothing: what the others answer is held against it."""
    with opened(kv_cache_bytes=1 << 26, prefix_cache=False) as bench:
        yield bench


def test_warm_answers_equal_cold_ones_for_twenty_prompts(real: Bench, cold: Bench) -> None:
    cases = prompts(real)
    assert len(cases) == 20
    for before, prompt, cached in cases:
        real.core.reset()
        real.ask(before, max_tokens=1)
        warm = real.ask(prompt, max_tokens=ANSWER_TOKENS)
        assert warm.cached_tokens == cached
        expected = cold.ask(prompt, max_tokens=ANSWER_TOKENS)
        assert expected.cached_tokens == 0
        assert warm.token_ids == expected.token_ids


def test_traffic_that_evicts_changes_no_answer(cold: Bench) -> None:
    """Two namespaces with the same texts in a cache that holds less than they use."""
    rng = random.Random(3)
    posture = cold.core.posture
    small = SMALL_CACHE_BLOCKS * posture.kv_cache_bytes // posture.kv_blocks
    with opened(kv_cache_bytes=small) as warm:
        bases = [words(warm, 200, start=start) for start in (0, 3, 7)]
        evicted = hits = 0
        for _ in range(20):
            cut = rng.choice((17, 48, 100, 159, 160, 161, 190))
            tail = words(warm, 20, start=rng.randrange(50))[: rng.randrange(1, 20)]
            prompt = rng.choice(bases)[:cut] + tail
            given = warm.ask(prompt, namespace=rng.choice("ab"), max_tokens=ANSWER_TOKENS)
            expected = cold.ask(prompt, max_tokens=ANSWER_TOKENS)
            assert expected.cached_tokens == 0
            assert given.token_ids == expected.token_ids
            hits += given.cached_tokens > 0
            gone = [e for e in warm.core.cache_events() if isinstance(e, BlocksEvicted)]
            evicted += sum(len(event.blocks) for event in gone)
        assert hits >= 5
        assert evicted >= 20


def common(first: list[int], second: list[int]) -> int:
    """How many leading tokens are the same."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_third_turn_of_a_chat_finds_the_earlier_answers_cached(real: Bench) -> None:
    real.core.reset()
    messages: list[Message] = []
    computed: list[int] = []
    asked = 0
    for question in ("Tell me about the sea.", "And about rivers?", "Which one is deeper?"):
        messages.append(Message(role="user", content=question))
        ids = real.core.tokenize(real.model, ChatPrompt(messages=tuple(messages)))
        answer = real.ask(ids, max_tokens=40)
        same = common(computed, list(ids))
        assert answer.cached_tokens == same // 16 * 16
        assert answer.cached_tokens > asked or not computed
        asked, computed = len(ids), [*ids, *answer.token_ids[:-1]]
        messages.append(Message(role="assistant", content=answer.text))
    stored = [e for e in real.core.cache_events() if isinstance(e, BlocksStored)]
    assert sum(len(event.blocks) for event in stored) == len(computed) // 16


def test_resumed_answer_equals_the_undisturbed_one(real: Bench) -> None:
    ids = real.core.tokenize(
        real.model, ChatPrompt(messages=(Message(role="user", content="Name three fruits."),))
    )
    whole = real.cold(ids, max_tokens=20)
    for cut in (1, 7, 19):
        real.core.reset()
        rest = real.ask(ids, emitted=whole.token_ids[:cut], max_tokens=20)
        assert whole.token_ids[:cut] + rest.token_ids == whole.token_ids
        assert whole.text.endswith(rest.text)
        assert rest.finish_reason == whole.finish_reason
