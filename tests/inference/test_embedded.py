"""The embedded engine's rules, on a tiny random model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inference.embedded import CPU_CACHE_BYTES, EngineSettings, load_engine
from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InvalidRequest,
    ModelMissing,
    UnknownModel,
    UnsupportedModel,
)
from inference.events import BlocksStored, Cleared
from inference.hardware import free_bytes
from inference.request import BLOCK_TOKENS, TextPrompt
from tests.inference.bench import Bench


def tokens(count: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(2, 258), k=count)


def test_warm_answers_equal_cold_ones_wherever_the_prefix_ends(tiny: Bench) -> None:
    base, other = tokens(700), tokens(700, seed=2)
    lengths = [(16, 17), (48, 90), (250, 257), (256, 272), (400, 640), (513, 514), (600, 600)]
    for shared, length in lengths:
        prompt = base[:shared] + other[: length - shared]
        cold = tiny.cold(prompt)
        tiny.core.reset()
        tiny.ask(base[: shared + 5], max_tokens=1)
        warm = tiny.ask(prompt)
        assert warm.cached_tokens == min(shared, length - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        assert warm.token_ids == cold.token_ids


def test_logits_of_a_warm_prefill_are_those_of_a_cold_one_bit_for_bit(tiny: Bench) -> None:
    prompt = tokens(300)
    cold = tiny.cold(prompt, temperature=1.5, max_tokens=12)
    tiny.core.reset()
    tiny.ask([*prompt[:270], 5], max_tokens=1)
    assert tiny.ask(prompt, temperature=1.5, max_tokens=12).token_ids == cold.token_ids


def test_tenants_never_share_a_block(tiny: Bench) -> None:
    prompt = tokens(100)
    tiny.ask(prompt, namespace="a")
    assert tiny.ask(prompt, namespace="b").cached_tokens == 0
    assert tiny.ask(prompt, namespace="b").cached_tokens == 96


def test_answers_survive_constant_eviction(tiny: Bench) -> None:
    """Far more text than the cache holds: every answer is still the cold one."""
    total = tiny.core.load().total_blocks
    prompts = [tokens(400, seed=1)[:300] + tokens(200, seed=n) for n in range(total * 16 // 1500)]
    cold = [tiny.cold(prompt, max_tokens=2).token_ids for prompt in prompts[:4]]
    tiny.core.reset()
    for _ in range(2):
        for prompt in prompts:
            tiny.ask(prompt, max_tokens=1)
        assert tiny.core.load().used_blocks <= total
    assert [tiny.ask(prompt, max_tokens=2).token_ids for prompt in prompts[:4]] == cold


def test_stored_events_name_every_full_block_that_was_computed(tiny: Bench) -> None:
    tiny.ask(tokens(70), max_tokens=30)
    stored = [e for e in tiny.core.cache_events() if isinstance(e, BlocksStored)]
    # The last token of the answer has no keys and values yet.
    assert sum(len(event.blocks) for event in stored) == (70 + 30 - 1) // BLOCK_TOKENS


def test_decoded_blocks_stay_out_of_the_cache_when_told_so(tiny_with: Callable[..., Bench]) -> None:
    tiny = tiny_with(reuse_decoded=False)
    first = tiny.ask(tokens(70), max_tokens=30)
    assert tiny.ask([*tokens(70), *first.token_ids, 5]).cached_tokens == 64


def test_without_a_prefix_cache_every_run_is_cold(tiny_with: Callable[..., Bench]) -> None:
    tiny = tiny_with(prefix_cache=False)
    assert [tiny.ask(tokens(70)).cached_tokens for _ in range(2)] == [0, 0]
    assert tiny.core.cache_events() == ()
    assert tiny.core.load().used_blocks == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_cancelling_frees_the_blocks_at_any_step(tiny: Bench, steps: int) -> None:
    tiny.core.add(tiny.request(tokens(600), max_tokens=50))
    for _ in range(steps):
        tiny.core.step()
    tiny.core.cancel("r1")
    tiny.core.cancel("r1")
    assert not tiny.core.has_work()
    cached = sum(
        len(event.blocks) for event in tiny.core.cache_events() if isinstance(event, BlocksStored)
    )
    assert tiny.core.load().used_blocks == cached
    assert tiny.core.step().events == ()


def test_requests_wait_their_turn_and_are_all_answered(tiny_with: Callable[..., Bench]) -> None:
    tiny = tiny_with(slots=1)
    for n in range(4):
        tiny.core.add(tiny.request(tokens(40, seed=n), max_tokens=3))
    assert tiny.core.load().queued == 4
    ended = []
    while tiny.core.has_work():
        ended += [name for name, event in tiny.step().events if event.finish_reason is not None]
        assert tiny.core.load().running <= 1
    assert ended == ["r1", "r2", "r3", "r4"]


def test_load_counts_uncached_tokens_and_measures_rates(tiny_with: Callable[..., Bench]) -> None:
    tiny = tiny_with(slots=1)
    tiny.ask(tokens(100))
    load = tiny.core.load()
    assert load.prefill_tokens_per_s > 0
    assert load.decode_s_per_token > 0
    tiny.core.add(tiny.request(tokens(40, seed=9), max_tokens=2))
    tiny.core.add(tiny.request([*tokens(100), 7]))
    tiny.core.step()
    assert tiny.core.load().queued_tokens == 101 - 96


@pytest.mark.parametrize("cut", [1, 5, 15, 16, 17, 29])
def test_resumed_answer_equals_the_undisturbed_one(tiny: Bench, cut: int) -> None:
    options = {"max_tokens": 30, "temperature": 1.2, "seed": 4}
    whole = tiny.cold(tokens(50), **options)
    tiny.core.reset()
    rest = tiny.ask(tokens(50), emitted=whole.token_ids[:cut], **options)
    assert whole.token_ids[:cut] + rest.token_ids == whole.token_ids


def test_answer_resumed_after_its_end_only_ends(tiny: Bench) -> None:
    whole = tiny.ask(tokens(50), max_tokens=9)
    rest = tiny.ask(tokens(50), emitted=whole.token_ids, max_tokens=9)
    assert (rest.token_ids, rest.finish_reason) == ((), whole.finish_reason)


def test_end_token_ends_the_answer_and_shows_no_text(tiny: Bench) -> None:
    found = None
    for seed in range(40):
        found = tiny.ask(tokens(20), seed=seed, temperature=2, max_tokens=100)
        if found.finish_reason == "stop":
            break
    assert found is not None
    assert found.finish_reason == "stop"
    assert found.token_ids[-1] == 1
    assert "</s>" not in found.text


def test_stop_string_is_cut_and_ends_the_answer(tiny: Bench) -> None:
    whole = tiny.ask(tokens(33), max_tokens=60)
    stop = whole.text[10:13]
    cut = tiny.ask(tokens(33), max_tokens=60, stop=(stop,))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert len(cut.token_ids) < len(whole.token_ids)


def test_same_seed_gives_the_same_answer_and_another_seed_another(tiny: Bench) -> None:
    options = {"temperature": 1.3, "top_p": 0.9, "max_tokens": 20}
    first = tiny.cold(tokens(30), seed=1, **options)
    assert tiny.ask(tokens(30), seed=1, **options).token_ids == first.token_ids
    assert tiny.ask(tokens(30), seed=2, **options).token_ids != first.token_ids


def test_max_tokens_bounds_the_answer_and_none_means_the_context(tiny: Bench) -> None:
    assert len(tiny.ask(tokens(10), max_tokens=1).token_ids) == 1
    context = tiny.core.capabilities().models[0].context_tokens
    long = tiny.ask(tokens(context - 5), max_tokens=None)
    assert len(long.token_ids) == 5
    assert long.finish_reason == "length"


def test_wrong_requests_are_refused_and_leave_nothing(tiny: Bench) -> None:
    context = tiny.core.capabilities().models[0].context_tokens
    wrong = [
        ([], {}, InvalidRequest),
        ([5, 258], {}, InvalidRequest),
        ([5, -1], {}, InvalidRequest),
        (tokens(context), {}, ContextOverflow),
        (tokens(context - 10), {"max_tokens": 11}, ContextOverflow),
    ]
    for prompt, options, error in wrong:
        with pytest.raises(error):
            tiny.core.add(tiny.request(prompt, **options))
    with pytest.raises(UnknownModel):
        tiny.core.tokenize("another", TextPrompt(text="hello"))
    assert not tiny.core.has_work()


def test_full_queue_refuses(tiny_with: Callable[..., Bench]) -> None:
    tiny = tiny_with(queue_max=2, slots=3)
    for _ in range(5):
        tiny.core.add(tiny.request(tokens(20)))
    with pytest.raises(EngineOverloaded):
        tiny.core.add(tiny.request(tokens(20)))


def test_model_that_computes_no_numbers_fails_its_requests_and_the_engine_goes_on(
    tiny: Bench,
) -> None:
    before = tiny.ask(tokens(300))
    other = tiny.ask(tokens(60, seed=3))
    weights = tiny.core._parts.step._model.lm_head.weight
    kept = weights.data.clone()
    weights.data.fill_(float("nan"))
    tiny.core.add(tiny.request(tokens(300)))
    failed = tiny.step().failed
    assert [(name, type(error)) for name, error in failed] == [("r3", EngineFailed)]
    assert not tiny.core.has_work()
    weights.data.copy_(kept)
    # What the failed request had used may be wrong, and is not used again.
    assert tiny.ask(tokens(300)).token_ids == before.token_ids
    again = tiny.ask(tokens(60, seed=3))
    assert (again.token_ids, again.cached_tokens) == (other.token_ids, 48)
    tiny.core.reset()
    assert tiny.core.cache_events()[0] == Cleared()


def test_posture_says_what_runs_where(tiny: Bench, tiny_folder: Path) -> None:
    posture = tiny.core.posture
    assert (posture.model, posture.folder) == (tiny_folder.name, tiny_folder)
    assert (posture.device, posture.device_why) == ("cpu", "asked for")
    assert (posture.dtype, posture.threads) == ("float32", 1)
    assert posture.kv_cache_bytes <= 4 << 20
    capabilities = tiny.core.capabilities()
    assert (capabilities.description, capabilities.device) == ("embedded", posture.describe())
    assert capabilities.cache_bytes == posture.kv_cache_bytes
    assert posture.describe() == "cpu (asked for), float32, 1 thread"


def test_cache_too_small_for_any_answer_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(UnsupportedModel, match="--kv-cache"):
        load_engine(EngineSettings(model=str(tiny_folder), device="cpu", kv_cache_bytes=4096))


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="safetensors"):
        load_engine(EngineSettings(model=str(tmp_path), device="cpu"))


def test_size_of_the_cache_follows_from_the_device_when_it_is_not_given(
    tiny_with: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    posture = tiny_with(kv_cache_bytes=None, slots=3).core.posture
    assert posture.kv_cache_bytes == CPU_CACHE_BYTES
    assert posture.slots == 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000, 4000))
    assert free_bytes(torch.device("cuda", 0)) == 1000
