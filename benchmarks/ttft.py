"""Time to first token, warm against cold: the real model, one thread, a 1,500-token prefix.

`python -m benchmarks.ttft [--quick]`. A warm request shares the prefix with an earlier one and has
a question of its own of at most 48 tokens. The engine is stepped directly: no network, no queue.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

from inference.embedded import EngineSettings, load_engine
from inference.request import EngineRequest, Namespace, Sampling, TextPrompt
from inference.scheduler import EmbeddedCore

PREFIX_TOKENS = 1500
SUFFIX_TOKENS_MAX = 48
CACHE_BYTES = 1 << 28
PASSAGE = (
    "The harbour office kept a ledger of every ship that entered: its name, its home port, what it "
    "carried, how many sailed on it, and what the weather had been on the way. Whoever reads it "
    "today learns how a small town came to know the world. "
)
QUESTIONS = (
    "What did the harbour office keep?",
    "Which things about a ship were written down, and in which order? Answer in one sentence.",
    "Who reads the ledger today, and what may be learned from it about the town and the world?",
    "Was the weather recorded?",
    "Write a title for this text that a newspaper could print above it on a quiet Sunday morning.",
    "How does the text describe the size of the town?",
)


@dataclass(frozen=True)
class Took:
    """Time to the first token, by the clock on the wall and by the CPU's own."""

    wall_s: float
    cpu_s: float
    cached_tokens: int


def first_token(core: EmbeddedCore, name: str, token_ids: tuple[int, ...]) -> Took:
    request = EngineRequest(
        request_id=name,
        namespace=Namespace("benchmark"),
        chain_key=bytes(32),
        model=core.posture.model,
        token_ids=token_ids,
        sampling=Sampling(seed=0, temperature=0, max_tokens=1),
    )
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    core.add(request)
    while not (events := core.step().events):
        continue
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Took(wall_s, cpu_s, events[0][1].cached_tokens or 0)


def prompts(core: EmbeddedCore) -> list[tuple[int, ...]]:
    """The shared prefix with a different question each."""

    def tokens(text: str) -> tuple[int, ...]:
        return core.tokenize(core.posture.model, TextPrompt(text=text)) or ()

    prefix = tokens(PASSAGE * 40)[:PREFIX_TOKENS]
    assert len(prefix) == PREFIX_TOKENS
    return [prefix + tokens(each)[:SUFFIX_TOKENS_MAX] for each in QUESTIONS]


def measure(dtype: str, cold_runs: int) -> None:
    core = load_engine(
        EngineSettings(device="cpu", dtype=dtype, threads=1, kv_cache_bytes=CACHE_BYTES)
    )
    given = prompts(core)
    cold: list[Took] = []
    for prompt in given[-cold_runs:]:
        core.reset()
        cold.append(first_token(core, "cold", prompt))
    # The last cold prompt left the prefix; the questions that follow were not cached with it.
    warm = [first_token(core, "warm", prompt) for prompt in given[:-1]]
    core.close()
    print(
        f"{dtype:9} wall: cold {p50(cold, 'wall_s'):7.0f} ms, warm {p50(warm, 'wall_s'):5.0f} ms, "
        f"ratio {p50(cold, 'wall_s') / p50(warm, 'wall_s'):5.1f}    "
        f"CPU: cold {p50(cold, 'cpu_s'):6.0f} ms, warm {p50(warm, 'cpu_s'):5.0f} ms, "
        f"ratio {p50(cold, 'cpu_s') / p50(warm, 'cpu_s'):5.1f}    "
        f"cached {min(took.cached_tokens for took in warm)} of {max(map(len, given))} tokens"
    )


def p50(runs: list[Took], clock: str) -> float:
    """Milliseconds."""
    return 1e3 * float(statistics.median(getattr(took, clock) for took in runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one cold request only")
    cold_runs = 1 if parser.parse_args().quick else 3
    print(f"TTFT, {PREFIX_TOKENS}-token prefix, suffix <= {SUFFIX_TOKENS_MAX}, one thread, p50 of")
    print(f"{cold_runs} cold and {len(QUESTIONS) - 1} warm requests   (target: float32 ratio >= 8)")
    for dtype in ("float32", "bfloat16"):
        measure(dtype, cold_runs)


if __name__ == "__main__":
    main()
