"""Batching for ``isolation = "strict"``: who runs and what a step computes is that of cold runs.

Rules:

1. Blocks, slots and places in the queue are divided evenly among the tenants; nobody borrows. A
   tenant's requests start in the order in which they came, when its own slots and blocks allow.
2. A request has blocks set aside for its whole prompt and answer, as if nothing were cached, so
   nobody is ever preempted.
3. Slots are held, and steps are filled, for as long as the cold run takes (``cold_run.py``). A step
   has one row of each cold answer and, together, at most ``CHUNK_TOKENS`` rows of cold prompts, in
   turns of the tenants.
4. When the tenants change, what runs ends first and what waits stays; then all is divided anew,
   empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from inference.batching import Admitted
from inference.cache import PrefixCache
from inference.cold_run import ColdRun
from inference.errors import EngineOverloaded, PartTooSmall
from inference.generation import Generation
from inference.partitions import Partitions
from inference.request import Namespace
from inference.step import CHUNK_TOKENS, Rows
from inference.turns import Turns


class PartitionedBatch:
    """The requests of an engine that wait in order and those that hold a slot.

    Args:
        cache: The tenants' parts.
        slots: How many run at once, of all tenants; each has one at least.
        queue_max: How many may wait, of all tenants; of each one may.
        context_tokens: The longest prompt and answer of the model.
        reuse: Whether cached blocks may be used.
    """

    def __init__(
        self,
        cache: Partitions,
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
        self._tenants = cache.tenants
        self._queues: dict[Namespace, deque[Generation]] = {}
        self._runs: list[ColdRun] = []
        self._turns = Turns()

    @property
    def running(self) -> list[Generation]:
        """Those that hold a slot and are waited for."""
        return [run.generation for run in tuple(self._runs) if not run.left]

    @property
    def held_slots(self) -> int:
        return len(self._runs)

    @property
    def prompt_tokens_left(self) -> int:
        return sum(run.uncached_tokens for run in tuple(self._runs))

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """Who the tenants are from now on."""
        self._tenants = frozenset(tenants)

    def context_of(self, namespace: Namespace) -> int:
        """The longest prompt and answer of a tenant; raises ``EngineOverloaded`` where it has none.

        It may be called while a step is computed.
        """
        if namespace not in self._tenants:
            raise EngineOverloaded("this tenant has no part of the cache yet")
        return min(self._context_tokens, self._cache.part_tokens(len(self._tenants)))

    def check_room(self, namespace: Namespace, waiting: Iterable[Generation]) -> None:
        """Raises ``EngineOverloaded`` where the tenant's part of the queue is full."""
        parts = max(1, len(self._tenants))
        most = max(1, self._queue_max // parts)
        mine = sum(1 for each in waiting if each.namespace == namespace)
        held = sum(1 for run in tuple(self._runs) if run.generation.namespace == namespace)
        if mine >= most + max(0, self._slots_each(self._tenants) - held):
            raise EngineOverloaded(f"{most} requests of this tenant are waiting already")

    def lookahead_tokens(self) -> int:
        """Blocks for the whole answer are set aside."""
        return self._context_tokens

    def push(self, generation: Generation) -> None:
        """A request arrives."""
        self._queues.setdefault(generation.namespace, deque()).append(generation)

    def drop(self, generation: Generation) -> None:
        """A waiting request is given up."""
        queue = self._queues[generation.namespace]
        queue.remove(generation)
        if not queue:
            del self._queues[generation.namespace]

    def end(self, generation: Generation, *, keep: bool = True) -> None:
        """Nobody waits for a running request any more; its slot is free when its cold run's is.

        ``keep`` says whether what it computed may be reused; if not it leaves at once.
        """
        run = next(run for run in self._runs if run.generation is generation)
        run.left = True
        if not keep or run.caught_up:
            self._release(run, keep=keep)

    def answered(self, generation: Generation) -> None:
        """A running request was given a token; nothing depends on it here."""

    def cached_blocks(self, generation: Generation) -> int:
        """What a waiting request saves others: nothing, by what they see."""
        del generation
        return 0

    def commit(self, generation: Generation, *, decoded: bool) -> None:
        """Makes what a request has computed reusable."""
        generation.commit(self._cache.part(generation.namespace), decoded=decoded)

    def admit(self) -> Admitted:
        """Ends the runs that are over, and starts what can start."""
        for run in [run for run in self._runs if run.left and run.caught_up]:
            self._release(run)
        admitted = Admitted()
        if self._tenants != self._cache.tenants:
            if self._runs:
                return admitted
            self._cache.divide(self._tenants)
        for namespace in sorted(self._queues):
            self._admit_of(namespace, admitted)
        return admitted

    def _admit_of(self, namespace: Namespace, admitted: Admitted) -> None:
        if namespace not in self._cache.tenants:
            for generation in tuple(self._queues[namespace]):
                self.drop(generation)
                failure = EngineOverloaded("this tenant has no part of the cache any more")
                admitted.refused.append((generation, failure))
            return
        part = self._cache.part(namespace)
        while namespace in self._queues:
            generation = self._queues[namespace][0]
            if generation.ended() is not None:
                self.drop(generation)
                admitted.over.append(generation)
            elif not generation.fits(part.total_blocks):
                self.drop(generation)
                too_small = PartTooSmall("prompt and answer do not fit into the tenant's part")
                admitted.refused.append((generation, too_small))
            elif self._has_room(generation, part.total_blocks):
                self.drop(generation)
                generation.start(part, reuse=self._reuse, beyond=False)
                self._runs.append(ColdRun(generation))
                admitted.started.append(generation)
            else:
                return

    def _has_room(self, generation: Generation, blocks: int) -> bool:
        """Whether its tenant has a slot and enough blocks, hits or not."""
        mine = [run for run in self._runs if run.generation.namespace == generation.namespace]
        held = sum(run.blocks for run in mine)
        slots = self._slots_each(self._cache.tenants)
        return len(mine) < slots and held + generation.needed_blocks() <= blocks

    def _slots_each(self, tenants: frozenset[Namespace]) -> int:
        return max(1, self._slots // max(1, len(tenants)))

    def plan(self) -> list[tuple[Generation, Rows]]:
        """What the next step computes."""
        prompts = [run for run in self._runs if not run.decoding]
        answers = [run for run in self._runs if run.decoding]
        plan = [(run.generation, run.next_token(self._part_of(run))) for run in answers]
        plan += self._chunks(prompts)
        return plan

    def _chunks(self, waiting: list[ColdRun]) -> Iterator[tuple[Generation, Rows]]:
        self._turns.order(waiting, lambda run: run.generation.namespace)
        left = CHUNK_TOKENS
        for run in waiting:
            left -= run.chunk()
            if left < 0:
                return
            for rows in run.next_chunk(self._part_of(run), reuse=self._reuse):
                yield run.generation, rows
            self._turns.served(run.generation.namespace)

    def _part_of(self, run: ColdRun) -> PrefixCache:
        return self._cache.part(run.generation.namespace)

    def _release(self, run: ColdRun, *, keep: bool = True) -> None:
        self._runs.remove(run)
        run.generation.leave(self._part_of(run), keep=keep)

    def take_preempted(self) -> list[Generation]:
        """Nobody ever is."""
        return []

    def clear(self) -> None:
        """Drops every request; the cache is emptied by its owner."""
        self._runs.clear()
        self._queues.clear()

    def check_integrity(self, waiting: int) -> None:
        """Asserts that all counts agree; ``waiting`` requests wait. For tests."""
        self._cache.check_integrity()
        assert sum(len(queue) for queue in self._queues.values()) == waiting
        leases = [run.generation.lease for run in self._runs]
        assert None not in leases
        self._cache.check_leases([lease for lease in leases if lease is not None])
        for namespace in self._cache.tenants:
            mine = [run for run in self._runs if run.generation.namespace == namespace]
            assert len(mine) <= self._slots_each(self._cache.tenants)
            assert sum(run.blocks for run in mine) <= self._cache.part(namespace).total_blocks
