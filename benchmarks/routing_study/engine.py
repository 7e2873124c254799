"""An engine on the event heap: the toy engine's costs, a prefix cache, first come first served.

A request holds one of the slots from its start to its last token. Prefill is one piece of hardware:
prompts are computed one after another; decoding goes on in every slot at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from inference.events import CacheEvent

PREFILL_TOKENS_PER_S = 4_000.0
DECODE_S_PER_TOKEN = 0.010
"""A small model on a small GPU; what matters is the ratio of the two, about 40."""


class Cache(Protocol):
    """What an engine needs of a prefix cache."""

    def match(self, hashes: Sequence[bytes]) -> int:
        """Leading blocks that are cached."""

    def start(self, hashes: Sequence[bytes]) -> int:
        """Locks the cached prefix of a prompt and makes room; returns its blocks."""

    def computed(self, hashes: Sequence[bytes]) -> None:
        """The prompt's blocks are all there now."""

    def end(self, hashes: Sequence[bytes]) -> None:
        """The request is over; its blocks may be evicted."""

    def events(self) -> Sequence[CacheEvent]:
        """What was stored and evicted since the last call."""


@dataclass(slots=True)
class Job:
    """One request at one engine. Times are absolute seconds, set as they come true."""

    number: int
    ingress: int
    hashes: tuple[bytes, ...]
    prompt_tokens: int
    output_tokens: int
    arrived_s: float
    booking: int = 0
    promised_tokens: float = 0.0
    found_idle: bool = False
    sent_s: float = 0.0
    served_by: int = -1
    expected_start_s: float = 0.0
    cached_tokens: int = 0
    uncached_guess: float = 0.0
    started: bool = False
    placed: object = None
    digest_age: float = 0.0
    claim: int = 0
    at_home: bool = False
    counted: float = 0.0


@dataclass(slots=True)
class Engine:
    """One peer's engine. ``busy_s`` adds up the time that slots were held."""

    cache: Cache
    block_tokens: int
    slots: int = 1
    busy_s: float = 0.0
    running: list[Job] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    prefill_free_s: float = 0.0

    def enqueue(self, job: Job, now_s: float) -> None:
        """A request came in; ``expected_start_s`` is what ACCEPT tells."""
        matched = min(self.matched_tokens(job.hashes), job.prompt_tokens - 1)
        job.uncached_guess = job.prompt_tokens - matched
        job.expected_start_s = self.expected_start_s(now_s)
        self.waiting.append(job)

    def expected_start_s(self, now_s: float) -> float:
        """Seconds until a request that comes now would start."""
        if len(self.running) < self.slots and not self.waiting:
            return max(0.0, self.prefill_free_s - now_s)
        return self.queued_tokens(now_s) / PREFILL_TOKENS_PER_S

    def start_next(self, now_s: float) -> tuple[Job, float, float] | None:
        """Starts the next waiting request if a slot is free: (job, first token at, last at)."""
        if not self.waiting or len(self.running) >= self.slots:
            return None
        job = self.waiting.popleft()
        self.running.append(job)
        cached_blocks = self.cache.start(job.hashes)
        job.cached_tokens = min(cached_blocks * self.block_tokens, job.prompt_tokens - 1)
        computed_s = (job.prompt_tokens - job.cached_tokens) / PREFILL_TOKENS_PER_S
        began_s = max(now_s, self.prefill_free_s)
        self.prefill_free_s = began_s + computed_s
        first_s = self.prefill_free_s
        last_s = first_s + job.output_tokens * DECODE_S_PER_TOKEN
        self.busy_s += last_s - now_s
        return job, first_s, last_s

    def on_first(self, job: Job) -> None:
        """The prompt is computed."""
        job.started = True
        self.cache.computed(job.hashes)

    def on_last(self, job: Job) -> None:
        """The answer is complete."""
        self.running.remove(job)
        self.cache.end(job.hashes)

    def matched_tokens(self, hashes: Sequence[bytes]) -> int:
        """What the host knows of its own cache."""
        return self.cache.match(hashes) * self.block_tokens

    def queued_tokens(self, now_s: float) -> float:
        """Uncached prompt tokens waiting or in prefill: as ``EngineLoad`` has it."""
        in_prefill = max(0.0, self.prefill_free_s - now_s) * PREFILL_TOKENS_PER_S
        return in_prefill + sum([job.uncached_guess for job in self.waiting])
