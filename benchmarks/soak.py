"""20,000 requests on a tiny random model: cancels, evictions, preemptions, memory that runs out.

`python -m benchmarks.soak [--requests N] [--seed N] [--check-every N]`. It fails where a block is
lost or doubled, an event is wrong, a request does not end exactly once, or memory grows by more
than :data:`GROWTH_MAX` bytes a request over the second half.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from inference.batching import ContinuousBatch
from inference.cache import PrefixCache
from inference.embedded import EngineSettings, load_engine
from inference.errors import ContextOverflow, EngineOverloaded
from inference.events import BlocksEvicted, BlocksStored, Cleared
from inference.request import EngineRequest, Namespace, Sampling
from inference.scheduler import EmbeddedCore
from inference.step import Rows
from tests.inference.bench import block_bytes, save_tiny_llama

BLOCKS = 120
SLOTS = 8
OPEN_MAX = SLOTS + 24
TENANTS = 40
"""More than ever run at once, so that tenants come and go."""

GROWTH_MAX = 200.0
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory (injected)"
STATM = Path("/proc/self/statm")


class Unreliable:
    """A model step that now and then has no memory."""

    def __init__(self, step: object, rng: random.Random) -> None:
        self._step = step
        self._rng = rng
        self.raised = 0

    def run(self, batch: Sequence[Rows]) -> list[torch.Tensor | None]:
        if self._rng.random() < 0.02 and (len(batch) > 1 or self._rng.random() < 0.1):
            self.raised += 1
            raise RuntimeError(NO_MEMORY)
        given: list[torch.Tensor | None] = self._step.run(batch)  # type: ignore[attr-defined]
        return given


class Soak:
    """The engine, what was asked of it, and what it said about its cache."""

    def __init__(self, core: EmbeddedCore, seed: int, check_every: int) -> None:
        self.core = core
        cache = core._cache  # noqa: SLF001 - it is emptied, and compared with what was told
        assert isinstance(cache, PrefixCache)
        self.cache = cache
        self.rng = random.Random(seed)
        self.step = Unreliable(core._passes._step, self.rng)  # noqa: SLF001 - faults are put in here
        core._passes._step = self.step  # noqa: SLF001
        self.counts: Counter[str] = Counter()
        self.open: set[str] = set()
        self.held: set[tuple[Namespace, bytes]] = set()
        self._check_every = check_every
        self._steps = 0

    def run(self, requests: int) -> list[tuple[int, int]]:
        """Asks so many; returns (requests so far, memory in bytes) along the way."""
        memory: list[tuple[int, int]] = []
        while self.counts["asked"] < requests:
            for _ in range(self.rng.choice((0, 0, 1, 2, 3))):
                # Now and then more than may wait, so that some are refused.
                if len(self.open) < OPEN_MAX or self.rng.random() < 0.01:
                    self._ask()
            if self.rng.random() < 0.1 and self.open:
                self._cancel(self.rng.choice(sorted(self.open)))
            if self.rng.random() < 0.005:
                self.cache.evict_all()
            self._do_step()
            if self._steps % 200 == 0:
                memory.append((self.counts["asked"], resident_bytes()))
        while self.core.has_work():
            self._do_step()
        assert not self.open, f"{len(self.open)} requests never ended"
        return memory

    def _ask(self) -> None:
        number, rng = self.counts["asked"], self.rng
        self.counts["asked"] += 1
        tenant = f"tenant-{int(TENANTS * rng.random() ** 2) + number // 2000 * TENANTS}"
        shared = random.Random(f"{tenant} {rng.randrange(4)}").choices(range(2, 258), k=160)
        prompt = shared[: rng.choice((0, 16, 60, 160))] + rng.choices(
            range(2, 258), k=rng.choice((1, 8, 30, 200))
        )
        request = EngineRequest(
            request_id=str(number),
            namespace=Namespace(tenant),
            chain_key=(tenant.encode() * 32)[:32],
            model=self.core.posture.model,
            token_ids=tuple(prompt),
            sampling=Sampling(
                seed=number,
                temperature=rng.choice((0.0, 1.0)),
                max_tokens=rng.choice((1, 2, 4, 8, 120)),
            ),
        )
        try:
            self.core.add(request)
        except (EngineOverloaded, ContextOverflow):
            self.counts["refused"] += 1
            return
        self.open.add(request.request_id)

    def _cancel(self, name: str) -> None:
        self.core.cancel(name)
        self.open.remove(name)
        self.counts["cancelled"] += 1

    def _do_step(self) -> None:
        self._steps += 1
        result = self.core.step()
        for name, event in result.events:
            assert name in self.open, "an event of a request that had ended"
            if event.finish_reason is not None:
                self.open.remove(name)
                self.counts["answered"] += 1
        for name, _ in result.failed:
            self.open.remove(name)
            self.counts["failed"] += 1
        self._fold()
        if self._steps % self._check_every == 0:
            self.core.check_integrity()
            tree = {
                (event.namespace, block)
                for event in self.cache.contents()
                for block in event.blocks
            }
            assert tree == self.held, "the fold of the events is not the tree"

    def _fold(self) -> None:
        for event in self.core.cache_events():
            match event:
                case BlocksStored():
                    blocks = {(event.namespace, block) for block in event.blocks}
                    assert not blocks & self.held
                    self.held |= blocks
                case BlocksEvicted():
                    self.counts["evicted blocks"] += len(event.blocks)
                    for block in event.blocks:
                        self.held.remove((event.namespace, block))
                case Cleared():
                    self.held.clear()


def resident_bytes() -> int:
    """Memory of this process, from Linux."""
    return int(STATM.read_text().split()[1]) * 4096


def slope(memory: Sequence[tuple[int, int]]) -> float:
    """Bytes a request over the second half of the run."""
    half = memory[len(memory) // 2 :]
    if len(half) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in half], [y for _, y in half]).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check-every", type=int, default=1, help="steps between whole checks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_llama(Path(folder))
        core = load_engine(
            EngineSettings(
                model=folder,
                device="cpu",
                threads=1,
                kv_cache_bytes=BLOCKS * block_bytes(),
                slots=SLOTS,
                queue_max=25,
            )
        )
    soak = Soak(core, options.seed, options.check_every)
    began_s = time.perf_counter()
    memory = soak.run(options.requests)
    core.check_integrity()
    grows = slope(memory)
    batch = core._batch  # noqa: SLF001 - it counts
    assert isinstance(batch, ContinuousBatch)
    counts = dict(soak.counts) | {
        "out of memory": soak.step.raised,
        "preempted": batch.preemptions,
    }
    print(f"{counts}, {time.perf_counter() - began_s:.0f} s")
    print(
        f"memory {memory[0][1] >> 20} MiB at first, {memory[-1][1] >> 20} MiB at the end, "
        f"slope {grows:.0f} bytes a request in the second half (at most {GROWTH_MAX:.0f})"
    )
    if grows > GROWTH_MAX:
        sys.exit(1)
    print("every block in its place after every step checked, every request ended once")


if __name__ == "__main__":
    main()
