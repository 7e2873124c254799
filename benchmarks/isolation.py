"""What ``isolation = "strict"`` costs with the real model, beside shared: one thread, CPU time.

    python -m benchmarks.isolation [--quick] [--json]

"cold" and "warm" are the CPU seconds to the first token of a prompt that is new, or cached but for
its end; "held" those until a warm request's slot is free; "decode" the tokens per CPU second of
eight answers at 500 tokens each. Both engines are measured in turns; the best of all rounds
counts, as neighbours only ever cost time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from inference.embedded import EngineSettings, load_engine
from inference.request import EngineRequest, Namespace, Sampling
from inference.scheduler import EmbeddedCore

TENANT = Namespace("benchmark")
PREFIX_TOKENS = 1500
END_TOKENS = 30
DECODE_PROMPT_TOKENS = 500
DECODED_TOKENS = 16
STREAMS = 8
CACHE_BYTES = 1 << 29


def tokens(count: int, seed: int) -> list[int]:
    """A prompt that no other seed has anything of."""
    return random.Random(seed).choices(range(100, 40_000), k=count)


class Engine:
    """One engine, stepped by hand."""

    def __init__(self, *, strict: bool) -> None:
        settings = EngineSettings(
            device="cpu", dtype="float32", threads=1, kv_cache_bytes=CACHE_BYTES, strict=strict
        )
        self.core: EmbeddedCore = load_engine(settings)
        self.core.share_among([TENANT])
        self._asked = 0

    def add(self, prompt: Sequence[int], *, max_tokens: int) -> None:
        """Queues a greedy request."""
        self._asked += 1
        model = self.core.capabilities().models[0].name
        self.core.add(
            EngineRequest(
                request_id=f"r{self._asked}",
                namespace=TENANT,
                chain_key=bytes(32),
                model=model,
                token_ids=tuple(prompt),
                sampling=Sampling(seed=1, temperature=0, max_tokens=max_tokens),
            )
        )

    def first_token(self, prompt: Sequence[int]) -> tuple[float, float]:
        """CPU seconds to the first token, and until nothing is held any more."""
        self.add(prompt, max_tokens=1)
        began_s, first_s = time.process_time(), 0.0
        while self.core.has_work():
            if self.core.step().events:
                first_s = time.process_time() - began_s
        return first_s, time.process_time() - began_s

    def decode(self, seed: int) -> float:
        """Tokens per CPU second of several answers at once, their prompts not counted."""
        for stream in range(STREAMS):
            prompt = tokens(DECODE_PROMPT_TOKENS, STREAMS * seed + stream)
            self.add(prompt, max_tokens=DECODED_TOKENS)
        spent_s, given = 0.0, 0
        while self.core.has_work():
            alone = not self.core.load().queued_tokens
            began_s = time.process_time()
            count = len(self.core.step().events)
            if alone:
                spent_s += time.process_time() - began_s
                given += count
        return given / spent_s


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """The best of both engines."""
    engines = {"shared": Engine(strict=False), "strict": Engine(strict=True)}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
    for seed in range(rounds):
        for name, engine in engines.items():
            prefix = tokens(PREFIX_TOKENS, 1000 + seed)
            cold_s, _ = engine.first_token([*prefix, *tokens(END_TOKENS, 2000 + seed)])
            warm_s, held_s = engine.first_token([*prefix, *tokens(END_TOKENS, 3000 + seed)])
            taken = {"cold_s": cold_s, "warm_s": warm_s, "held_s": held_s}
            taken["decode_tokens_per_s"] = engine.decode(seed)
            for what, value in taken.items():
                found[name].setdefault(what, []).append(value)
    return {
        name: {
            what: max(values) if what.endswith("per_s") else min(values)
            for what, values in taken.items()
        }
        for name, taken in found.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results = measured(1 if options.quick else 5)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for what, shared in results["shared"].items():
            strict = results["strict"][what]
            print(f"{what:20} shared {shared:7.3f}  strict {strict:7.3f}  {strict / shared:.2f} x")
