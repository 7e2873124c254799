"""The toy engine: no model and no arithmetic, but everything around them is real.

It has the embedded engine's queue, slots, prefix cache, events, text stream and resume. Its answer
is a function of the tokens (``toy_language.py``), its time that of a cost model: a step prefills a
chunk of one prompt and decodes one token of every running answer. The caller lets ``virtual_s``
pass, so a simulation under a virtual clock needs no real time at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from inference import toy_language
from inference.blocks import BlockChain, blocks_for, reusable_blocks
from inference.cache import CacheFull, Lease, PrefixCache
from inference.core import StepResult
from inference.detokenizer import TextStream
from inference.errors import ContextOverflow, EngineOverloaded, InvalidRequest, UnknownModel
from inference.events import BlockHash, CacheEvent
from inference.fairness import has_room
from inference.request import (
    BLOCK_TOKENS,
    BodyPrompt,
    Capabilities,
    EngineLoad,
    EngineRequest,
    FinishReason,
    Namespace,
    OutputIdentity,
    PrefixIdentity,
    Prompt,
    ServedModel,
    TokenEvent,
)

_VOCABULARY = frozenset(range(toy_language.VOCABULARY))

_CHAINS_KEPT = 64
"""Tenants whose chain is kept from one request to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig:
    """How big and how fast the toy engine is.

    ``context_tokens`` bounds prompt plus answer, and so does the cache. A step takes its prompt
    tokens / ``prefill_tokens_per_s``, at most ``prefill_chunk_tokens`` of them, plus
    ``decode_s_per_token`` when anything is decoded, however many answers that is. One token in
    ``end_every`` ends an answer, 0 for none. ``reuse_decoded`` keeps what was generated for reuse.
    """

    model: str = "toy"
    slots: int = 4
    total_blocks: int = 8192
    context_tokens: int = 8192
    prefill_tokens_per_s: float = 5000.0
    prefill_chunk_tokens: int = 256
    decode_s_per_token: float = 0.02
    queue_max: int = 64
    reuse_decoded: bool = True
    end_every: int = 64


