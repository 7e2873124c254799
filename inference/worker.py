"""Drives an engine core under trio.

Rules:

1. ``step`` runs in one worker thread (real compute) or inline followed by its virtual time (toy).
2. While a step is in flight in the thread, only the core's ``capabilities``, ``tokenize``, ``add``,
   ``share_among`` and ``load`` are called; cancellations, drops and cache events wait until it is
   over.
3. A request whose caller has left is cancelled, and leaving waits until the core knows, unless the
   step in flight hangs.
4. A step that raises fails every request; the core is then reset and goes on with an empty cache.
   After :data:`FAILURES_MAX` failures with no good step between them the engine stays failed.
5. Shutdown waits for the step in flight: a thread cannot be interrupted.
6. A step that takes far longer than it should is told as stalled; nothing else is done about it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from inference.core import EngineCore, StepResult
from inference.errors import EngineFailed, InferenceError, InvalidRequest
from inference.events import CacheEvent, Cleared
from inference.failure import kind_and_place
from inference.request import (
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
    TokenEvent,
)
from inference.void import VoidChains

STREAM_EVENTS_MAX = 64
"""Events that wait for a slow reader; further ones are joined to the last. An answer is bounded by
the model's context, so a stream's memory is too, and no reader can hold up another's answer. Those
with a server's own JSON are kept apart."""

LEAVE_LOOK_S = 0.5
LEAVE_S = 30.0
"""How long leaving a request waits for the step in flight: far above any step that still ends."""

FAILURES_MAX = 3
"""Failed steps in a row after which the engine is given up: a broken device does not mend."""

STALLED_MIN_S = 1.5
"""As long as a peer may be silent: a shorter pause may be the host's, whatever the engine does."""

STALLED_FACTOR = 4.0
"""Measured rates are noisy, and a step is longer while others use the host."""

SLOWEST_HALF_LIFE_S = 60.0

log = logging.getLogger(__name__)


class StepWatch:
    """Tells a step that hangs from one that is slow.

    A step hangs that has taken :data:`STALLED_MIN_S` and :data:`STALLED_FACTOR` times as long as it
    may: as the slowest one of late, and as all prompt tokens that wait and one token of each answer
    at the engine's own rates. While these are not known no step hangs.
    """

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._queued_tokens = 0
        self._ended_s = 0.0
        self._slowest_s = 0.0

    def began(self, now_s: float, queued_tokens: int) -> None:
        """A step begins; so many prompt tokens are to be computed, in this one or later."""
        self._began_s, self._queued_tokens = now_s, queued_tokens

    def ended(self, now_s: float) -> None:
        """The step has ended."""
        if self._began_s is not None:
            faded = 0.5 ** ((now_s - self._ended_s) / SLOWEST_HALF_LIFE_S)
            self._slowest_s = max(now_s - self._began_s, self._slowest_s * faded)
        self._began_s, self._ended_s = None, now_s

    def is_late(self, now_s: float) -> bool:
        """Whether a step has been in flight for so long that it may hang."""
        return self._began_s is not None and now_s - self._began_s >= STALLED_MIN_S

    def hangs(self, now_s: float, load: EngineLoad) -> bool:
        """Whether the step in flight does; ``load`` is the engine's at present."""
        unknown = self._queued_tokens > 0 and load.prefill_tokens_per_s <= 0
        if self._began_s is None or unknown or not self.is_late(now_s):
            return False
        step_s = load.decode_s_per_token
        if self._queued_tokens:
            step_s += self._queued_tokens / load.prefill_tokens_per_s
        step_s = max(step_s, self._slowest_s)
        return step_s > 0 and now_s - self._began_s >= STALLED_FACTOR * step_s


