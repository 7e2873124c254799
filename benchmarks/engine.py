"""The embedded engine beside others: warm against cold, decoding, mixed load, the loop beside it.

`python -m benchmarks.engine [--json PATH] [--dtype NAME] [--threads N] [--quick]`. All engines get
the same prompts, number format and threads, in rounds that take turns; a figure is the median of
its rounds. Decoding is counted from the moment at which every stream has its first token to that at
which the first stream ends. vLLM takes part where `.venv-vllm` is there, llama-server where it is
installed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import trio

from benchmarks.engine_rivals import Rival, plain_model, request_of, rivals
from benchmarks.trips import quantile
from benchmarks.ttft import PREFIX_TOKENS, first_token, prompts
from inference.embedded import EngineSettings, load_engine
from inference.request import BLOCK_TOKENS
from inference.scheduler import EmbeddedCore
from inference.worker import EngineWorker

STREAMS = (1, 4, 8)
PROMPT_TOKENS = 32
ANSWER_TOKENS = 40
ROUNDS = 3
CACHE_BYTES = 1 << 29
CALLERS = 8
MIXED_REQUESTS = 48
TENANTS = ("a", "b", "c")
LAG_PERIOD_S = 0.002
EQUAL_PROMPTS = 8
EQUAL_TOKENS = 16
NEAR_TIE = 1e-3
VOCABULARY = (300, 40_000)
"""Token ids to draw prompts from: ordinary ones."""


def drawn(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(*VOCABULARY) for _ in range(count)]


def loaded(dtype: str, threads: int) -> EmbeddedCore:
    return load_engine(
        EngineSettings(
            device="cpu", dtype=dtype, threads=threads, kv_cache_bytes=CACHE_BYTES, slots=8
        )
    )


def warm_against_cold(core: EmbeddedCore, colds: int) -> dict[str, object]:
    """First token with and without a cached prefix of 1,500 tokens; cold and warm take turns."""
    asked = prompts(core)
    cold: list[float] = []
    warm: list[float] = []
    for number in range(colds):
        core.reset()
        cold.append(first_token(core, "cold", asked[-1]).wall_s)
        part = asked[number % 2 : -1 : 2] if colds > 1 else asked[:-1]
        warm += [first_token(core, "warm", prompt).wall_s for prompt in part]
    core.reset()
    cold_s, warm_s = statistics.median(cold), statistics.median(warm)
    return {
        "prefix_tokens": PREFIX_TOKENS,
        "cold_ttft_ms_p50": round(1e3 * cold_s, 1),
        "warm_ttft_ms_p50": round(1e3 * warm_s, 1),
        "ratio": round(cold_s / warm_s, 2),
    }


def tokens_per_s(times: Sequence[Sequence[float]]) -> float:
    """All streams' tokens from when all have begun until the first ends."""
    began_s = max(stream[0] for stream in times)
    ended_s = min(stream[-1] for stream in times)
    if ended_s <= began_s:
        return 0.0
    made = sum(began_s < moment <= ended_s for stream in times for moment in stream)
    return made / (ended_s - began_s)


def decoding(engines: dict[str, Rival | None], rounds: int) -> dict[str, dict[str, float] | None]:
    """Tokens a second of each engine at each number of streams."""
    runs: dict[str, dict[int, list[float]]] = {
        name: {streams: [] for streams in STREAMS}
        for name, engine in engines.items()
        if engine is not None
    }
    for round_ in range(-1, rounds):
        # The first round warms everybody up and does not count.
        for streams in STREAMS if round_ >= 0 else STREAMS[:1]:
            asked = [drawn(1000 * round_ + n, PROMPT_TOKENS) for n in range(streams)]
            for name, engine in engines.items():
                if engine is None:
                    continue
                rate = tokens_per_s(engine.decode(asked, ANSWER_TOKENS))
                if round_ >= 0:
                    runs[name][streams].append(rate)
                    note(f"round {round_}, {streams} streams, {name}: {rate:.1f} tok/s")
    return {
        name: None
        if name not in runs
        else {str(streams): round(statistics.median(runs[name][streams]), 1) for streams in STREAMS}
        for name in engines
    }


@dataclass
class Beside:
    """What is seen from the loop while the engine works in its thread."""

    lags_s: list[float] = field(default_factory=list)
    ttfts_s: list[float] = field(default_factory=list)
    took_s: float = 0.0


async def watch_the_loop(seen: Beside) -> None:
    while True:
        due_s = trio.current_time() + LAG_PERIOD_S
        await trio.sleep_until(due_s)
        seen.lags_s.append(trio.current_time() - due_s)


