"""A remote engine: an inference server that already runs on this host, behind the engine port.

Rules:

1. A request is one HTTP request, in a task of its own. Leaving or cancelling it closes its
   connection, which is how these servers stop working on it.
2. The server queues by itself. What is sent to it is bounded by its slots and a queue.
3. The server comes and goes by its owner's will. While it is away there are no models, requests
   in flight fail, and nothing counts as cached; when it is back it is looked over again.
4. What it has cached is somebody else's picture of it (``cache_picture.py``), fed with every
   request. One that cannot be kept up to date is replaced by one that needs no keeping.
5. An error that comes within a moment is raised on entering, as if nothing had been promised; one
   that comes later, or after the first piece, by the stream.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import trio

from inference.blocks import reusable_blocks
from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InferenceError,
    InvalidRequest,
    UnknownModel,
)
from inference.events import CacheEvent
from inference.remote.answer import AnswerReader
from inference.remote.body import upstream_of
from inference.remote.cache_picture import CachePicture, Outcome
from inference.remote.failures import failure_of
from inference.remote.job import (
    Job,
    Serving,
    as_sent,
    is_complete,
    names_of,
    nothing_more,
    served_of,
)
from inference.remote.kinds import KINDS
from inference.remote.load import LoadMeter, ServerMetrics, in_units
from inference.remote.preflight import Preflight, Secret
from inference.remote.server import Server, ServerError, ServerRefused
from inference.remote.settings import RemoteSettings
from inference.remote.stream import RemoteAnswer
from inference.remote.watch import ServerWatch, Watcher
from inference.request import (
    BLOCK_TOKENS,
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
)
from inference.void import VoidChains

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A picture of a server's cache, and what keeps it up to date until it is cancelled.

    ``instead`` makes the picture that is used where ``run`` fails.
    """

    picture: CachePicture
    run: Callable[[], Awaitable[None]] | None = None
    instead: Callable[[], CachePicture] | None = None


MakePicture = Callable[[Preflight], Pictured]
"""Called each time that a server has been looked over."""