class AnswerStream:
    """An answer under way. Cancelling a wait for the next event loses nothing."""

    def __init__(self) -> None:
        self._events: deque[TokenEvent] = deque()
        self._failure: InferenceError | None = None
        self._changed = trio.Event()
        self.ended = False

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> TokenEvent:
        """The next event.

        Raises:
            EngineFailed: When the engine broke or the request was cancelled from elsewhere.
        """
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self.ended:
                raise StopAsyncIteration
            self._changed = trio.Event()
            await self._changed.wait()
        return self._events.popleft()

    def put(self, event: TokenEvent) -> None:
        """Takes an event in, joining it to the last one where the reader is far behind."""
        if self.ended:
            return
        if len(self._events) >= STREAM_EVENTS_MAX and not (event.chunk or self._events[-1].chunk):
            event = _joined(self._events.pop(), event)
        self._events.append(event)
        self.ended = event.finish_reason is not None
        self._changed.set()

    def fail(self, failure: InferenceError) -> None:
        """Ends the answer with an error, after the events that are already there."""
        if not self.ended:
            self.ended = True
            self._failure = failure
            self._changed.set()


def _joined(first: TokenEvent, second: TokenEvent) -> TokenEvent:
    """One event that says what two said."""
    ids = None
    if first.token_ids is not None and second.token_ids is not None:
        ids = first.token_ids + second.token_ids
    return TokenEvent(
        token_ids=ids,
        text=first.text + second.text,
        cached_tokens=first.cached_tokens,
        finish_reason=second.finish_reason,
        usage=second.usage,
        ended=second.ended,
    )


