"""Schedules the embedded engine: a transformers model over a block pool under a radix tree.

One request runs at a time and others queue; a step takes a list all the same, so more slots are a
number, not another design. A step is one prefill chunk or one token of each running request.
Rules:

1. The prompt's full blocks are committed as they are computed, the answer's too with
   ``reuse_decoded``; a partial block never is, and the last prompt token is always computed.
2. A request's blocks are freed in the same call that ends it, however it ends.
3. ``add`` and ``load`` touch only the queue and numbers, as a step may be running in a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from inference.blocks import BlockChain
from inference.cache import CacheFull, PrefixCache
from inference.core import StepResult
from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InvalidRequest,
    UnknownModel,
)
from inference.events import CacheEvent
from inference.generation import Generation
from inference.request import (
    BLOCK_TOKENS,
    Capabilities,
    EngineLoad,
    EngineRequest,
    Prompt,
    ServedModel,
    TokenEvent,
)
from inference.sampler import SamplingDefaults, choose
from inference.step import ModelStep, Rows
from inference.tokenizer import PromptTokenizer

SLOTS = 1
"""Requests that run at once. Batches come on the same pool and step."""

RATE_MEMORY = 0.9
"""Weight of the past in a rate, per step: about the last ten steps count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posture:
    """What a loaded engine runs on, and why, for its owner's eyes."""

    model: str
    folder: Path
    device: str
    device_why: str
    dtype: str
    threads: int
    kv_cache_bytes: int
    kv_blocks: int
    context_tokens: int
    load_s: float

    def describe(self) -> str:
        """One line for ``Capabilities.device``."""
        count = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        threads = f", {count}" if self.device == "cpu" else ""
        return f"{self.device} ({self.device_why}), {self.dtype}{threads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """A loaded model, ready to be stepped."""

    served: ServedModel
    step: ModelStep
    tokenizer: PromptTokenizer
    end_tokens: frozenset[int]
    vocabulary: int
    blocks: int
    sampling: SamplingDefaults
    posture: Posture


class Rate:
    """A recent average of ``amount`` per second, weighted by amount."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        self._amount = RATE_MEMORY * self._amount + amount
        self._seconds = RATE_MEMORY * self._seconds + seconds

    @property
    def per_s(self) -> float:
        """0 while nothing has been measured."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0


class EmbeddedCore:
    """An engine core (``inference.core.EngineCore``) that computes a model.

    Args:
        parts: The model; see ``inference.embedded.load_engine``.
        reuse_decoded: Whether blocks made while decoding are kept for reuse.
        prefix_cache: Whether anything is reused at all; without, every run is a cold one.
        queue_max: Requests that may wait.
        now_s: A clock for the rates.
    """

    def __init__(
        self,
        parts: ModelParts,
        *,
        reuse_decoded: bool,
        prefix_cache: bool,
        queue_max: int,
        now_s: Callable[[], float],
    ) -> None:
        self._parts: ModelParts | None = parts
        self._served = parts.served
        self._tokenizer = parts.tokenizer
        self._vocabulary = parts.vocabulary
        self._end_tokens = parts.end_tokens
        self.posture = parts.posture
        self._reuse_decoded = reuse_decoded
        self._prefix_cache = prefix_cache
        self._queue_max = queue_max
        self._now_s = now_s
        self._capabilities = Capabilities(
            models=(parts.served,),
            slots=SLOTS,
            block_tokens=BLOCK_TOKENS,
            exact_claims=True,
            salts=True,
            tokenizes=True,
            reports_token_ids=True,
            description="embedded",
            device=parts.posture.describe(),
            cache_bytes=parts.posture.kv_cache_bytes,
        )
        self._cache = PrefixCache(parts.blocks)
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._prefill = Rate()
        self._decode = Rate()

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's token ids; raises ``UnknownModel`` or ``InvalidRequest``."""
        self._check_model(model)
        return self._tokenizer.tokenize(prompt)

    def add(self, request: EngineRequest) -> None:
        """Queues a request.

        Raises:
            UnknownModel: Another model is asked for.
            InvalidRequest: No tokens, or some that the model does not have.
            ContextOverflow: Prompt and answer do not fit.
            EngineOverloaded: The queue is full.
        """
        self._check_model(request.model)
        self._check_tokens(request)
        if len(self._waiting) >= self._queue_max + SLOTS - len(self._running):
            raise EngineOverloaded(f"{self._queue_max} requests are waiting already")
        self._waiting.append(
            Generation(
                request,
                chain=BlockChain(request.chain_key, self._served.prefix),
                decode=self._tokenizer.decode,
                end_tokens=self._end_tokens,
                context_tokens=self._served.context_tokens,
            )
        )

    def cancel(self, request_id: str) -> None:
        """Ends a request and frees its blocks; an unknown one is no error."""
        for each in [each for each in self._running if each.request_id == request_id]:
            self._end(each)
        for each in [each for each in self._waiting if each.request_id == request_id]:
            self._waiting.remove(each)

    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def load(self) -> EngineLoad:
        waiting, running = tuple(self._waiting), tuple(self._running)
        decode_per_s = self._decode.per_s
        return EngineLoad(
            running=len(running),
            queued=len(waiting),
            queued_tokens=sum(each.uncached_tokens for each in (*running, *waiting)),
            prefill_tokens_per_s=self._prefill.per_s,
            decode_s_per_token=1 / decode_per_s if decode_per_s > 0 else 0.0,
            used_blocks=self._cache.total_blocks - self._cache.free_blocks,
            total_blocks=self._cache.total_blocks,
        )

    def cache_events(self) -> tuple[CacheEvent, ...]:
        return self._cache.drain_events()

    def step(self) -> StepResult:
        """Starts what can start, then computes one chunk or one token of each running request."""
        assert self._parts is not None
        events: list[tuple[str, TokenEvent]] = []
        self._start(events)
        if self._running:
            batch = [each.rows(self._cache) for each in self._running]
            began_s = self._now_s()
            logits = self._parts.step.run(batch)
            self._measure(batch, self._now_s() - began_s)
            for each, rows, row in zip(tuple(self._running), batch, logits, strict=True):
                self._advance(each, rows, row, events)
        self._estimate_waiting()
        return StepResult(events=tuple(events), failed=(), virtual_s=0.0)

    def reset(self) -> None:
        """Drops every request and the whole cache."""
        self._waiting.clear()
        for each in tuple(self._running):
            self._end(each)
        self._cache.clear()

    def close(self) -> None:
        """Lets go of the model and its memory; nothing runs any more."""
        self._waiting.clear()
        self._running.clear()
        if self._parts is not None:
            self._parts.step.close()
            self._parts = None

    def _start(self, events: list[tuple[str, TokenEvent]]) -> None:
        while self._waiting and len(self._running) < SLOTS:
            first = self._waiting[0]
            if first.ended() is not None:
                events.append((first.request_id, first.on_nothing_left()))
            else:
                try:
                    first.start(self._cache, reuse=self._prefix_cache)
                except CacheFull:
                    return
                self._running.append(first)
            self._waiting.popleft()

    def _advance(
        self,
        generation: Generation,
        rows: Rows,
        logits: torch.Tensor | None,
        events: list[tuple[str, TokenEvent]],
    ) -> None:
        assert self._parts is not None
        generation.on_computed(rows)
        if self._prefix_cache:
            generation.commit(self._cache, decoded=self._reuse_decoded)
        if logits is None:
            return
        if bool(torch.isnan(logits).any()):
            raise EngineFailed("the model computed no numbers (NaN)")
        sampling, defaults = generation.request.sampling, self._parts.sampling
        event = generation.on_token(choose(logits, sampling, defaults, position=rows.end))
        events.append((generation.request_id, event))
        if event.finish_reason is not None:
            self._end(generation)

    def _end(self, generation: Generation) -> None:
        self._running.remove(generation)
        generation.leave(self._cache)

    def _measure(self, batch: list[Rows], seconds: float) -> None:
        prefilled = sum(len(rows.token_ids) for rows in batch if not rows.decode)
        if prefilled:
            self._prefill.add(prefilled, seconds)
        else:
            # Each request waits a whole step for its token, however many are in the batch.
            self._decode.add(1, seconds)

    def _estimate_waiting(self) -> None:
        if self._prefix_cache:
            for each in tuple(self._waiting):
                cached = self._cache.match(each.request.namespace, each.reusable())
                each.uncached_tokens = each.given_tokens - cached * BLOCK_TOKENS

    def _check_model(self, model: str) -> None:
        if model != self._served.name:
            raise UnknownModel("this engine serves no model of that name")

    def _check_tokens(self, request: EngineRequest) -> None:
        tokens = (*request.token_ids, *request.emitted)
        if not request.token_ids:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if not 0 <= min(tokens) <= max(tokens) < self._vocabulary:
            raise InvalidRequest("a token id is not in the model's vocabulary", param="prompt")
        context, prompt = self._served.context_tokens, len(request.token_ids)
        answer = request.sampling.max_tokens or 1
        if prompt + answer > context:
            raise ContextOverflow(
                f"{prompt} prompt tokens and {answer} for the answer do not fit into the context "
                f"of {context} tokens",
                param="max_tokens" if prompt < context else "prompt",
            )
