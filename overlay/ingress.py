"""The ingress: takes a client's request, has it run where it ends soonest, and sees it through.

A request ends exactly once: with ``Finished``, with one typed ``RequestError``, or cancelled by
the client leaving. What a peer began and could not finish is continued from the tokens that the
client has already, here or at another peer with equal output identity.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from inference.errors import ContextOverflow, EngineFailed, InvalidRequest, UnknownModel
from inference.request import FinishReason
from overlay.body import check_engines_can, field_of
from overlay.decisions import DecisionLog, Outcome
from overlay.errors import RequestError
from overlay.forward import PART_TOO_SMALL, End, Tokens
from overlay.local_run import STALLED_LOOK_S, run_here
from overlay.logs import about_request
from overlay.metrics import Metrics
from overlay.ports import Clock, Engine, Entropy
from overlay.principals import REVOKED, unauthorized
from overlay.progressed import Attempt, Progressed, exhausted, started_of
from overlay.quotas import Quotas
from overlay.remote_run import Patience, RemoteRun, run_there
from overlay.request import AnswerEvent, Delta, Finished, Submission, Usage
from overlay.retry import RetryBudget
from overlay.route import Basis, Route
from overlay.router import CHARS_PER_TOKEN, Router
from overlay.tenants import TenantBook
from overlay.work import (
    AttemptEnded,
    Broken,
    Denied,
    Hung,
    Late,
    Refused,
    Silent,
    Work,
    not_a_member,
    request_error,
    sampling_of,
)
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tenant import TenantId

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 8
"""Tries of one request, the first included, before it fails for good."""


class Run(Protocol):
    """An answer under way, here or elsewhere."""

    @property
    def expected_start_s(self) -> float: ...

    async def next(self, left_s: float) -> Tokens | End:
        """Raises trio.TooSlowError when nothing comes within ``left_s``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressLimits:
    """Seconds. ``budget_s`` comes on top of two round trips."""

    budget_s: float = 0.05
    silence_s: float = 1.5