class RemoteEngine:
    """An engine (``overlay.ports.Engine``) that is somebody else's server.

    Args:
        settings: Where and what it is.
        make_picture: Makes the picture of its cache.
        secret: So many random bytes.
    """

    def __init__(
        self, settings: RemoteSettings, make_picture: MakePicture, *, secret: Secret
    ) -> None:
        self._settings = settings
        self._kind = KINDS[settings.kind]
        self._make_picture = make_picture
        self._server = Server(settings)
        self._meter = LoadMeter()
        self._jobs: dict[str, Job] = {}
        self._serving: Serving | None = None
        self._events: list[CacheEvent] = []
        self._nursery: trio.Nursery | None = None
        watcher = Watcher(
            up=self._up, down=self._down, seen=self._seen, busy=lambda: self._meter.busy
        )
        self._watch = ServerWatch(self._server, settings, watcher, secret=secret)
        self._told: tuple[object, Capabilities] | None = None
        self._read = self._misread = 0
        self._void = VoidChains()

    def capabilities(self) -> Capabilities:
        """What it can do at present: the same object until something changes."""
        serving = self._serving
        exact = serving is not None and serving.picture.exact
        state = (serving, exact, self._watch.words)
        if self._told is None or self._told[0] != state:
            self._told = (state, self._capabilities(serving, exact=exact))
        return self._told[1]

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        """The prompt's numbers; raises ``InvalidRequest`` or ``UnknownModel``."""
        serving = self._serving
        if serving is None or model not in serving.preflight.readers:
            raise UnknownModel("the inference server has no such model")
        try:
            return await serving.preflight.readers[model].read(as_sent(prompt))
        except RecursionError:
            raise InvalidRequest("the prompt is nested too deeply") from None

    def load(self) -> EngineLoad:
        return self._meter.load()

    def posture(self) -> Sequence[tuple[str, str]]:
        """How prompts are read and tenants kept apart, and all that is missing."""
        lines: list[tuple[str, str]] = []
        if (serving := self._serving) is not None:
            preflight = serving.preflight
            lines += [
                (f"prompts of {name}", reader.words) for name, reader in preflight.readers.items()
            ]
            if preflight.salts:
                lines.append(("isolation", preflight.isolation))
            if self._misread:
                lines.append(("prompts misread", f"{self._misread} of {self._read} since start"))
            lines += [("degraded", words) for words in (*preflight.degraded, *serving.degraded)]
            lines += serving.picture.posture()
        return lines

    def stalled(self) -> bool:
        """Whether requests are in flight, nothing has come for long, and it is not well either."""
        silent_s = trio.current_time() - self._meter.last_s
        waits = self._meter.in_flight > 0 and silent_s >= self._settings.timeouts.silent_s
        return waits and not self._watch.healthy

    def cache_events(self) -> Sequence[CacheEvent]:
        events, self._events = self._events, []
        if self._serving is not None:
            events.extend(self._serving.picture.drain())
        return events

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """The server divides nothing; each request names its tenant's salt."""

    def drop(self, namespace: Namespace, chain_key: bytes) -> None:
        """What a namespace has cached is void, and what requests with that key leave later too."""
        self._void.add(chain_key)
        if self._serving is not None:
            self._serving.picture.drop(namespace)

    def cancel(self, request_id: str) -> None:
        """Ends a request from elsewhere; its stream raises ``EngineFailed``. Unknown: no effect."""
        if (job := self._jobs.get(request_id)) is not None:
            job.answer.fail(EngineFailed("cancelled"))
            job.scope.cancel()

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[RemoteAnswer]:
        """Runs a request for as long as the returned context is entered.

        Raises (on entering, or from the stream when the server says it later):
            InvalidRequest: The request cannot be served as it stands, or its id is in use.
            UnknownModel: No such model here.
            EngineOverloaded: The queue is full.
            EngineFailed: The server is away or failed.
        """
        return self._submitted(request)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps watch of the server until cancelled; started when it was looked for once."""
        looked = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watch.run, looked)
                with trio.move_on_after(self._settings.timeouts.first_look_s):
                    await looked.wait()
                task_status.started()
        finally:
            self._nursery = None
            self._down("the engine was stopped")
            await self._server.aclose()

    @asynccontextmanager
    async def _submitted(self, request: EngineRequest) -> AsyncIterator[RemoteAnswer]:
        nursery, serving = self._nursery, self._serving
        if nursery is None or serving is None:
            raise EngineFailed("the inference server is away")
        if is_complete(request, serving):
            yield await nothing_more()
            return
        job = self._job(request, serving)
        nursery.start_soon(self._run, job)
        try:
            with trio.move_on_after(self._settings.timeouts.enter_s):
                await job.opened.wait()
            if job.answer.came_to_nothing and job.answer.failure is not None:
                raise job.answer.failure
            yield job.answer
        finally:
            job.answer.fail(EngineFailed("cancelled"))
            job.scope.cancel()
            with trio.move_on_after(self._settings.timeouts.leave_s, shield=True):
                await job.done.wait()

    def _job(self, request: EngineRequest, serving: Serving) -> Job:
        """Admits a request; raises as :meth:`submit`."""
        preflight = serving.preflight
        served = served_of(serving, request.model)
        if served is None:
            raise UnknownModel("the inference server has no such model")
        if request.request_id in self._jobs:
            raise InvalidRequest("a request of this id is running")
        if len(self._jobs) >= self._meter.slots + self._settings.queue_max:
            raise EngineOverloaded("too many requests wait for the inference server")
        given = len(request.token_ids) + len(request.emitted)
        if not served.by_text and given >= served.context_tokens:
            raise ContextOverflow(
                f"the prompt is longer than the model's context of {served.context_tokens} tokens",
                param="messages" if request.chat else "prompt",
            )
        upstream = upstream_of(
            request,
            self._kind,
            model=served.name,
            context_tokens=served.context_tokens,
            gives_ids=preflight.gives_token_ids,
            fetches=self._settings.fetches,
        )
        names = names_of(request, served)
        picture, now_s = serving.picture, trio.current_time()
        picture.learn(request.namespace, request.chain_key, request.cache_salt)
        expected = picture.started(request.request_id, request.namespace, names, now_s)
        grain = preflight.block_tokens // BLOCK_TOKENS
        expected = min(expected, reusable_blocks(given)) // grain * grain
        job = Job(request=request, upstream=upstream, serving=serving, expected=expected)
        self._jobs[request.request_id] = job
        cached = expected * BLOCK_TOKENS
        self._meter.sent(request.request_id, tokens=given, cached=cached, now_s=now_s)
        return job

    async def _run(self, job: Job) -> None:
        """One request, from its beginning to its end, whoever ends it."""
        try:
            with job.scope:
                await self._answer(job)
        except ServerError as error:
            if not isinstance(error, ServerRefused):
                self._watch.suspect()
            job.answer.fail(failure_of(error, chat=job.request.chat))
        except InferenceError as error:
            job.answer.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever broke ends this request only, typed
            log.error("a request to the inference server failed: %s", type(error).__name__)  # noqa: TRY400 - a trace may show a body
            job.answer.fail(EngineFailed("the request to the inference server failed"))
        finally:
            self._end(job)

    async def _answer(self, job: Job) -> None:
        upstream = job.upstream
        request, cached = job.request, job.expected * BLOCK_TOKENS
        known = job.serving.preflight.readers[request.model].tokens
        prompt = (*request.token_ids, *request.emitted) if known and request.token_ids else ()
        reader = AnswerReader(upstream, cached_tokens=cached, prompt=prompt)
        if not upstream.stream:
            data = await self._server.whole(upstream.path, upstream.body)
            whole = reader.whole(data)
            job.reader = reader
            await job.answer.put(whole)
            return
        job.reader = reader
        try:
            async with self._server.stream(upstream.path, upstream.body) as payloads:
                job.opened.set()
                await self._pass_on(job, reader, payloads)
        except ServerError:
            if not reader.finished:
                raise
            # The answer is whole: what broke off is its usage.
            self._watch.suspect()
        if not reader.said_end:
            await job.answer.put(reader.end())

    async def _pass_on(
        self, job: Job, reader: AnswerReader, payloads: AsyncIterator[bytes]
    ) -> None:
        """The pieces of an answer, until the server says that it is done or no more comes."""
        request_id, end_by_s = job.request.request_id, float("inf")
        while not reader.said_end:
            payload: bytes | None = None
            with trio.move_on_at(end_by_s):
                payload = await anext(payloads, None)
            if payload is None:
                break
            event = None if not payload else reader.chunk(payload)
            now_s = trio.current_time()
            if self._meter.came(request_id, started=reader.started, now_s=now_s):
                job.serving.picture.prefilled(request_id, now_s)
            if reader.finished:
                # Usage and the end's mark follow at once, or not at all.
                end_by_s = min(end_by_s, now_s + self._settings.timeouts.leave_s)
            if event is not None:
                await job.answer.put(event)

    def _end(self, job: Job) -> None:
        """Books what a request has shown; it must not fail, as nobody could be told."""
        request_id, reader = job.request.request_id, job.reader
        job.answer.fail(EngineFailed("the inference server's answer broke off"))
        usage = None if reader is None else reader.usage
        self._read += usage is not None
        self._misread += reader is not None and reader.misread
        ended = usage if reader is not None and reader.said_end else None
        measured = self._meter.ended(request_id, ended, streamed=job.upstream.stream)
        tokens = job.serving.preflight.readers[job.request.model].tokens
        counted = usage
        if usage is not None and not tokens:
            counted = in_units(usage, units=len(job.request.token_ids), expected=job.expected)
        outcome = Outcome(
            answered=reader is not None and reader.started,
            prompt_tokens=None if counted is None else counted.prompt_tokens,
            cached_tokens=None if counted is None else counted.cached_tokens,
            first_token_s=measured.first_token_s,
            alone=measured.alone,
            prefill_tokens_per_s=self._meter.prefill_tokens_per_s,
        )
        self._jobs.pop(request_id, None)
        job.opened.set()
        job.done.set()
        job.serving.picture.finished(request_id, outcome, trio.current_time())
        if job.request.chain_key in self._void:
            job.serving.picture.drop(job.request.namespace)

    def _up(self, preflight: Preflight) -> None:
        made = self._make_picture(preflight)
        self._meter.slots = preflight.slots
        self._serving = Serving(preflight=preflight, picture=made.picture)
        if made.run is not None and self._nursery is not None:
            self._nursery.start_soon(self._follow, self._serving, made.run, made.instead)

    async def _follow(
        self,
        serving: Serving,
        run: Callable[[], Awaitable[None]],
        instead: Callable[[], CachePicture] | None,
    ) -> None:
        """Keeps a picture up to date while its server is there; it is replaced if that fails."""
        with serving.scope:
            try:
                await run()
            except* Exception as failed:  # noqa: BLE001 - sockets and frames of others
                words = f"its cache events cannot be followed ({_first_of(failed)})"
                log.warning("inference server: %s", words)
                serving.degraded.append(words)
                serving.picture.cleared()
                if self._serving is serving:
                    self._events.extend(serving.picture.drain())
                if instead is not None:
                    serving.degraded[-1] += ": what it has cached is estimated"
                    serving.picture = instead()

    def _down(self, why: str) -> None:
        serving, self._serving = self._serving, None
        for request_id in sorted(self._jobs):
            job = self._jobs[request_id]
            job.answer.fail(EngineFailed(f"the inference server is away: {why}"))
            job.scope.cancel()
        if serving is not None:
            serving.scope.cancel()
            serving.picture.cleared()
            self._events.extend(serving.picture.drain())
        self._meter.forget()

    def _seen(self, metrics: ServerMetrics) -> None:
        self._meter.saw(metrics)
        if self._serving is not None:
            self._serving.picture.tick(trio.current_time())

    def _capabilities(self, serving: Serving | None, *, exact: bool) -> Capabilities:
        preflight = None if serving is None else serving.preflight
        models = () if preflight is None else preflight.models
        # A picture is exact of the server's first model; of others nothing is told.
        return Capabilities(
            models=tuple(
                replace(model, estimated=not exact or model is not models[0]) for model in models
            ),
            slots=0 if preflight is None else preflight.slots,
            block_tokens=BLOCK_TOKENS if preflight is None else preflight.block_tokens,
            exact_claims=exact,
            salts=preflight is not None and preflight.salts,
            tokenizes=preflight is not None,
            reports_token_ids=preflight is not None and preflight.gives_token_ids,
            description=self._watch.words,
        )


def _first_of(failed: ExceptionGroup[Exception]) -> str:
    """What the first of some errors says, if it is one of ours."""
    error: Exception = failed
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, InferenceError) else type(error).__name__
