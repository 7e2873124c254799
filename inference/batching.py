"""Continuous batching: who runs, what a step computes, and who gives way when blocks run out.

Rules:

1. A request starts when it is next (``fairness.py``), a slot is free and its prompt and a little of
   its answer fit. The rest of the answer is not promised: blocks are taken as it grows.
2. A step computes one token of every answer and, together, at most ``CHUNK_TOKENS`` of prompts:
   tenants take turns, a tenant's own requests stay in order, so that the later ones find in the
   cache what the first has computed. A chunk is never cut elsewhere than at its absolute boundary.
3. Where a growing answer finds no block, the request that arrived last of the tenant that is most
   above its share is preempted: its blocks are given up, its tokens kept, and it waits at the head
   of its tenant's queue to be computed again. Likewise where a tenant's next request does not fit
   although it stays within the tenant's share, as long as others are above theirs and have been
   given more.
4. A request that runs alone may use every block, so whatever was admitted ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from inference.cache import CacheFull, PrefixCache
from inference.errors import EngineOverloaded, InferenceError
from inference.fairness import ANSWER_WEIGHT, FairQueue, has_room
from inference.generation import LOOKAHEAD_TOKENS, Generation
from inference.request import Namespace
from inference.step import CHUNK_TOKENS, Rows
from inference.turns import Turns


@dataclass(frozen=True, slots=True)
class Admitted:
    """What became of requests that were next.

    ``over`` were so already, resumed after their last token; ``refused`` can never start.
    """

    started: list[Generation] = field(default_factory=list)
    over: list[Generation] = field(default_factory=list)
    refused: list[tuple[Generation, InferenceError]] = field(default_factory=list)


class Batch(Protocol):
    """Who runs, and what a step computes: the seam between the scheduler and its two rules.

    ``running`` are those that are waited for, ``held_slots`` counts all that a slot is held for.
    ``context_of``, ``check_room`` and the numbers may be asked for while a step is computed.
    """

    @property
    def running(self) -> list[Generation]: ...

    @property
    def held_slots(self) -> int: ...

    @property
    def prompt_tokens_left(self) -> int: ...

    def share_among(self, tenants: Iterable[Namespace]) -> None: ...

    def context_of(self, namespace: Namespace) -> int: ...

    def check_room(self, namespace: Namespace, waiting: Iterable[Generation]) -> None: ...

    def lookahead_tokens(self) -> int: ...

    def push(self, generation: Generation) -> None: ...

    def drop(self, generation: Generation) -> None: ...

    def end(self, generation: Generation, *, keep: bool = True) -> None: ...

    def answered(self, generation: Generation) -> None: ...

    def cached_blocks(self, generation: Generation) -> int: ...

    def commit(self, generation: Generation, *, decoded: bool) -> None: ...

    def admit(self) -> Admitted: ...

    def plan(self) -> list[tuple[Generation, Rows]]: ...

    def take_preempted(self) -> list[Generation]: ...

    def clear(self) -> None: ...

    def check_integrity(self, waiting: int) -> None: ...


class ContinuousBatch:
    """The requests of an engine that wait in order and those that run.

    Args:
        cache: Whose blocks they use.
        slots: How many run at once.
        queue_max: How many may wait.
        context_tokens: The longest prompt and answer.
        reuse: Whether cached blocks may be used.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        slots: int,
        queue_max: int,
        context_tokens: int,
        reuse: bool,
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._queue_max = queue_max
        self._context_tokens = context_tokens
        self._reuse = reuse
        self._queue: FairQueue[Generation] = FairQueue()
        self._turns = Turns()
        self.running: list[Generation] = []
        self.preempted: list[Generation] = []
        self.preemptions = 0

    @property
    def held_slots(self) -> int:
        return len(self.running)

    @property
    def prompt_tokens_left(self) -> int:
        return sum(each.uncached_tokens for each in tuple(self.running))

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """Whoever uses the cache has a share of it; nothing depends on who else might."""

    def context_of(self, namespace: Namespace) -> int:
        """The longest prompt and answer of any tenant: it may borrow the whole cache."""
        del namespace
        return self._context_tokens

    def check_room(self, namespace: Namespace, waiting: Iterable[Generation]) -> None:
        """Raises ``EngineOverloaded`` where the queue is full for that tenant."""
        free = self._slots - self.held_slots
        tenants = [each.namespace for each in waiting]
        if not has_room(namespace, tenants, self._queue_max + free):
            raise EngineOverloaded(f"{self._queue_max} requests are waiting already")

    def lookahead_tokens(self) -> int:
        """Tokens of an answer that have blocks promised when it starts."""
        return LOOKAHEAD_TOKENS

    def cached_blocks(self, generation: Generation) -> int:
        """How many blocks a waiting request would find at present."""
        return generation.cached_blocks(self._cache) if self._reuse else 0

    def commit(self, generation: Generation, *, decoded: bool) -> None:
        """Makes what a request has computed reusable."""
        generation.commit(self._cache, decoded=decoded)

    def push(self, generation: Generation) -> None:
        """A request arrives."""
        self._queue.push(generation.namespace, generation)

    def drop(self, generation: Generation) -> None:
        """A waiting request is given up."""
        self._queue.take(generation.namespace, generation)
        self._queue.done(generation.namespace)

    def end(self, generation: Generation, *, keep: bool = True) -> None:
        """A running request has ended; ``keep`` says whether what it computed may be reused."""
        self.running.remove(generation)
        generation.leave(self._cache, keep=keep)
        self._queue.done(generation.namespace)

    def answered(self, generation: Generation) -> None:
        """A running request was given a token."""
        self._queue.charge(generation.namespace, ANSWER_WEIGHT)

    def admit(self) -> Admitted:
        """Starts what can start."""
        admitted = Admitted()
        while len(self.running) < self._slots and (first := self._queue.first()) is not None:
            namespace, generation = first
            if generation.ended() is not None:
                self.drop(generation)
                admitted.over.append(generation)
                continue
            if not self._start(generation):
                break
            self._queue.take(namespace, generation)
            if generation.first_start:
                self._queue.charge(namespace, generation.given_tokens)
            self.running.append(generation)
            admitted.started.append(generation)
        return admitted

    def plan(self) -> list[tuple[Generation, Rows]]:
        """What the next step computes, with blocks for all of it."""
        for generation in tuple(self.running):
            if generation in self.running and generation.decoding:
                self._make_room(generation)
        plan = [(each, each.next_token()) for each in self.running if each.decoding]
        plan += self._chunks()
        return plan

    def _chunks(self) -> list[tuple[Generation, Rows]]:
        waiting = [each for each in self.running if not each.decoding]
        self._turns.order(waiting, lambda each: each.namespace)
        chunks: list[tuple[Generation, Rows]] = []
        left = CHUNK_TOKENS
        for generation in waiting:
            rows = generation.next_chunk(self._cache, reuse=self._reuse)
            if len(rows.token_ids) > left:
                break
            left -= len(rows.token_ids)
            chunks.append((generation, rows))
            self._turns.served(generation.namespace)
        return chunks

    def _start(self, generation: Generation) -> bool:
        while True:
            try:
                generation.start(self._cache, reuse=self._reuse, beyond=not self.running)
            except CacheFull:
                victim = self._in_its_way(generation)
                if victim is None:
                    return False
                self._preempt(victim)
            else:
                return True

    def _in_its_way(self, generation: Generation) -> Generation | None:
        """Who must give way to a request that stays within its tenant's share.

        Only a request of a tenant that has been given more: else one that is larger than its share
        would give way to every small one, for ever.
        """
        cache, namespace = self._cache, generation.namespace
        share, counter = cache.share_of(namespace), self._queue.counter(namespace)
        above = [
            each
            for each in self.running
            if each.namespace != namespace
            and cache.held_by(each.namespace) > share
            and self._queue.counter(each.namespace) > counter
        ]
        if not above:
            return None
        held = generation.cached_blocks(cache) if self._reuse else 0
        more = generation.needed_blocks() - held
        if cache.held_by(namespace) + more > share:
            return None
        return max(above, key=self._most_above)

    def _most_above(self, generation: Generation) -> tuple[int, Namespace, int]:
        """All shares are equal, so who holds most is most above its own."""
        namespace = generation.namespace
        return self._cache.held_by(namespace), namespace, generation.arrival

    def _make_room(self, generation: Generation) -> None:
        """Gives an answer its next block; somebody may be preempted for it, itself included."""
        while generation in self.running:
            try:
                generation.grow(self._cache, beyond=len(self.running) == 1)
            except CacheFull:
                self._preempt(max(self.running, key=self._most_above))
            else:
                return

    def _preempt(self, generation: Generation) -> None:
        self.running.remove(generation)
        generation.preempt(self._cache)
        self._queue.push_back(generation.namespace, generation)
        self.preempted.append(generation)
        self.preemptions += 1

    def take_preempted(self) -> list[Generation]:
        """Those that wait again since the last call."""
        # Some may have started again within the step.
        waiting = [each for each in self.preempted if each.lease is None]
        self.preempted.clear()
        return waiting

    def clear(self) -> None:
        """Drops every request; the cache is emptied by its owner."""
        self.running.clear()
        self.preempted.clear()
        self._queue = FairQueue()

    def check_integrity(self, waiting: int) -> None:
        """Asserts that all counts agree; ``waiting`` requests wait. For tests."""
        self._cache.check_integrity()
        assert len(self._queue) == waiting
        leases = [each.lease for each in self.running]
        assert None not in leases
        self._cache.check_leases([lease for lease in leases if lease is not None])
