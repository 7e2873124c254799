"""Schedules the embedded engine: a transformers model over a block pool under a radix tree.

A step takes new requests in, starts what can start, and computes one token of every answer and a
prompt chunk beside them in one forward pass (``batching.py``). Rules:

1. The prompt's full blocks are committed as they are computed, the answer's too with
   ``reuse_decoded``; a partial block never is, and the last prompt token is always computed.
2. A request's blocks are freed in the same call that ends it, however it ends.
3. ``add`` and ``load`` touch only what waits and numbers, as a step may be running in a thread.
4. A request that breaks a step fails, and what it computed is not reused; the others go on
   (``passes.py``).
5. What can never fit is refused by ``add``: prompt and answer must fit into the context, and the
   context is never longer than the cache.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from inference.batching import Batch, ContinuousBatch
from inference.blocks import BlockChain
from inference.cache import PrefixCache
from inference.core import StepResult
from inference.errors import (
    ContextOverflow,
    EngineFailed,
    InferenceError,
    InvalidRequest,
    PartTooSmall,
    UnknownModel,
)
from inference.events import CacheEvent
from inference.generation import Generation
from inference.partitioned import PartitionedBatch
from inference.partitions import Partitions
from inference.passes import Outcome, Passes
from inference.rates import StepRates
from inference.request import (
    BLOCK_TOKENS,
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
    ServedModel,
    TokenEvent,
)
from inference.sampler import SamplingDefaults, choose
from inference.step import CHUNK_TOKENS, ModelStep, Rows
from inference.tokenizer import PromptTokenizer

ESTIMATE_STEPS = 8
"""Steps after which what waiting requests would find in the cache is looked up again."""


NOBODY = Namespace("")
"""Whose request warms an engine up; its tenants are told later."""


class Rules(TypedDict):
    """What both ways of batching are told."""

    slots: int
    queue_max: int
    context_tokens: int
    reuse: bool


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
    slots: int
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


class EmbeddedCore:
    """An engine core (``inference.core.EngineCore``) that computes a model.

    Args:
        parts: The model; see ``inference.embedded.load_engine``.
        reuse_decoded: Whether blocks made while decoding are kept for reuse.
        prefix_cache: Whether anything is reused at all; without, every run is a cold one.
        queue_max: Requests that may wait.
        reserved_fraction: The part of the cache that is reserved for tenants in equal shares.
        strict: Whether the cache is divided into fixed parts instead, and every request takes as
            much of the engine as if nothing of it were cached.
        now_s: A clock for the rates.
    """

    def __init__(
        self,
        parts: ModelParts,
        *,
        reuse_decoded: bool,
        prefix_cache: bool,
        queue_max: int,
        reserved_fraction: float,
        strict: bool,
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
        self._now_s = now_s
        self._capabilities = Capabilities(
            models=(parts.served,),
            slots=parts.posture.slots,
            block_tokens=BLOCK_TOKENS,
            exact_claims=True,
            salts=True,
            tokenizes=True,
            reports_token_ids=True,
            description="embedded",
            device=parts.posture.describe(),
            cache_bytes=parts.posture.kv_cache_bytes,
        )
        rules: Rules = {
            "slots": parts.posture.slots,
            "queue_max": queue_max,
            "context_tokens": parts.served.context_tokens,
            "reuse": prefix_cache,
        }
        self._cache: PrefixCache | Partitions
        self._batch: Batch
        if strict:
            self._cache = partitions = Partitions(parts.blocks, [NOBODY])
            self._batch = PartitionedBatch(partitions, **rules)
        else:
            self._cache = cache = PrefixCache(parts.blocks, reserved_fraction=reserved_fraction)
            self._batch = ContinuousBatch(cache, **rules)
        self._passes = Passes(parts.step)
        # By id: all that wait, those that the batch has not been told of included.
        self._waiting: dict[str, Generation] = {}
        self._arrived: deque[Generation] = deque()
        self._arrivals = 0
        self._steps = 0
        self._rates = StepRates(CHUNK_TOKENS)

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        """The prompt's token ids; raises ``UnknownModel`` or ``InvalidRequest``."""
        self._check_model(model)
        return self._tokenizer.tokenize(prompt)

    def add(self, request: EngineRequest) -> None:
        """Queues a request.

        Raises:
            UnknownModel: Another model is asked for.
            InvalidRequest: No tokens, or some that the model does not have.
            ContextOverflow: Prompt and answer do not fit.
            PartTooSmall: They do not fit into the tenant's part, and would into the context.
            EngineOverloaded: The queue is full.
        """
        self._check_model(request.model)
        self._check_tokens(request)
        name, running = request.request_id, tuple(self._batch.running)
        if name in self._waiting or any(each.request_id == name for each in running):
            raise InvalidRequest("a request of this id is running")
        self._batch.check_room(request.namespace, tuple(self._waiting.values()))
        self._arrivals += 1
        generation = Generation(
            request,
            chain=BlockChain(request.chain_key, self._served.prefix),
            decode=self._tokenizer.decode,
            end_tokens=self._end_tokens,
            context_tokens=self._batch.context_of(request.namespace),
            arrival=self._arrivals,
            lookahead_tokens=self._batch.lookahead_tokens(),
        )
        self._waiting[name] = generation
        self._arrived.append(generation)

    def cancel(self, request_id: str) -> None:
        """Ends a request and frees its blocks; an unknown one is no error."""
        self._take_in()
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            self._batch.drop(waiting)
        for each in tuple(self._batch.running):
            if each.request_id == request_id:
                self._batch.end(each)

    def has_work(self) -> bool:
        return bool(self._batch.held_slots or self._waiting)

    def load(self) -> EngineLoad:
        waiting = tuple(self._waiting.values())
        left = sum(each.uncached_tokens for each in waiting)
        return EngineLoad(
            running=self._batch.held_slots,
            queued=len(waiting),
            queued_tokens=left + self._batch.prompt_tokens_left,
            prefill_tokens_per_s=self._rates.prefill_tokens_per_s,
            decode_s_per_token=self._rates.decode_s_per_token,
            used_blocks=self._cache.total_blocks - self._cache.free_blocks,
            total_blocks=self._cache.total_blocks,
        )

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """Who uses this engine; with fixed parts it takes effect when nothing runs."""
        self._batch.share_among(tenants)

    def cache_events(self) -> tuple[CacheEvent, ...]:
        return self._cache.drain_events()

    def drop(self, namespace: Namespace) -> None:
        """Lets go what a namespace has cached."""
        self._cache.drop(namespace)

    def step(self) -> StepResult:
        """Starts what can start, then computes a chunk of a prompt and a token of each answer."""
        events: list[tuple[str, TokenEvent]] = []
        failed: list[tuple[str, InferenceError]] = []
        self._take_in()
        self._admit(events, failed)
        plan = self._batch.plan()
        self._take_back()
        if plan:
            batch = [rows for _, rows in plan]
            began_s = self._now_s()
            outcomes = self._passes.compute(batch)
            self._measure(batch, self._now_s() - began_s)
            for (generation, rows), outcome in zip(plan, outcomes, strict=True):
                self._advance(generation, rows, outcome, events, failed)
        self._estimate_waiting()
        return StepResult(events=tuple(events), failed=tuple(failed), virtual_s=0.0)

    def reset(self) -> None:
        """Drops every request and the whole cache."""
        self._arrived.clear()
        self._waiting.clear()
        self._batch.clear()
        self._cache.clear()

    def close(self) -> None:
        """Lets go of the model and its memory; nothing runs any more."""
        self.reset()
        if self._parts is not None:
            self._parts.step.close()
            self._parts = None
            del self._passes

    def check_integrity(self) -> None:
        """Asserts that blocks, leases and queues agree; for tests, between steps."""
        self._batch.check_integrity(len(self._waiting) - len(self._arrived))

    def _take_in(self) -> None:
        while self._arrived:
            self._batch.push(self._arrived.popleft())

    def _take_back(self) -> None:
        for each in self._batch.take_preempted():
            self._waiting[each.request_id] = each

    def _admit(
        self,
        events: list[tuple[str, TokenEvent]],
        failed: list[tuple[str, InferenceError]],
    ) -> None:
        admitted = self._batch.admit()
        for each in admitted.started:
            self._waiting.pop(each.request_id, None)
        for each in admitted.over:
            del self._waiting[each.request_id]
            events.append((each.request_id, each.on_nothing_left()))
        for each, why in admitted.refused:
            del self._waiting[each.request_id]
            failed.append((each.request_id, why))

    def _advance(
        self,
        generation: Generation,
        rows: Rows,
        outcome: Outcome,
        events: list[tuple[str, TokenEvent]],
        failed: list[tuple[str, InferenceError]],
    ) -> None:
        try:
            token = self._token_of(generation, rows, outcome)
        except EngineFailed as failure:
            if rows.kept:
                self._batch.end(generation, keep=False)
                failed.append((generation.request_id, failure))
            return
        if not rows.kept:
            return
        generation.on_computed(rows)
        if self._prefix_cache:
            self._batch.commit(generation, decoded=self._reuse_decoded)
        if token is None:
            return
        event = generation.on_token(token)
        self._batch.answered(generation)
        events.append((generation.request_id, event))
        if event.finish_reason is not None:
            self._batch.end(generation)

    def _token_of(self, generation: Generation, rows: Rows, outcome: Outcome) -> int | None:
        """The next token, None where the rows do not give one; raises ``EngineFailed``."""
        assert self._parts is not None
        if isinstance(outcome, EngineFailed):
            raise outcome
        if outcome is None:
            return None
        # The largest one is infinite where any is, and NaN where any is.
        if not math.isfinite(float(outcome.max())):
            raise EngineFailed("the model computed no finite numbers")
        sampling, defaults = generation.request.sampling, self._parts.sampling
        try:
            token = choose(outcome, sampling, defaults, position=rows.end)
        except (RuntimeError, IndexError, ValueError, ArithmeticError) as error:
            # What one request asks for must not end those of others.
            raise EngineFailed(f"no token could be chosen: {type(error).__name__}") from error
        # Chosen in any case, as sorting a vocabulary takes time that others see.
        return token if rows.kept and rows.end == len(generation.tokens) else None

    def _measure(self, batch: list[Rows], seconds: float) -> None:
        self._rates.measured(
            prefill_tokens=sum(
                len(rows.token_ids) for rows in batch if not (rows.decode or rows.idle_keys)
            ),
            decoding=sum(1 for rows in batch if rows.decode),
            seconds=seconds,
        )

    def _estimate_waiting(self) -> None:
        self._steps += 1
        for each in tuple(self._waiting.values()) if self._prefix_cache else ():
            if not each.estimated or self._steps % ESTIMATE_STEPS == 0:
                each.estimated = True
                cached = self._batch.cached_blocks(each)
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
        context, prompt = self._batch.context_of(request.namespace), len(request.token_ids)
        answer = request.sampling.max_tokens or 1
        if prompt + answer > context:
            whole = self._served.context_tokens
            if prompt + answer <= whole:
                raise PartTooSmall(f"the tenant's part of the cache holds {context} tokens")
            raise ContextOverflow(
                f"{prompt} prompt tokens and {answer} for the answer do not fit into the context "
                f"of {whole} tokens",
                param="max_tokens" if prompt < whole else "prompt",
            )
