"""The real model in float32: what comes from the cache changes no token."""

from __future__ import annotations

import itertools

import pytest

from inference.events import BlocksEvicted, BlocksStored
from inference.request import ChatPrompt, Message
from tests.inference.bench import Bench

pytestmark = pytest.mark.model

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


def test_warm_answers_equal_cold_ones_for_twenty_prompts(real: Bench) -> None:
    cases = prompts(real)
    assert len(cases) == 20
    for before, prompt, cached in cases:
        cold = real.cold(prompt, max_tokens=3)
        assert cold.cached_tokens == 0
        real.core.reset()
        real.ask(before, max_tokens=1)
        warm = real.ask(prompt, max_tokens=3)
        assert warm.cached_tokens == cached
        assert warm.token_ids == cold.token_ids


def test_answers_stay_the_same_after_eviction(real: Bench) -> None:
    """A cache of few blocks: the prefix goes, is computed again, and the answer is the cold one."""
    real.core.reset()
    total = real.core.load().total_blocks
    prompt = words(real, 60)
    cold = real.ask(prompt)
    assert real.ask(prompt).cached_tokens == 48
    real.core.cache_events()
    lease = real.core._cache.acquire("b", [], total)
    gone = [e for e in real.core.cache_events() if isinstance(e, BlocksEvicted)]
    real.core._cache.release(lease)
    assert sum(len(event.blocks) for event in gone) >= 3
    again = real.ask(prompt)
    assert again.cached_tokens == 0
    assert again.token_ids == cold.token_ids
    assert real.ask(prompt).token_ids == cold.token_ids


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
