"""An engine port whose faults can be switched on: slow, stalled, crashing, forgetful, lying.

Every fault is kept under a key, so that several go together and one ends without the others.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import cast

import trio

from chaos.core_double import CoreDouble, layers
from chaos.gap import EventGap
from chaos.stopwatch import Stopwatch
from inference.blocks import BlockChain, reusable_blocks
from inference.cache import PrefixCache
from inference.core import EngineCore, StepResult
from inference.errors import EngineFailed, UnknownModel
from inference.events import BlockHash, CacheEvent, Cleared
from inference.none import NoCore
from inference.request import (
    BLOCK_TOKENS,
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
    TokenEvent,
)
from inference.worker import AnswerStream, EngineWorker

LIE = "lie "
"""Namespaces that begin so are of requests whose cache hits were refused in secret."""

AWAY = "the inference server is away"
"""Why requests fail while a server is gone."""

Claims = Callable[[list[CacheEvent]], list[CacheEvent]]
"""What is said of the cache, made of what truly happened there since the last call."""

Noticed = Callable[[], None]
"""Called each time that a fault has taken effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseEvent(TokenEvent):
    """An event whose ``cached_tokens`` are a lie; ``taken_tokens`` did come from the cache."""

    taken_tokens: int


class WorkerCrashed(RuntimeError):
    """A step that was made to fail."""


@dataclass(slots=True)
class _Short:
    """Memory that is missing at every so-manieth step."""

    steps: int
    noticed: Noticed
    done: int = 0


class FaultyCore(CoreDouble):
    """An engine core whose steps take longer, or fail."""

    def __init__(self, inner: EngineCore) -> None:
        super().__init__(inner)
        self.slow: dict[str, tuple[float, Noticed]] = {}
        self.crashes: list[str] = []
        self.short: dict[str, _Short] = {}

    @property
    def factor(self) -> float:
        """How many times as long a step takes."""
        return math.prod(factor for factor, _ in self.slow.values())

    def step(self) -> StepResult:
        """One step.

        Raises:
            WorkerCrashed: Where a crash is due.
            MemoryError: Where it finds no memory.
        """
        if self.crashes:
            why = self.crashes[0]
            self.crashes.clear()
            raise WorkerCrashed(why)
        for key, short in self.short.items():
            short.done += 1
            if short.done >= short.steps:
                short.done = 0
                short.noticed()
                raise MemoryError(f"out of memory by {key}")
        result = self.inner.step()
        if not self.slow:
            return result
        for _, noticed in tuple(self.slow.values()):
            noticed()
        return replace(result, virtual_s=result.virtual_s * self.factor)

    def load(self) -> EngineLoad:
        """Its own rates are measured ones: where it is slow it says so."""
        load = self.inner.load()
        if not self.slow:
            return load
        return replace(
            load,
            prefill_tokens_per_s=load.prefill_tokens_per_s / self.factor,
            decode_s_per_token=load.decode_s_per_token * self.factor,
        )


