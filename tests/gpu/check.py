# ruff: noqa: T201 - a script that says what it found
"""The embedded engine on a CUDA machine: the same answers as transformers, warm as cold.

    python -m tests.gpu.check [--device cuda|cpu]

Needs torch, transformers and what they bring, and nothing else of this project's parts. The models
have random weights, so nothing is fetched. Ends with 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from inference.embedded import GPU_MEMORY_FRACTION
from inference.request import Namespace
from tests.inference.bench import Bench, opened, save_tiny_llama
from tests.inference.equality import Comparison, Expected, Reference, compare

PROMPTS = 24
ANSWER_TOKENS = 24
PREFIX_TOKENS = 600
CACHE_BYTES = 64 << 20
TENANT = Namespace("a")
FAST_KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]


def prompts(seed: int) -> list[tuple[int, ...]]:
    """Prompts of which most share one long beginning, as chats do."""
    rng = random.Random(seed)
    shared = [rng.randrange(2, 258) for _ in range(PREFIX_TOKENS)]
    return [
        (
            *shared[: rng.choice((0, 15, 16, 255, 256, PREFIX_TOKENS))],
            *rng.choices(range(2, 258), k=9),
        )
        for _ in range(PROMPTS)
    ]


def equality(bench: Bench) -> Comparison:
    """Batches of 1, 4 and 8, cold and warm, resumed and preempted, in float32."""
    reference, seen = Reference(bench), Comparison()
    expected: list[tuple[str, Expected]] = [
        (f"prompt {number}", reference.answer(prompt, ANSWER_TOKENS))
        for number, prompt in enumerate(prompts(1))
    ]
    for at_once in (1, 4, 8):
        bench.core.reset()
        for _ in ("cold", "warm"):
            compare(bench, expected, seen, at_once=at_once)
    cuts = [len(answer.token_ids) // 2 for _, answer in expected]
    compare(bench, expected, seen, emitted=cuts)
    compare(bench, expected, seen, at_once=8, shaken=random.Random(2))
    seen.check()
    return seen


def warm_as_cold(bench: Bench) -> int:
    """How many of the prompts give other tokens when their beginning is cached."""
    different = 0
    for prompt in prompts(3):
        cold = bench.cold(prompt, max_tokens=ANSWER_TOKENS).token_ids
        different += bench.ask(prompt, max_tokens=ANSWER_TOKENS).token_ids != cold
    return different


def without_slow_kernel(bench: Bench, device: str) -> None:
    """Prefill and decode of a batch where the plain arithmetic kernel is forbidden."""
    context = sdpa_kernel(FAST_KERNELS) if device == "cuda" else nullcontext()
    with context:
        bench.ask_all([bench.request(prompt, max_tokens=4) for prompt in prompts(4)[:8]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    wrong = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_tiny_llama(folder)
        engine = partial(opened, model=str(folder), device=device)
        with engine(dtype="float32", kv_cache_bytes=CACHE_BYTES) as bench:
            print(f"on {bench.core.posture.describe()}, torch {torch.__version__}")
            print(f"float32 against generate: {equality(bench)}")
            different = warm_as_cold(bench)
            wrong += different
            print(f"float32, warm unlike cold: {different} of {PROMPTS}")
        with engine(dtype="float32", kv_cache_bytes=CACHE_BYTES, strict=True) as bench:
            bench.core.share_among([TENANT])
            different = warm_as_cold(bench)
            wrong += different
            print(f"float32, strict isolation, warm unlike cold: {different} of {PROMPTS}")
        with engine(dtype="bfloat16", kv_cache_bytes=CACHE_BYTES) as bench:
            # Not asserted: bfloat16's kernels may depend on how many rows they are given.
            print(f"bfloat16, warm unlike cold: {warm_as_cold(bench)} of {PROMPTS}")
            without_slow_kernel(bench, device)
            print("bfloat16, masked and batched attention: no fallback to the plain kernel")
        if device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            with engine(dtype="bfloat16") as bench:
                size = bench.core.posture.kv_cache_bytes
                print(f"cache by itself: {size >> 20} MiB of {free >> 20} MiB free")
                wrong += not 0.8 * GPU_MEMORY_FRACTION * free <= size <= free
    print("wrong" if wrong else "well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