async def ask(worker: EngineWorker, core: EmbeddedCore, name: str, seen: Beside) -> None:
    """One request of a mix: a tenant's shared beginning, an end of its own, a short answer."""
    rng = random.Random(name)
    tenant = rng.choice(TENANTS)
    shared = drawn(len(tenant) + ord(tenant), 400)[: rng.choice((0, 100, 400))]
    prompt = shared + drawn(rng.randrange(1 << 30), rng.randrange(10, 120))
    request = request_of(core, name, prompt, rng.randrange(8, 33), tenant)
    began_s = trio.current_time()
    async with worker.submit(request) as stream:
        await anext(stream)
        seen.ttfts_s.append(trio.current_time() - began_s)
        async for _ in stream:
            pass


async def decode_one(worker: EngineWorker, core: EmbeddedCore, number: int) -> None:
    request = request_of(core, f"lag-{number}", drawn(number, PROMPT_TOKENS), 3 * ANSWER_TOKENS)
    async with worker.submit(request) as stream:
        async for _ in stream:
            pass


async def beside_a_loop(core: EmbeddedCore, requests: int) -> tuple[Beside, Beside]:
    """A mix by :data:`CALLERS` callers, then full decoding; closes the core."""
    mixed, full = Beside(), Beside()
    names = [f"mixed-{number}" for number in range(requests)]
    worker = EngineWorker(core, in_thread=True)

    async def caller() -> None:
        while names:
            await ask(worker, core, names.pop(), mixed)

    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        for seen, tasks in (
            (mixed, [caller] * CALLERS),
            (full, [partial(decode_one, worker, core, number) for number in range(CALLERS)]),
        ):
            began_s = trio.current_time()
            async with trio.open_nursery() as watching:
                watching.start_soon(watch_the_loop, seen)
                async with trio.open_nursery() as asking:
                    for task in tasks:
                        asking.start_soon(task)
                watching.cancel_scope.cancel()
            seen.took_s = trio.current_time() - began_s
        nursery.cancel_scope.cancel()
    return mixed, full


@torch.inference_mode()
def equal_tokens(core: EmbeddedCore) -> bool:
    """Whether batched answers are those of ``generate``, up to the first near-tie of each."""
    model = plain_model(core.posture.folder, torch.float32)
    asked = [drawn(number, 40 + 17 * number) for number in range(EQUAL_PROMPTS)]
    core.reset()
    for number, prompt in enumerate(asked):
        core.add(request_of(core, str(number), prompt, EQUAL_TOKENS))
    answers: dict[str, list[int]] = {str(number): [] for number in range(len(asked))}
    while core.has_work():
        for name, event in core.step().events:
            answers[name] += event.token_ids or ()
    core.reset()
    for prompt, answer in zip(asked, answers.values(), strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=EQUAL_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )[0]
        logits = model(whole[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        first, second = logits.topk(2, dim=-1).values.unbind(-1)
        for token, expected, gap in zip(
            answer, whole[len(prompt) :].tolist(), (first - second).tolist(), strict=True
        ):
            if gap <= NEAR_TIE:
                break
            if token != expected:
                return False
    return True


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report(dtype: str, threads: int, *, quick: bool) -> dict[str, object]:
    """All figures of one run."""
    core = loaded(dtype, threads)
    shape = core.posture
    figures: dict[str, object] = {
        "model": shape.model,
        "dtype": dtype,
        "threads": threads,
        "warm": warm_against_cold(core, 1 if quick else 4),
    }
    note(f"warm: {figures['warm']}")
    with rivals(core, dtype, threads, servers=not quick) as engines:
        figures["decode_tok_s"] = decoding(engines, 1 if quick else ROUNDS)
        equal = equal_tokens(core) if dtype == "float32" else None
    mixed, full = trio.run(beside_a_loop, core, CALLERS if quick else MIXED_REQUESTS)
    figures["mixed"] = {
        "requests_per_s": round(len(mixed.ttfts_s) / mixed.took_s, 2),
        "ttft_ms_p50": round(1e3 * quantile(mixed.ttfts_s, 0.5)),
        "ttft_ms_p99": round(1e3 * quantile(mixed.ttfts_s, 0.99)),
    }
    figures["loop_lag_ms_p99"] = round(1e3 * quantile(full.lags_s, 0.99), 2)
    figures["bytes_per_cached_token"] = shape.kv_cache_bytes // shape.kv_blocks // BLOCK_TOKENS
    figures["equal_tokens_f32"] = equal
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--dtype", default="float32", help="number format of all engines")
    parser.add_argument("--threads", type=int, default=1, help="threads of all engines")
    parser.add_argument("--quick", action="store_true", help="one round, and no servers")
    options = parser.parse_args()
    began_s = time.perf_counter()
    figures = report(options.dtype, options.threads, quick=options.quick)
    text = json.dumps(figures, indent=2)
    print(text)
    note(f"took {time.perf_counter() - began_s:.0f} s")
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