class FaultyEngine(EngineWorker):
    """``overlay.ports.Engine`` over a core. ``core`` stays readable: it is the ground truth.

    ``claims`` change what is said of the cache, in their order; taking one away is followed by
    :meth:`tell_anew`.
    """

    def __init__(self, core: EngineCore, *, in_thread: bool = False) -> None:
        self._faults = FaultyCore(core)
        super().__init__(self._faults, in_thread=in_thread)
        self.core = core
        self.claims: dict[str, Claims] = {}
        self._stalls: dict[str, Noticed] = {}
        self._go_on = trio.Event()
        self._liars: dict[str, Noticed] = {}
        self._untold = False
        self._away: set[str] = set()
        self._gaps: dict[str, EventGap] = {}
        self._said: tuple[object, Capabilities] | None = None

    # -- speed

    def slow_down(self, key: str, factor: float, noticed: Noticed) -> None:
        """Every step takes so many times as long."""
        self._faults.slow[key] = (factor, noticed)

    def speed_up(self, key: str) -> None:
        """Ends a :meth:`slow_down`. Unknown: no effect."""
        self._faults.slow.pop(key, None)

    def stall(self, key: str, noticed: Noticed) -> None:
        """No step ends until :meth:`go_on` is called with the key."""
        self._stalls[key] = noticed

    def go_on(self, key: str) -> None:
        """Ends a :meth:`stall`. Unknown: no effect."""
        self._stalls.pop(key, None)
        if not self._stalls:
            self._go_on.set()
            self._go_on = trio.Event()

    async def _step(self) -> None:
        if self._stalls:
            # As a step in flight: whoever leaves waits for it.
            self._settled = trio.Event()
            self._stepping = True
            try:
                for noticed in self._stalls.values():
                    noticed()
                while self._stalls:
                    await self._go_on.wait()
            finally:
                self._settle()
        watch = Stopwatch()
        await super()._step()
        if self._in_thread and self._faults.slow:
            # What is computed for real takes its own time: the rest is waited for.
            await trio.sleep((self._faults.factor - 1) * watch.read_s())

    # -- crashes and losses

    def crash(self, why: str) -> int:
        """The next step fails, and with it all requests and the cache; at once where none runs.

        Returns:
            How many requests run.
        """
        running = len(self._streams)
        if self._core.has_work():
            self._faults.crashes.append(why)
        else:
            self._core.reset()
        return running

    def run_short(self, key: str, steps: int, noticed: Noticed) -> None:
        """Every so-manieth step finds no memory: it fails as one that crashes does."""
        self._faults.short[key] = _Short(steps, noticed)

    def have_memory(self, key: str) -> None:
        """Ends a :meth:`run_short`. Unknown: no effect."""
        self._faults.short.pop(key, None)

    def evict_all(self) -> int:
        """Empties the cache of everything that no request uses.

        Returns:
            How many blocks went; 0 while a step is in flight.
        """
        cache = prefix_cache_of(self.core)
        if cache is None or self._stepping or self._down is not None:
            return 0
        return cache.evict_all()

    # -- as a remote engine, whose server comes and goes

    def lose_server(self, key: str) -> int:
        """The server is gone, and with it what runs and its cache, until it is back.

        Returns:
            How many requests ran.
        """
        running = len(self._streams)
        self._away.add(key)
        self._fail_all(AWAY)
        if self._down is None:
            self._core.reset()
        return running

    def find_server(self, key: str) -> None:
        """Ends a :meth:`lose_server`. Unknown: no effect."""
        self._away.discard(key)

    def lose_events(self, key: str, gap: EventGap) -> None:
        """What happens in the cache is told as by ``gap``, until :meth:`hear_all`."""
        self.claims[key] = gap
        self._gaps[key] = gap

    def hear_all(self, key: str) -> None:
        """Ends a :meth:`lose_events`: the cache is cleared, and all is told. Unknown: no effect."""
        if self._gaps.pop(key, None) is not None:
            del self.claims[key]
            self.evict_all()
            self.tell_anew()

    def capabilities(self) -> Capabilities:
        """What it can do at present: the same object until something changes."""
        told = super().capabilities()
        if not self._away and not self._gaps and self._said is None:
            return told
        inexact = any(gap.noticed for gap in self._gaps.values())
        state = (told, frozenset(self._away), inexact)
        if self._said is None or self._said[0] != state:
            self._said = state, _changed(told, away=bool(self._away), inexact=inexact)
        return self._said[1]

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        if self._away:
            raise UnknownModel("the inference server has no such model")
        return await super().tokenize(model, prompt)

    def load(self) -> EngineLoad:
        return NoCore().load() if self._away else super().load()

    def _proves(self, request: EngineRequest) -> Callable[[int], None] | None:
        """Who is told how much of a prompt was cached, while what is thought is inexact."""
        gaps = [gap for gap in self._gaps.values() if gap.noticed]
        if not gaps:
            return None
        chain = BlockChain(request.chain_key, self.capabilities().models[0].prefix)
        hashes: Sequence[BlockHash] = chain.hashes(request.token_ids)
        hashes = hashes[: reusable_blocks(len(request.token_ids))]

        def proves(cached_tokens: int) -> None:
            for gap in gaps:
                gap.found(request.namespace, hashes, cached_tokens // BLOCK_TOKENS)

        return proves

    # -- lies

    def lie(self, key: str, noticed: Noticed) -> None:
        """Says of every request that its whole prompt was cached, and computes all of it."""
        self._liars[key] = noticed

    def be_honest(self, key: str) -> None:
        """Ends a :meth:`lie`. Unknown: no effect."""
        self._liars.pop(key, None)

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[AnswerStream]:
        if self._liars and not self._away:
            return self._lied_to(request)
        if self._away or self._gaps:
            return self._served(request)
        return super().submit(request)

    @asynccontextmanager
    async def _served(self, request: EngineRequest) -> AsyncIterator[AnswerStream]:
        if self._away:
            raise EngineFailed(AWAY)
        proves = self._proves(request)
        async with super().submit(request) as stream:
            if proves is None:
                yield stream
            else:
                yield cast("AnswerStream", _ProvingStream(stream, proves))

    @asynccontextmanager
    async def _lied_to(self, request: EngineRequest) -> AsyncIterator[AnswerStream]:
        apart = replace(request, namespace=Namespace(f"{LIE}{request.request_id}"))
        told, liars = len(request.token_ids), tuple(self._liars.values())
        async with super().submit(apart) as stream:
            yield cast("AnswerStream", _LyingStream(stream, told, liars))

    def tell_anew(self) -> None:
        """The next :meth:`cache_events` gives ``Cleared`` and all that is held."""
        self._untold = True

    def cache_events(self) -> Sequence[CacheEvent]:
        """What is said to have happened in the cache since the last call."""
        events = list(super().cache_events())
        cache = prefix_cache_of(self.core)
        if self._untold and cache is not None and not self._stepping:
            self._untold = False
            events = [Cleared(), *cache.contents()]
        events = [event for event in events if not str(event.namespace).startswith(LIE)]
        for claims in tuple(self.claims.values()):
            events = claims(events)
        return events


class _LyingStream:
    """An answer whose first event says that the whole prompt was cached."""

    def __init__(self, inner: AnswerStream, told: int, liars: tuple[Noticed, ...]) -> None:
        self._inner = inner
        self._told = told
        self._liars = liars

    def __aiter__(self) -> _LyingStream:
        return self

    async def __anext__(self) -> TokenEvent:
        event = await anext(self._inner)
        if event.usage is not None:
            # A server tells it again at the end.
            event = replace(event, usage=replace(event.usage, cached_tokens=self._told))
        if event.cached_tokens is None:
            return event
        for noticed in self._liars:
            noticed()
        return FalseEvent(
            token_ids=event.token_ids,
            text=event.text,
            cached_tokens=self._told,
            finish_reason=event.finish_reason,
            usage=event.usage,
            chunk=event.chunk,
            taken_tokens=event.cached_tokens,
        )


class _ProvingStream:
    """An answer whose first event shows how much was cached."""

    def __init__(self, inner: AnswerStream, proves: Callable[[int], None]) -> None:
        self._inner = inner
        self._proves = proves

    def __aiter__(self) -> _ProvingStream:
        return self

    async def __anext__(self) -> TokenEvent:
        event = await anext(self._inner)
        if event.cached_tokens is not None:
            self._proves(event.cached_tokens)
        return event


def _changed(told: Capabilities, *, away: bool, inexact: bool) -> Capabilities:
    """What a remote engine says of a server that is away, or of whose events some are lost."""
    if away:
        return replace(
            told,
            models=(),
            slots=0,
            exact_claims=False,
            salts=False,
            tokenizes=False,
            reports_token_ids=False,
            description="waiting for the server",
        )
    if not inexact:
        return replace(told)
    models = tuple(replace(model, estimated=True) for model in told.models)
    return replace(told, models=models, exact_claims=False)


def prefix_cache_of(core: EngineCore) -> PrefixCache | None:
    """The prefix cache of a core, through doubles and taps that have theirs as ``inner``."""
    caches = (getattr(part, "_cache", None) for part in layers(core))
    return next((cache for cache in caches if isinstance(cache, PrefixCache)), None)
