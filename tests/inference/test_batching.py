"""Many requests at once: no answer changes, nothing is lost, and tenants keep their shares."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from inference.errors import EngineFailed
from inference.request import BLOCK_TOKENS
from inference.step import CHUNK_TOKENS, Rows
from tests.inference.bench import Bench, block_bytes


def tokens(count: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(2, 258), k=count)


def small(tiny_with: Callable[..., Bench], blocks: int, **settings: object) -> Bench:
    """A tiny engine with so many blocks."""
    return tiny_with(kv_cache_bytes=blocks * block_bytes(), **settings)


class Breaks:
    """Raises in a pass of more than ``most`` requests, or where a token is computed."""

    def __init__(self, step: object, *, most: int = 99, token: int | None = None) -> None:
        self._step = step
        self._most = most
        self._token = token

    def run(self, batch: Sequence[Rows]) -> list[torch.Tensor | None]:
        if len(batch) > self._most:
            raise RuntimeError("out of memory")
        if any(self._token in rows.token_ids for rows in batch):
            raise ValueError("a bad token")
        return self._step.run(batch)  # type: ignore[attr-defined] - a model step


def test_answers_in_a_batch_are_those_given_alone(tiny: Bench) -> None:
    prompts = [tokens(length, length) for length in (3, 16, 40, 255, 256, 300, 70, 520, 33, 64)]
    alone = [tiny.cold(prompt, max_tokens=20).token_ids for prompt in prompts]
    tiny.core.reset()
    together = tiny.ask_all([tiny.request(prompt, max_tokens=20) for prompt in prompts])
    assert [answer.token_ids for answer in together] == alone


def test_so_many_run_as_there_are_slots(tiny_with: Callable[..., Bench]) -> None:
    tiny = tiny_with(slots=3)
    assert tiny.core.capabilities().slots == 3
    for seed in range(5):
        tiny.core.add(tiny.request(tokens(30, seed), max_tokens=4))
    tiny.step()
    assert (tiny.core.load().running, tiny.core.load().queued) == (3, 2)
    tiny.drain()


def test_answers_go_on_while_a_long_prompt_is_computed(tiny: Bench) -> None:
    tiny.core.add(tiny.request(tokens(20), max_tokens=30))
    tiny.step()
    tiny.core.add(tiny.request(tokens(1500, 2), namespace="b", max_tokens=2))
    for _ in range(1500 // CHUNK_TOKENS):
        assert [name for name, _ in tiny.step().events] == ["r1"]
    assert [name for name, _ in tiny.step().events] == ["r1", "r2"]
    tiny.drain()


def test_chunks_of_a_step_are_one_budget_and_tenants_take_turns(tiny: Bench) -> None:
    plans: list[list[tuple[int, int]]] = []
    step = tiny.core._passes._step

    class Watched:
        def run(self, batch: Sequence[Rows]) -> list[torch.Tensor | None]:
            plans.append([(rows.start, rows.end) for rows in batch if not rows.decode])
            return step.run(batch)

    tiny.core._passes._step = Watched()
    tiny.core.add(tiny.request(tokens(600, 1), max_tokens=1))
    tiny.core.add(tiny.request(tokens(600, 2), max_tokens=1))
    tiny.core.add(tiny.request(tokens(300, 3), namespace="b", max_tokens=1))
    tiny.drain()
    for plan in plans:
        assert sum(end - start for start, end in plan) <= CHUNK_TOKENS
        assert all(end % CHUNK_TOKENS == 0 or end in (600, 300) for _, end in plan)
    # a, b, a, then what is left of both.
    assert plans[:2] == [[(0, 256)], [(0, 256)]]
    assert plans[2] == [(256, 512)]
    assert plans[3][0] == (256, 300)


def test_requests_of_one_prefix_that_arrive_together_compute_it_once(tiny: Bench) -> None:
    prefix = tokens(400)
    requests = [tiny.request([*prefix, *tokens(20, seed)], max_tokens=3) for seed in range(4)]
    answers = tiny.ask_all(requests)
    assert [answer.cached_tokens for answer in answers] == [0, 400, 400, 400]
    for request, answer in zip(requests, answers, strict=True):
        assert tiny.cold(request.token_ids, max_tokens=3).token_ids == answer.token_ids


def test_answers_that_outgrow_memory_are_preempted_and_all_end(
    tiny_with: Callable[..., Bench],
) -> None:
    tiny = small(tiny_with, 30)
    requests = [tiny.request(tokens(60, seed), max_tokens=120) for seed in range(6)]
    answers = tiny.ask_all(requests)
    assert tiny.core._batch.preemptions > 0
    for request, answer in zip(requests, answers, strict=True):
        whole = tiny.cold(request.token_ids, max_tokens=120)
        assert answer.token_ids == whole.token_ids


def test_one_request_may_use_every_block(tiny_with: Callable[..., Bench]) -> None:
    tiny = small(tiny_with, 20, reserved_fraction=1.0)
    tiny.ask(tokens(100, 2), namespace="b", max_tokens=1)
    context = tiny.core.capabilities().models[0].context_tokens
    assert context == 20 * BLOCK_TOKENS
    assert len(tiny.ask(tokens(context - 60), max_tokens=60).token_ids) == 60


def test_a_busy_tenant_does_not_evict_what_is_anothers_share(
    tiny_with: Callable[..., Bench],
) -> None:
    for fraction, kept in ((1.0, 304), (0.0, 0)):
        tiny = small(tiny_with, 48, reserved_fraction=fraction)
        mine = tokens(310)
        tiny.ask(mine, namespace="quiet", max_tokens=1)
        for seed in range(12):
            tiny.ask(tokens(300, seed + 5), namespace="busy", max_tokens=1)
        assert tiny.ask(mine, namespace="quiet", max_tokens=1).cached_tokens == kept


def test_a_tenant_within_its_share_is_let_in_at_once(tiny_with: Callable[..., Bench]) -> None:
    tiny = small(tiny_with, 48, slots=8, reserved_fraction=1.0)
    for seed in range(12):
        tiny.core.add(tiny.request(tokens(90, seed), namespace="busy", max_tokens=200))
    while tiny.core._cache.held_by("busy") <= 40:
        tiny.step()
    mine = tiny.request(tokens(150, 9), namespace="quiet", max_tokens=2)
    tiny.core.add(mine)
    events = [event for _ in range(3) for event in tiny.step().events]
    assert mine.request_id in [name for name, _ in events]
    ended = [name for name, event in tiny.drain() if event.finish_reason is not None]
    assert len(ended) >= 6


def test_growing_beyond_the_share_evicts_and_preempts_the_tenant_itself(
    tiny_with: Callable[..., Bench],
) -> None:
    tiny = small(tiny_with, 48, reserved_fraction=1.0)
    tiny.ask(tokens(300), namespace="quiet", max_tokens=1)
    requests = [
        tiny.request(tokens(60, seed + 2), namespace="busy", max_tokens=150) for seed in range(4)
    ]
    answers = tiny.ask_all(requests)
    assert tiny.ask(tokens(300), namespace="quiet", max_tokens=1).cached_tokens == 288
    for request, answer in zip(requests, answers, strict=True):
        assert tiny.cold(request.token_ids, max_tokens=150).token_ids == answer.token_ids


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_without_memory_is_halved_and_every_answer_comes(tiny: Bench, most: int) -> None:
    prompts = [tokens(50, seed) for seed in range(6)]
    alone = [tiny.cold(prompt, max_tokens=8).token_ids for prompt in prompts]
    tiny.core.reset()
    tiny.core._passes._step = Breaks(tiny.core._passes._step, most=most)
    answers = tiny.ask_all([tiny.request(prompt, max_tokens=8) for prompt in prompts])
    assert [answer.token_ids for answer in answers] == alone


def test_a_request_that_breaks_a_step_fails_alone(tiny: Bench) -> None:
    prompts = [[9 if token == 77 else token for token in tokens(50, seed)] for seed in range(4)]
    alone = [tiny.cold(prompt, max_tokens=1).token_ids for prompt in prompts]
    tiny.core.reset()
    tiny.core._passes._step = Breaks(tiny.core._passes._step, token=77)
    for prompt in prompts:
        tiny.core.add(tiny.request(prompt, max_tokens=1))
    tiny.core.add(tiny.request([*prompts[0], 77], max_tokens=1))
    events, failed = [], []
    while tiny.core.has_work():
        result = tiny.step()
        events += [event.token_ids for _, event in result.events]
        failed += result.failed
    assert sorted(events) == sorted(alone)
    assert [type(error) for _, error in failed] == [EngineFailed]
    assert tiny.core.load().used_blocks <= 4 * 3


@pytest.mark.parametrize("steps", range(8))
def test_cancelling_any_of_many_frees_its_blocks_at_once(tiny: Bench, steps: int) -> None:
    requests = [tiny.request(tokens(150, seed), max_tokens=30) for seed in range(10)]
    for request in requests:
        tiny.core.add(request)
    for _ in range(steps):
        tiny.step()
    left = {request.request_id for request in requests}
    for request in requests[::2]:
        tiny.core.cancel(request.request_id)
        tiny.core.check_integrity()
        left.discard(request.request_id)
    ended = [name for name, event in tiny.drain() if event.finish_reason is not None]
    assert sorted(ended) == sorted(left)
    assert tiny.core._cache.available_blocks == tiny.core.load().total_blocks


def test_an_id_that_is_in_use_is_refused(tiny: Bench) -> None:
    request = tiny.request(tokens(20))
    for _ in range(2):
        tiny.core.add(request)
        with pytest.raises(Exception, match="of this id"):
            tiny.core.add(request)
        tiny.step()
        with pytest.raises(Exception, match="of this id"):
            tiny.core.add(request)
        tiny.drain()


def test_sampled_answers_are_the_same_in_any_batch(tiny: Bench) -> None:
    options = {"temperature": 1.1, "top_p": 0.95, "top_k": 60, "min_p": 0.01, "max_tokens": 16}
    prompts = [tokens(30 + seed, seed) for seed in range(8)]
    alone = [tiny.cold(prompt, seed=at, **options).token_ids for at, prompt in enumerate(prompts)]
    tiny.core.reset()
    requests = [tiny.request(prompt, seed=at, **options) for at, prompt in enumerate(prompts)]
    assert [answer.token_ids for answer in tiny.ask_all(requests)] == alone


def test_load_tells_rates_under_mixed_work(tiny: Bench) -> None:
    for seed in range(4):
        tiny.core.add(tiny.request(tokens(300, seed), max_tokens=10))
    tiny.step()
    load = tiny.core.load()
    assert load.queued_tokens == 4 * 300 - CHUNK_TOKENS
    tiny.drain()
    load = tiny.core.load()
    assert (load.queued_tokens, load.running, load.queued) == (0, 0, 0)
    assert load.prefill_tokens_per_s > 0
    assert 0 < load.decode_s_per_token < 5


def test_a_request_larger_than_its_share_ends_beside_many_small_ones(
    tiny_with: Callable[..., Bench],
) -> None:
    """It gives way to a tenant that has been given less, and not to every request of it."""
    bench = tiny_with(kv_cache_bytes=48 * block_bytes(), slots=8, queue_max=99)
    rng = random.Random(1)
    large = bench.request(rng.choices(range(2, 258), k=690), namespace="a", max_tokens=8)
    bench.core.add(large)
    waiting: set[str] = set()
    answered = 0
    for _ in range(400):
        while len(waiting) < 3:
            prompt = rng.choices(range(2, 258), k=60)
            small = bench.request(prompt, namespace="b", max_tokens=4)
            bench.core.add(small)
            waiting.add(small.request_id)
        for name, event in bench.step().events:
            waiting.discard(name if event.finish_reason else "")
            answered += bool(event.finish_reason)
            if name == large.request_id and event.finish_reason:
                assert bench.core._batch.preemptions < 5
                assert answered > 1
                return
    pytest.fail("the large request does not end")


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1e-308, "top_p": 0.5},
        {"temperature": 5e-324, "top_k": 3},
        {"temperature": 1e-6, "min_p": 1.0},
        {"temperature": 2, "top_p": 1e-300, "top_k": 1, "min_p": 1.0},
        {"temperature": 1e-5, "top_p": 1.0},
    ],
)
def test_no_sampling_that_can_be_asked_for_ends_another_request(
    tiny: Bench, sampling: dict[str, float]
) -> None:
    alone = tiny.cold((5, 6, 7), max_tokens=12, namespace="b")
    requests = [
        tiny.request((5, 6, 7), max_tokens=12, namespace="b"),
        tiny.request((8, 9), max_tokens=12, **sampling),
    ]
    ordinary, odd = tiny.ask_all(requests)
    assert ordinary.token_ids == alone.token_ids
    assert odd.token_ids
