# ruff: noqa: T201 - a script that says what it found
"""How fast the embedded engine is on a CUDA machine, as one JSON object.

    python -m tests.gpu.bench [--device cuda|cpu] [--layers N]

The model has random weights and the shape of a Llama of about a billion parameters: speed does not
depend on what a model knows.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from inference.embedded import EngineSettings, load_engine
from inference.scheduler import EmbeddedCore
from tests.inference.bench import Bench, save_tokenizer

STREAMS = (1, 4, 8, 32)
PREFIX_TOKENS = 1500
PROMPT_TOKENS = 64
ANSWER_TOKENS = 64
ROUNDS = 3


def save_llama(folder: Path, layers: int) -> None:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)


def drawn(rng: random.Random, tokens: int) -> tuple[int, ...]:
    return tuple(rng.randrange(2, 32_000) for _ in range(tokens))


def first_token_ms(bench: Bench, prompt: tuple[int, ...]) -> float:
    began = time.perf_counter()
    bench.ask(prompt, max_tokens=1)
    return 1000 * (time.perf_counter() - began)


def warm_against_cold(bench: Bench, rng: random.Random) -> dict[str, float]:
    cold, warm = [], []
    for _ in range(ROUNDS):
        prefix = drawn(rng, PREFIX_TOKENS)
        cold.append(first_token_ms(bench, (*prefix, *drawn(rng, 32))))
        warm += [first_token_ms(bench, (*prefix, *drawn(rng, 32))) for _ in range(3)]
    cold_ms, warm_ms = statistics.median(cold), statistics.median(warm)
    return {
        "prefix_tokens": PREFIX_TOKENS,
        "cold_ttft_ms_p50": round(cold_ms, 2),
        "warm_ttft_ms_p50": round(warm_ms, 2),
        "ratio": round(cold_ms / warm_ms, 2),
    }


def decode_tok_s(bench: Bench, rng: random.Random, streams: int) -> float:
    """Tokens per second from the moment when every stream has begun."""
    core: EmbeddedCore = bench.core
    begun: dict[str, int] = {}
    for _ in range(streams):
        request = bench.request(drawn(rng, PROMPT_TOKENS), max_tokens=ANSWER_TOKENS)
        begun[request.request_id] = 0
        core.add(request)
    while not all(begun.values()):
        for name, event in core.step().events:
            begun[name] += len(event.token_ids or ())
    began, tokens = time.perf_counter(), 0
    while core.has_work():
        events = core.step().events
        tokens += sum(len(event.token_ids or ()) for _, event in events)
        if any(event.finish_reason for _, event in events):
            break
    seconds = time.perf_counter() - began
    core.reset()
    return tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", type=int, default=16)
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_llama(folder, options.layers)
        settings = EngineSettings(
            model=str(folder),
            device=options.device,
            dtype="bfloat16",
            slots=max(STREAMS),
            kv_cache_bytes=None if options.device == "cuda" else 1 << 30,
        )
        core = load_engine(settings)
        bench = Bench(core)
        found = {
            "device": core.posture.describe(),
            "torch": torch.__version__,
            "layers": options.layers,
            "warm": warm_against_cold(bench, rng),
            "decode_tok_s": {
                str(streams): round(
                    statistics.median(decode_tok_s(bench, rng, streams) for _ in range(ROUNDS)), 1
                )
                for streams in STREAMS
            },
        }
        core.close()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
