"""An engine on the event heap: the toy engine's costs and the real prefix cache.

Like the toy engine with one slot: requests are taken first come first served, a prompt's uncached
tokens are computed, its blocks become reusable, then its answer is decoded. With more slots prompts
are still computed one after another, and answers decoded side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.cache import CacheFull, Lease, PrefixCache
from inference.events import BlockHash, CacheEvent
from inference.request import Namespace
from inference.toy import ToyConfig
from overlay.routing import Sent

COSTS = ToyConfig(slots=1, prefill_tokens_per_s=4_000.0, decode_s_per_token=0.010)
"""A small model on a small GPU: 40 prompt tokens take as long as one of the answer."""

NAMESPACE = Namespace("0" * 32)


@dataclass(slots=True, eq=False)
class Job:
    """One request, and what comes true of it."""

    number: int
    ingress: int
    hashes: tuple[BlockHash, ...]
    prompt_tokens: int
    output_tokens: int
    arrived_s: float
    served_by: int = -1
    expected_start_s: float = 0.0
    expected_tokens: float = 0.0
    cached_tokens: int = 0
    booking: int = 0
    promised_tokens: float = 0.0
    found_idle: bool = False
    sent: Sent | None = None
    lease: Lease | None = None


@dataclass(slots=True)
class Engine:
    """One peer's engine. ``busy_s`` adds up the time that slots were held."""

    cache: PrefixCache
    block_tokens: int
    slots: int
    busy_s: float = 0.0
    running: int = 0
    waiting: deque[Job] = field(default_factory=deque)
    prefill_free_s: float = 0.0

    def enqueue(self, job: Job, now_s: float) -> None:
        """A request came in; ``expected_start_s`` is what ACCEPT tells."""
        free = self.running < self.slots and not self.waiting
        queued_s = self.queued_tokens(now_s) / COSTS.prefill_tokens_per_s
        job.expected_start_s = 0.0 if free else queued_s
        job.expected_tokens = job.prompt_tokens - self.matched_tokens(job.hashes)
        self.waiting.append(job)

    def start_next(self, now_s: float) -> tuple[Job, float, float] | None:
        """Starts the next waiting request: (it, first token at, last at); None: not now."""
        if not self.waiting or self.running >= self.slots:
            return None
        job = self.waiting[0]
        reusable = job.hashes[: (job.prompt_tokens - 1) // self.block_tokens]
        try:
            job.lease = self.cache.acquire(NAMESPACE, reusable, len(job.hashes))
        except CacheFull:
            return None
        self.waiting.popleft()
        self.running += 1
        job.cached_tokens = job.lease.cached_blocks * self.block_tokens
        computed = job.prompt_tokens - job.cached_tokens
        self.prefill_free_s = (
            max(now_s, self.prefill_free_s) + computed / COSTS.prefill_tokens_per_s
        )
        last_s = self.prefill_free_s + job.output_tokens * COSTS.decode_s_per_token
        self.busy_s += last_s - now_s
        return job, self.prefill_free_s, last_s

    def on_first(self, job: Job) -> None:
        """The prompt is computed: its blocks may be reused."""
        assert job.lease is not None
        self.cache.commit(job.lease, job.hashes[job.lease.committed_blocks :])

    def on_last(self, job: Job) -> None:
        """The answer is complete."""
        assert job.lease is not None
        self.cache.release(job.lease)
        self.running -= 1

    def matched_tokens(self, hashes: Sequence[BlockHash]) -> int:
        """What the host knows of its own cache."""
        return self.cache.match(NAMESPACE, hashes) * self.block_tokens

    def queued_tokens(self, now_s: float) -> float:
        """Uncached prompt tokens waiting or in prefill, as ``EngineLoad`` has it."""
        in_prefill = max(0.0, self.prefill_free_s - now_s) * COSTS.prefill_tokens_per_s
        return in_prefill + sum([job.expected_tokens for job in self.waiting])

    def events(self) -> tuple[CacheEvent, ...]:
        """What was stored and evicted since the last call."""
        return self.cache.drain_events()