class PeerIngress:
    """``overlay.request.Ingress`` of one peer."""

    def __init__(
        self,
        *,
        me: PeerId,
        clock: Clock,
        entropy: Entropy,
        engine: Engine,
        tenants: TenantBook,
        router: Router,
        decisions: DecisionLog,
        metrics: Metrics,
        limits: IngressLimits,
        quotas: Quotas,
        is_revoked: Callable[[str], bool],
    ) -> None:
        self._me = me
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._tenants = tenants
        self._router = router
        self._decisions = decisions
        self._metrics = metrics
        self._limits = limits
        self._quotas = quotas
        self._is_revoked = is_revoked
        self._retries = RetryBudget()
        self._open: Counter[TenantId] = Counter()

    @property
    def open_requests(self) -> int:
        """Requests under way."""
        return self._open.total()

    def open_of(self, tenant: TenantId) -> int:
        """A tenant's requests under way."""
        return self._open[tenant]

    @asynccontextmanager
    async def open(self, submission: Submission) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """Runs one request; leaving the block early cancels it wherever it runs."""
        with about_request(submission.request_id):
            tenant = submission.principal.tenant
            self._open[tenant] += 1
            try:
                async with aclosing(self._answer(submission)) as events:
                    yield events
            finally:
                self._open[tenant] -= 1
                if not self._open[tenant]:
                    del self._open[tenant]

    async def _answer(self, submission: Submission) -> AsyncGenerator[AnswerEvent, None]:
        began_s = self._clock.now_s()
        self._retries.on_request(began_s)
        state = "cancelled"
        try:
            request = await self._prepare(submission, began_s)
            while state == "cancelled":  # until an attempt ends it; each failure leaves a peer out
                route = await self._next_route(request)
                try:
                    async with aclosing(self._attempt(request, route)) as events:
                        async for event in events:
                            if isinstance(event, Finished):
                                state = event.reason.value
                            yield event
                except AttemptEnded as error:
                    await self._after_failure(request, route, error)
        except RequestError as error:
            state = error.code
            self._decisions.ended(submission.request_id, Outcome(state=state))
            error.param = field_of(submission.call, error.param)
            raise
        finally:
            if state == "cancelled":
                self._decisions.ended(submission.request_id, Outcome(state=state))
            self._metrics.of(submission.principal.tenant).ended(state)
            log.debug("request ended: %s", state)

    async def _prepare(self, submission: Submission, began_s: float) -> Progressed:
        """Checks tenant and body, tokenises where this host can, and draws the seed."""
        tenant = self._tenant(submission.principal.tenant)
        call = submission.call
        model = self._router.model_of(call.model, tenant)
        if call.beyond:
            check_engines_can(call, beyond=self._router.passes_bodies(model.name))
        token_ids = await self._tokenize(submission, model.name)
        tokens = len(call.raw) // CHARS_PER_TOKEN if token_ids is None else len(token_ids)
        self._quotas.charge(submission.principal, tokens)
        return Progressed(
            submission=submission,
            tenant=tenant,
            began_s=began_s,
            work=Work(
                request_id=submission.request_id,
                tenant=tenant.tenant_id,
                model=model.name,
                prompt=call.prompt,
                token_ids=token_ids,
                sampling=sampling_of(call, self._entropy.rng.getrandbits(63)),
                emitted=(),
                body=call.raw,
                chat=call.chat,
                beyond=bool(call.beyond),
            ),
        )

    def _tenant(self, tenant_id: TenantId) -> TenantEpoch:
        """The tenant as its roster is now: it may change while a request is under way."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            raise not_a_member()
        return tenant

    async def _tokenize(self, submission: Submission, model: str) -> tuple[int, ...] | None:
        if not self._engine.capabilities().tokenizes:
            return None
        try:
            return await self._engine.tokenize(model, submission.call.prompt)
        except (UnknownModel, EngineFailed):
            return None
        except ContextOverflow as error:
            raise request_error("context_length_exceeded", str(error), param=error.param) from error
        except InvalidRequest as error:
            raise request_error("invalid_request", str(error), param=error.param) from error

    async def _next_route(self, request: Progressed) -> Route:
        while True:
            now_s = self._clock.now_s()
            if now_s >= request.submission.deadline_s:
                raise request_error("deadline_exceeded", "the request ran out of time")
            request.tenant = self._tenant(request.work.tenant)
            try:
                route = self._router.route(
                    request.work,
                    request.tenant,
                    excluded=frozenset(request.excluded),
                    prefer_here=request.prefer_here,
                    variant=request.variant,
                )
                break
            except RequestError as error:
                await self._go_back(request, error)
        self._decisions.decided(request.work.request_id, request.work.tenant, route, now_s)
        request.attempts += 1
        return route

    async def _after_failure(self, request: Progressed, route: Route, error: AttemptEnded) -> None:
        """Decides whether to go on; raises the client's error where not."""
        peer_id = route.peer_id
        log.info("attempt %d at %s ended: %s", request.attempts, peer_id, error.code)
        request.excluded.add(peer_id)
        if isinstance(error, Refused) and error.code == "not_isolated":
            self._router.not_for(request.work, peer_id)
        if error.code == PART_TOO_SMALL:
            request.too_small.add(peer_id)
        if isinstance(error, Late):
            request.late.add(peer_id)
        request.hung_here = request.hung_here or isinstance(error, Hung)
        request.prefer_here = True
        metrics = self._metrics.of(request.work.tenant)
        metrics.fell_back(error.code)
        if not request.resumable:
            raise request_error(
                "stream_broken", "the serving peer failed and its engine reports no token ids"
            )
        if request.emitted:
            request.resumes += 1
            request.work = request.work.resumed(tuple(request.emitted))
            metrics.resumed()
        if request.attempts >= ATTEMPTS_MAX:
            failed = request_error("no_capable_peer", "every peer that was tried failed")
            await self._go_back(request, failed)
        runs_here = self._me not in request.excluded and self._router.serves_here(request.work)
        if not runs_here and not error.dead and not self._retries.take(self._clock.now_s()):
            busy = request_error("overloaded", "too many retries at present; try again shortly")
            await self._go_back(request, busy)

    async def _go_back(self, request: Progressed, error: RequestError) -> None:
        """Goes back to whom it has left: to peers that would have been late, else to this host.

        Where this host's engine hung it waits for it: without the others it would have, too.

        Raises:
            RequestError: What ``error`` means to the client, where there is nobody to go back to.
        """
        if request.late:
            request.excluded -= request.late
            request.late.clear()
            return
        if not request.hung_here:
            raise exhausted(request, error) from None
        left_s = request.submission.deadline_s - self._clock.now_s()
        with trio.move_on_after(left_s):
            while self._engine.stalled():
                await trio.sleep(STALLED_LOOK_S)
        request.hung_here = False
        request.excluded.discard(self._me)

    async def _attempt(
        self, request: Progressed, route: Route
    ) -> AsyncGenerator[AnswerEvent, None]:
        now_s = self._clock.now_s()
        booking = self._router.began(route, now_s)
        attempt = Attempt(route=route, booking=booking, began_s=now_s, first_s=now_s)
        code = "cancelled"
        most = max(route.view.context_tokens, len(request.emitted))
        request.tokens_max = request.work.sampling.max_tokens or most
        request.tokens_max *= request.submission.call.answers
        try:
            async with self._run(request, route) as run:
                if isinstance(run, RemoteRun):
                    self._check_start(request, route, run)
                attempt.expected_start_s = run.expected_start_s
                if not request.started:
                    request.started = True
                    yield started_of(request, route)
                while True:
                    piece = await self._next_piece(request, run)
                    if isinstance(run, RemoteRun) and not self._tenants.is_member(
                        request.work.tenant, route.peer_id
                    ):
                        raise Refused("not_a_member")  # it was taken off the roster meanwhile
                    if isinstance(piece, End):
                        code = "done"
                        yield self._finish(request, attempt, piece)
                        return
                    yield self._delta(request, attempt, piece)
        except AttemptEnded as error:
            code = error.code
            if request.ended is not None:  # nothing was missing but its end
                yield self._finish(request, attempt, request.end(attempt))
                return
            if isinstance(error, Denied):
                request.denied[route.peer_id] = error
            if isinstance(error, Silent | Broken):
                self._router.failed(route.peer_id, self._clock.now_s())
            raise
        except RequestError as error:
            code = error.code
            raise
        finally:
            self._router.ended(route, booking, self._clock.now_s())
            if route.peer_id != self._me:
                self._metrics.of(request.work.tenant).forwarded(code)

    def _run(self, request: Progressed, route: Route) -> AbstractAsyncContextManager[Run]:
        if route.peer_id == self._me:
            return run_here(
                self._engine, request.tenant, request.work, lambda: self._is_hopeless(request)
            )
        connection = self._router.connection(route.peer_id)
        if connection is None:
            raise Refused("gone")
        return run_there(
            connection,
            request.work,
            token_id=request.submission.principal.token_id,
            variant=route.view.variant,
            attempt=min(request.attempts - 1, 255),
            deadline_s=request.submission.deadline_s - self._clock.now_s(),
            budget_s=2 * route.rtt_s + self._limits.budget_s,
            patience=Patience(
                silence_s=self._limits.silence_s,
                first_s=self._first_piece_s(request, route),
                next_s=route.view.output_factor_s,
            ),
        )

    def _first_piece_s(self, request: Progressed, route: Route) -> float:
        """Expected time to the first piece, which is the whole answer where it is not streamed."""
        if route.view.passes_bodies and not request.submission.call.stream:
            return request.submission.deadline_s - self._clock.now_s()
        return route.first_token_s

    def _check_start(self, request: Progressed, route: Route, run: RemoteRun) -> None:
        """Raises ``Late`` where this host would begin much sooner than the peer says it will."""
        start_s, cached = run.expected_start_s, run.accept.cached_tokens
        if route.is_late(start_s, cached):
            self._router.was_late(request.work, route, start_s=start_s, cached=cached)
            raise Late("late")

    def _is_hopeless(self, request: Progressed) -> bool:
        """Whether this host's engine hangs, and another peer could go on with the request."""
        return self._engine.stalled() and self._router.runs_elsewhere(
            request.work, request.tenant, frozenset(request.excluded), request.variant
        )

    async def _next_piece(self, request: Progressed, run: Run) -> Tokens | End:
        left_s = request.submission.deadline_s - self._clock.now_s()
        try:
            piece = await run.next(max(0.0, left_s))
        except trio.TooSlowError:
            raise request_error("deadline_exceeded", "the request ran out of time") from None
        if self._is_revoked(request.submission.principal.token_id):
            raise unauthorized(REVOKED)
        return piece

    def _delta(self, request: Progressed, attempt: Attempt, piece: Tokens) -> Delta:
        attempt.pieces += 1
        attempt.size_bytes += len(piece.text) + len(piece.chunk or b"")
        tokens = len(request.emitted) + len(piece.token_ids or ())
        if tokens > request.tokens_max or request.is_too_much(attempt):
            raise Broken("too_many_tokens")
        if piece.ended:
            request.ended = FinishReason(piece.ended)
        if piece.token_ids is None:
            nothing = not piece.text and not piece.chunk
            request.resumable = request.resumable and nothing
        elif piece.token_ids:
            request.emitted += piece.token_ids
            request.variant = request.variant or attempt.route.view.variant
        if piece.cached_tokens is not None:
            attempt.cached = piece.cached_tokens
            if request.cached_tokens is None:
                request.cached_tokens = piece.cached_tokens
        if piece.token_ids or piece.text or piece.chunk:
            whole = bool(piece.chunk) and not request.submission.call.stream
            self._on_answered(request, attempt, whole=whole)
        attempt.tokens += len(piece.token_ids or ()) or bool(piece.text)
        return Delta(
            text=piece.text,
            token_ids=None if piece.token_ids is None else tuple(piece.token_ids),
            chunk=piece.chunk or None,
        )

    def _on_answered(self, request: Progressed, attempt: Attempt, *, whole: bool) -> None:
        """Some of the answer has come: learns from when the first of it did."""
        now_s = self._clock.now_s()
        if request.first_token_s is None:
            request.first_token_s = now_s
            if not whole:
                self._metrics.of(request.work.tenant).first_token(now_s - request.began_s)
        if attempt.answered:
            return
        attempt.answered, attempt.first_s = True, now_s
        route, booking, cached = attempt.route, attempt.booking, attempt.cached
        if whole:
            self._router.answered_whole(request.work, route, booking, cached)
            return
        self._router.first_token(
            request.work,
            route,
            booking,
            elapsed_s=now_s - attempt.began_s,
            start_s=attempt.expected_start_s,
            cached=cached,
        )

    def _finish(self, request: Progressed, attempt: Attempt, end: End) -> Finished:
        now_s, route = self._clock.now_s(), attempt.route
        cached_tokens = request.cached_tokens if request.cached_tokens is not None else 0
        if route.view.passes_bodies and not request.resumes:
            cached_tokens = end.cached_tokens  # such an engine tells only at the end
        first_s = now_s if request.first_token_s is None else request.first_token_s
        # Where we can count ourselves we do; a peer's word is for what we cannot see.
        ids = request.work.token_ids if route.basis is Basis.TOKENS else None
        prompt_tokens = end.prompt_tokens if ids is None else len(ids)
        counted = request.resumable and (bool(request.emitted) or not route.view.passes_bodies)
        completion_tokens = len(request.emitted) if counted else end.completion_tokens
        usage = Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=min(completion_tokens, request.tokens_max),
            cached_tokens=min(cached_tokens, prompt_tokens),
        )
        self._router.finished(
            request.work,
            route,
            usage,
            tokens=attempt.tokens - 1,
            decode_s=now_s - attempt.first_s,
        )
        if ids is not None and not request.work.beyond:
            for peer_id in request.denied:  # what they said of the request was not true
                self._router.failed(peer_id, now_s)
        self._metrics.of(request.work.tenant).answered(usage, decode_s=now_s - first_s)
        self._decisions.ended(
            request.work.request_id,
            Outcome(
                state=end.finish_reason,
                served_by=route.peer_id,
                usage=usage,
                ttft_s=first_s - request.began_s,
                total_s=now_s - request.began_s,
                resumes=request.resumes,
                attempts=request.attempts,
            ),
        )
        return Finished(
            reason=FinishReason(end.finish_reason),
            usage=usage,
            served_by=route.peer_id,
            hops=0 if route.peer_id == self._me else 1,
            resumes=request.resumes,
        )