class EngineWorker:
    """An engine (``overlay.ports.Engine``) made of a core and a loop that steps it.

    Args:
        core: What computes. It belongs to the worker from now on and is closed by it.
        in_thread: Whether a step computes for real and needs a thread; False for virtual time.
    """

    def __init__(self, core: EngineCore, *, in_thread: bool) -> None:
        self._core = core
        self._in_thread = in_thread
        self._limiter = trio.CapacityLimiter(1)
        self._streams: dict[str, AnswerStream] = {}
        self._events: list[CacheEvent] = []
        self._cancelled: list[str] = []
        self._dropped: list[Namespace] = []
        self._void = VoidChains()
        self._wake = trio.Event()
        self._settled = trio.Event()
        self._stepping = False
        self._watch = StepWatch()
        self._failures = 0
        self._down: str | None = None

    def capabilities(self) -> Capabilities:
        return self._core.capabilities()

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        """The prompt's token ids; raises ``InvalidRequest`` or ``UnknownModel``.

        None for a ``BodyPrompt`` that the core's tokenizer cannot read.
        """
        return self._core.tokenize(model, prompt)

    def load(self) -> EngineLoad:
        return self._core.load()

    def posture(self) -> Sequence[tuple[str, str]]:
        """Nothing beyond what its capabilities say."""
        return ()

    def stalled(self) -> bool:
        """Whether the step in flight takes far longer than any should."""
        now_s = trio.current_time()
        return self._watch.is_late(now_s) and self._watch.hangs(now_s, self._core.load())

    def cache_events(self) -> Sequence[CacheEvent]:
        """Drains what happened in the cache up to the last finished step, in order."""
        events, self._events = self._events, []
        if not self._stepping and self._down is None:
            events.extend(self._core.cache_events())
        return events

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """Who will use the engine."""
        if self._down is None:
            self._core.share_among(tenants)

    def drop(self, namespace: Namespace, chain_key: bytes) -> None:
        """What a namespace has cached is void, and what requests with that key leave later too."""
        self._void.add(chain_key)
        self._drop(namespace)

    def _drop(self, namespace: Namespace) -> None:
        if self._stepping:
            self._dropped.append(namespace)
        elif self._down is None:
            self._core.drop(namespace)

    def cancel(self, request_id: str) -> None:
        """Ends a request from elsewhere; its stream raises ``EngineFailed``. Unknown: no effect."""
        stream = self._streams.get(request_id)
        if stream is not None and not stream.ended:
            stream.fail(EngineFailed("cancelled"))
            self._cancel(request_id)

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[AnswerStream]:
        """Runs a request for as long as the returned context is entered.

        Raises (on entering):
            InvalidRequest: The request cannot be served as it stands, or its id is in use.
            UnknownModel: No such model here.
            EngineOverloaded: The queue is full.
            EngineFailed: The engine is down; the message says why.
        """
        return self._submitted(request)

    @asynccontextmanager
    async def _submitted(self, request: EngineRequest) -> AsyncIterator[AnswerStream]:
        if self._down is not None:
            raise EngineFailed(self._down)
        if request.request_id in self._streams:
            raise InvalidRequest("a request of this id is running")
        self._core.add(request)
        stream = self._streams[request.request_id] = AnswerStream()
        self._wake.set()
        try:
            yield stream
        finally:
            await self._leave(request.request_id, stream)
            if request.chain_key in self._void:
                self._drop(request.namespace)

    async def _leave(self, request_id: str, stream: AnswerStream) -> None:
        if not stream.ended:
            stream.fail(EngineFailed("cancelled"))
            self._cancel(request_id)
        if request_id in self._cancelled:
            with trio.move_on_after(LEAVE_S, shield=True):
                # A step that hangs is not waited for: whoever leaves has a deadline of its own.
                while request_id in self._cancelled and not self.stalled():
                    with trio.move_on_after(LEAVE_LOOK_S):
                        await self._settled.wait()
        del self._streams[request_id]

    def _cancel(self, request_id: str) -> None:
        if self._stepping:
            self._cancelled.append(request_id)
        elif self._down is None:
            self._core.cancel(request_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Steps the core until cancelled, then closes it."""
        task_status.started()
        try:
            while True:
                if self._down is None and self._core.has_work():
                    self._watch.began(trio.current_time(), self._core.load().queued_tokens)
                    await self._step()
                    self._watch.ended(trio.current_time())
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()
        finally:
            self._give_up("the engine was stopped")

    async def _step(self) -> None:
        self._settled = trio.Event()
        self._stepping = self._in_thread
        result: StepResult | None = None
        try:
            if self._in_thread:
                # Not abandoned on cancellation: the thread would go on writing into the cache.
                result = await trio.to_thread.run_sync(self._core.step, limiter=self._limiter)
            else:
                result = self._core.step()
        except Exception as error:  # noqa: BLE001 - whatever broke in a step ends its requests, typed
            self._break(error)
        finally:
            self._settle()
        if result is not None:
            # Whose they are is settled before time passes: an id may be left and used again.
            streams = {
                name: self._streams.get(name) for name, _ in (*result.events, *result.failed)
            }
            if not self._in_thread:
                await trio.sleep(result.virtual_s)
            self._failures = 0
            _deliver(result, streams)

    def _settle(self) -> None:
        """After a step: cancellations that waited for it, and its cache events when some wait."""
        self._stepping = False
        if self._down is None:
            for request_id in self._cancelled:
                self._core.cancel(request_id)
            for namespace in self._dropped:
                self._core.drop(namespace)
        self._cancelled.clear()
        self._dropped.clear()
        if self._down is None and not self._events:
            # The rest stays with the core, which bounds it.
            self._events.extend(self._core.cache_events())
        self._settled.set()

    def _break(self, error: Exception) -> None:
        """A step raised: every request fails, and the core starts again with an empty cache."""
        reason = kind_and_place(error)
        log.error("the engine failed: %s", reason)
        self._failures += 1
        self._fail_all(reason)
        if self._failures >= FAILURES_MAX:
            self._give_up(f"the engine failed {FAILURES_MAX} times in a row: {reason}")
            return
        try:
            self._core.reset()
        except Exception as again:  # noqa: BLE001 - a core that cannot start again is given up
            self._give_up(f"the engine failed and cannot restart: {type(again).__name__}: {reason}")

    def _give_up(self, reason: str) -> None:
        if self._down is None:
            self._down = reason
            self._fail_all(reason)
            self._cancelled.clear()
            self._settled.set()
            self._events = [Cleared()]
            self._core.close()

    def _fail_all(self, reason: str) -> None:
        for request_id in sorted(self._streams):
            self._streams[request_id].fail(EngineFailed(reason))


def _deliver(result: StepResult, streams: Mapping[str, AnswerStream | None]) -> None:
    """Hands a step's events to those who were waiting when it was made."""
    for request_id, event in result.events:
        if (stream := streams[request_id]) is not None:
            stream.put(event)
    for request_id, failure in result.failed:
        if (stream := streams[request_id]) is not None:
            stream.fail(failure)