@dataclass(slots=True, eq=False)
class _Sequence:
    """One request under way: ``computed`` of its ``tokens`` are behind it."""

    request: EngineRequest
    tokens: list[int]
    hashes: list[BlockHash]
    chain: BlockChain
    tokens_max: int
    reusable_max: int
    uncached_tokens: int
    text: TextStream
    speaker: toy_language.Speaker
    computed: int = 0
    first_event: bool = True
    lease: Lease | None = field(default=None, repr=False)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer is over with the tokens it has; None while it is not."""
        if self.text.stopped:
            return FinishReason.STOP
        answered = len(self.tokens) > len(self.request.token_ids)
        if answered and self.tokens[-1] == toy_language.END:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.tokens_max else None


class ToyEngine:
    """An engine core (``inference.core.EngineCore``) that only pretends to compute."""

    def __init__(self, config: ToyConfig) -> None:
        self._config = config
        context_tokens = min(config.context_tokens, config.total_blocks * BLOCK_TOKENS)
        self._model = ServedModel(
            name=config.model,
            context_tokens=context_tokens,
            prefix=PrefixIdentity(
                served_model=config.model,
                tokenizer=toy_language.TOKENIZER_DIGEST,
                template=toy_language.TEMPLATE_DIGEST,
            ),
            output=OutputIdentity(
                weights=f"toy/1 end_every={config.end_every}", quantisation="none", dtype="none"
            ),
        )
        self._capabilities = Capabilities(
            models=(self._model,),
            slots=config.slots,
            block_tokens=BLOCK_TOKENS,
            exact_claims=True,
            salts=True,
            tokenizes=True,
            reports_token_ids=True,
            description="toy (no model, virtual time)",
        )
        self._cache = PrefixCache(config.total_blocks)
        self._sequences: dict[str, _Sequence] = {}
        self._queue: deque[_Sequence] = deque()
        self._prefilling: _Sequence | None = None
        self._decoding: list[_Sequence] = []
        self._chains: dict[bytes, BlockChain] = {}

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        """The prompt's token ids; raises ``InvalidRequest`` or ``UnknownModel``."""
        if model != self._model.name:
            raise UnknownModel("this engine serves no such model")
        return None if isinstance(prompt, BodyPrompt) else toy_language.encode(prompt)

    def add(self, request: EngineRequest) -> None:
        """Queues a request; the errors are those of ``inference.core.EngineCore``."""
        if request.request_id in self._sequences:
            raise InvalidRequest("a request of this id is running")
        tokens_max = self._tokens_max(request)
        free_slots = self._config.slots - self._running
        tenants = [each.request.namespace for each in self._queue]
        if not has_room(request.namespace, tenants, self._config.queue_max + free_slots):
            raise EngineOverloaded("the queue is full")
        sequence = self._sequence(request, tokens_max)
        self._sequences[request.request_id] = sequence
        self._queue.append(sequence)

    def cancel(self, request_id: str) -> None:
        """Ends a request without any further event. Unknown: no effect."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._end(sequence)

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """Nothing is divided: whoever asks first has it."""

    def step(self) -> StepResult:
        """Computes a chunk of one prompt and a token of each running answer."""
        events: list[tuple[str, TokenEvent]] = []
        self._admit(events)
        virtual_s = self._config.decode_s_per_token if self._decoding else 0.0
        batch = [(each, range(each.computed, each.computed + 1)) for each in self._decoding]
        if self._prefilling is not None:
            rows = self._next_chunk(self._prefilling)
            virtual_s += len(rows) / self._config.prefill_tokens_per_s
            batch.append((self._prefilling, rows))
        for sequence, rows in batch:
            self._compute(sequence, rows, events)
        return StepResult(events=tuple(events), failed=(), virtual_s=virtual_s)

    def has_work(self) -> bool:
        return bool(self._sequences)

    def load(self) -> EngineLoad:
        waiting = sum([sequence.uncached_tokens for sequence in self._queue])
        if self._prefilling is not None:
            waiting += self._prefilling.uncached_tokens
        return EngineLoad(
            running=self._running,
            queued=len(self._queue),
            queued_tokens=waiting,
            prefill_tokens_per_s=self._config.prefill_tokens_per_s,
            decode_s_per_token=self._config.decode_s_per_token,
            used_blocks=self._cache.total_blocks - self._cache.free_blocks,
            total_blocks=self._cache.total_blocks,
        )

    def cache_events(self) -> tuple[CacheEvent, ...]:
        return self._cache.drain_events()

    def drop(self, namespace: Namespace) -> None:
        """Lets go what a namespace has cached."""
        self._cache.drop(namespace)

    def reset(self) -> None:
        """Drops every request and all that is cached."""
        self._sequences.clear()
        self._queue.clear()
        self._prefilling = None
        self._decoding.clear()
        self._cache.clear()

    def close(self) -> None:
        """Drops everything, as nothing else is held."""
        self.reset()

    @property
    def _running(self) -> int:
        return len(self._decoding) + (self._prefilling is not None)

    def _tokens_max(self, request: EngineRequest) -> int:
        """Where the answer ends at the latest, counted from the prompt's first token."""
        if request.model != self._model.name:
            raise UnknownModel("this engine serves no such model")
        if not request.token_ids:
            raise InvalidRequest("the prompt is empty", param="prompt")
        given = (*request.token_ids, *request.emitted)
        if not _VOCABULARY.issuperset(given):
            raise InvalidRequest("a token id is not in the vocabulary", param="prompt")
        context_tokens = self._model.context_tokens
        wanted = request.sampling.max_tokens
        if len(request.token_ids) + (wanted or 1) > context_tokens:
            raise ContextOverflow(
                f"prompt and answer exceed the context of {context_tokens} tokens",
                param="max_tokens" if len(request.token_ids) < context_tokens else "prompt",
            )
        return context_tokens if wanted is None else len(request.token_ids) + wanted

    def _sequence(self, request: EngineRequest, tokens_max: int) -> _Sequence:
        tokens = [*request.token_ids, *request.emitted]
        chain = self._chain(request.chain_key)
        hashes = chain.hashes(tokens)
        known = hashes[: reusable_blocks(len(tokens))]
        cached_tokens = self._cache.match(request.namespace, known) * BLOCK_TOKENS
        sampling = request.sampling
        speaker = toy_language.Speaker(
            seed=sampling.seed if sampling.temperature else None, end_every=self._config.end_every
        )
        speaker.hear(tokens)
        prompt_blocks = len(request.token_ids) // BLOCK_TOKENS
        return _Sequence(
            request=request,
            tokens=tokens,
            hashes=hashes,
            chain=chain,
            tokens_max=tokens_max,
            reusable_max=blocks_for(tokens_max) if self._config.reuse_decoded else prompt_blocks,
            uncached_tokens=len(tokens) - cached_tokens,
            text=TextStream(toy_language.decode, stop=sampling.stop, emitted=request.emitted),
            speaker=speaker,
        )

    def _chain(self, key: bytes) -> BlockChain:
        chain = self._chains.get(key)
        if chain is None:
            if len(self._chains) >= _CHAINS_KEPT:
                self._chains.clear()
            chain = self._chains[key] = BlockChain(key, self._model.prefix)
        return chain

    def _admit(self, events: list[tuple[str, TokenEvent]]) -> None:
        """Gives the next request a slot when no other prompt is being computed.

        One prompt at a time: the next one then finds in the cache what this one has computed.
        """
        while self._queue and self._prefilling is None and self._running < self._config.slots:
            sequence = self._queue[0]
            if sequence.finish_reason is not None:
                # Resumed after its last token: nothing is left but to say so.
                self._emit(sequence, (), events)
                continue
            tokens = len(sequence.tokens)
            try:
                sequence.lease = self._cache.acquire(
                    sequence.request.namespace,
                    sequence.hashes[: reusable_blocks(tokens)],
                    blocks_for(sequence.tokens_max),
                    at_once=blocks_for(tokens),
                )
            except CacheFull:
                assert self._decoding, "a request that fits the context fits an unused cache"
                return
            self._queue.popleft()
            sequence.computed = sequence.lease.cached_blocks * BLOCK_TOKENS
            sequence.uncached_tokens = tokens - sequence.computed
            self._prefilling = sequence

    def _next_chunk(self, sequence: _Sequence) -> range:
        """Which positions of a prompt are computed next."""
        first = sequence.computed
        rows = range(first, min(len(sequence.tokens), first + self._config.prefill_chunk_tokens))
        sequence.uncached_tokens -= len(rows)
        return rows

    def _compute(
        self, sequence: _Sequence, rows: range, events: list[tuple[str, TokenEvent]]
    ) -> None:
        lease = sequence.lease
        assert lease is not None
        sequence.computed = rows.stop
        self._cache.grow(lease, blocks_for(rows.stop))
        if rows.stop // BLOCK_TOKENS > lease.committed_blocks:
            self._commit(sequence, lease)
        if sequence.computed < len(sequence.tokens):
            return
        if sequence is self._prefilling:
            self._prefilling = None
            self._decoding.append(sequence)
        token = sequence.speaker.say()
        sequence.tokens.append(token)
        self._emit(sequence, (token,), events)

    def _commit(self, sequence: _Sequence, lease: Lease) -> None:
        """Makes the blocks that are full now reusable."""
        full = min(sequence.computed // BLOCK_TOKENS, sequence.reusable_max)
        missing = full - len(sequence.hashes)
        if missing > 0:
            first = len(sequence.hashes) * BLOCK_TOKENS
            parent = sequence.hashes[-1] if sequence.hashes else sequence.chain.root
            fresh = sequence.tokens[first : full * BLOCK_TOKENS]
            sequence.hashes.extend(sequence.chain.extend(parent, fresh))
        if full > lease.committed_blocks:
            self._cache.commit(lease, sequence.hashes[lease.committed_blocks : full])

    def _emit(
        self,
        sequence: _Sequence,
        token_ids: tuple[int, ...],
        events: list[tuple[str, TokenEvent]],
    ) -> None:
        """Tells the caller of new tokens, and ends the request where they end the answer."""
        cached_tokens: int | None = None
        if sequence.first_event:
            blocks = sequence.lease.cached_blocks if sequence.lease else 0
            cached_tokens = min(blocks * BLOCK_TOKENS, len(sequence.request.token_ids))
            sequence.first_event = False
        text = sequence.text.push(token_ids)
        reason = sequence.finish_reason
        if reason is not None:
            text += sequence.text.flush()
            reason = sequence.finish_reason
            self._end(sequence)
        event = TokenEvent(
            token_ids=token_ids, text=text, cached_tokens=cached_tokens, finish_reason=reason
        )
        events.append((sequence.request.request_id, event))

    def _end(self, sequence: _Sequence) -> None:
        """Takes a request out of wherever it is and gives its blocks back."""
        del self._sequences[sequence.request.request_id]
        if sequence.lease is None:
            self._queue.remove(sequence)
        else:
            self._cache.release(sequence.lease)
            if sequence is self._prefilling:
                self._prefilling = None
            else:
                self._decoding.remove(sequence)
