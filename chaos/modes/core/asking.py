"""The ingress of one request in core mode: what ``overlay/ingress.py`` does, as a state machine.

The router, the retry budget, the booking and all that is learnt are the product's; the loop over
attempts and its timers are modelled here, without tasks. ``node`` mode runs the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from chaos.modes.core.network import End
from chaos.modes.core.peer import CorePeer
from chaos.modes.core.serving import Answering, Failure, Serving, start
from inference.errors import ContextOverflow, InferenceError, InvalidRequest
from inference.request import TokenEvent
from overlay.errors import RequestError
from overlay.ingress import ATTEMPTS_MAX, IngressLimits
from overlay.request import Call, Usage
from overlay.route import Route
from overlay.routing.booking import BookingId
from overlay.work import (
    AttemptEnded,
    Broken,
    Late,
    Refused,
    Silent,
    Work,
    request_error,
    sampling_of,
)
from security.epoch import TenantEpoch
from security.peer_id import PeerId

Serve = Callable[[PeerId, Callable[[CorePeer, End], None]], None]


class Told(Protocol):
    """Who hears of a request's progress."""

    def started(self, served_by: PeerId) -> None: ...

    def tokens(self, ids: tuple[int, ...]) -> None: ...

    def ended(self, asking: Asking, served_by: PeerId, usage: Usage, reason: str) -> None: ...

    def failed(self, error: RequestError) -> None: ...


@dataclass(slots=True, eq=False)
class _Attempt:
    """One try; a message of an earlier one finds it ``over``."""

    route: Route
    booking: BookingId
    began_s: float
    deadline_s: float
    end: End | None = None
    serving: Serving | None = None
    accepted: bool = False
    expected_start_s: float = 0.0
    answered: bool = False
    first_s: float = 0.0
    tokens: int = 0
    cached: int = 0
    over: bool = False


@dataclass(eq=False)
class Asking:
    """One request from its ingress on. ``reach`` runs a call at a connected peer's host."""

    peer: CorePeer
    tenant: TenantEpoch
    work: Work
    deadline_s: float
    told: Told
    reach: Callable[[End, Callable[[CorePeer, End], None]], None]
    limits: IngressLimits = field(default_factory=IngressLimits)
    emitted: list[int] = field(default_factory=list)
    cached_tokens: int | None = None
    attempts: int = 0
    resumes: int = 0
    hops: int = 0
    over: bool = False
    _excluded: set[PeerId] = field(default_factory=set)
    _prefer_here: bool = False
    _started: bool = False
    _attempt: _Attempt | None = None

    def begin(self) -> None:
        """Takes the request in; everything else follows by itself."""
        self.peer.retries.on_request(self.peer.now_s())
        self.peer.later(max(0.0, self.deadline_s - self.peer.now_s()), self._out_of_time)
        self._next()

    def cancel(self) -> None:
        """The client has left."""
        if not self.over:
            self._leave_attempt()
            self.over = True

    # -- attempts

    def _next(self) -> None:
        peer, now_s = self.peer, self.peer.now_s()
        try:
            route = peer.router.route(
                self.work,
                self.tenant,
                excluded=frozenset(self._excluded),
                prefer_here=self._prefer_here,
            )
        except RequestError as error:
            self._fail(error)
            return
        self.attempts += 1
        peer.decisions.decided(self.work.request_id, self.work.tenant, route, now_s)
        budget_s = 2 * route.rtt_s + self.limits.budget_s
        attempt = _Attempt(route, peer.router.began(route, now_s), now_s, now_s + budget_s)
        self._attempt = attempt
        attempt.first_s = now_s
        if route.peer_id == peer.peer_id:
            self._run_here(attempt)
        else:
            self._run_there(attempt)

    def _run_here(self, attempt: _Attempt) -> None:
        def on_event(event: TokenEvent | InferenceError) -> None:
            if isinstance(event, InferenceError):
                self._broke(attempt, Broken("engine_failed"))
            else:
                self._piece(attempt, event)

        try:
            start(self.peer, self.work, on_event)
        except (Refused, ContextOverflow, InvalidRequest) as error:
            self._broke(attempt, error)
            return
        self._tell_started(attempt)

    def _run_there(self, attempt: _Attempt) -> None:
        peer, end = self.peer, self.peer.ends.get(attempt.route.peer_id)
        if end is None:
            self._broke(attempt, Refused("gone"))
            return
        attempt.end = end
        work, me = self.work, peer.peer_id
        answering = Answering(
            accepted=lambda start_s, cached: self._accepted(attempt, start_s, cached),
            piece=lambda event: self._piece(attempt, event),
            alive=lambda: self._heard(attempt),
            failed=lambda error: self._broke(attempt, error),
        )

        def there(serving_peer: CorePeer, far: End) -> None:
            serving = Serving(serving_peer, far, work, answering)
            attempt.serving = serving
            serving.begin(me)

        peer.wait_on(attempt, end, lambda: self._broke(attempt, Broken("peer_gone", dead=True)))
        self.reach(end, there)
        peer.later(attempt.deadline_s - peer.now_s(), lambda: self._watch(attempt))

    def _watch(self, attempt: _Attempt) -> None:
        """The peer may be silent for so long and no longer."""
        if attempt.over:
            return
        left_s = attempt.deadline_s - self.peer.now_s()
        if left_s > 1e-9:
            self.peer.later(left_s, lambda: self._watch(attempt))
        else:
            self._broke(attempt, Silent("silence" if attempt.accepted else "budget"))

    def _accepted(self, attempt: _Attempt, expected_start_s: float, cached_tokens: int) -> None:
        if attempt.over:
            return
        if attempt.route.is_late(expected_start_s, cached_tokens):
            self.peer.router.was_late(
                self.work, attempt.route, start_s=expected_start_s, cached=cached_tokens
            )
            self._broke(attempt, Late("late"))
        else:
            attempt.accepted = True
            attempt.expected_start_s = expected_start_s
            self._tell_started(attempt)
            self._heard(attempt)

    def _heard(self, attempt: _Attempt) -> None:
        attempt.deadline_s = self.peer.now_s() + self.limits.silence_s

    def _tell_started(self, attempt: _Attempt) -> None:
        if not self._started:
            self._started = True
            self.told.started(attempt.route.peer_id)

    # -- the answer

    def _piece(self, attempt: _Attempt, event: TokenEvent) -> None:
        if attempt.over:
            return
        self._heard(attempt)
        now_s, ids = self.peer.now_s(), event.token_ids or ()
        if event.cached_tokens is not None:
            attempt.cached = min(event.cached_tokens, self._prompt_tokens)
            if self.cached_tokens is None:
                self.cached_tokens = attempt.cached
        self.emitted += ids
        attempt.tokens += len(ids)
        if ids and not attempt.answered:
            attempt.answered, attempt.first_s = True, now_s
            self.peer.router.first_token(
                self.work,
                attempt.route,
                attempt.booking,
                elapsed_s=now_s - attempt.began_s,
                start_s=attempt.expected_start_s,
                cached=attempt.cached,
            )
        if ids:
            self.told.tokens(ids)
        if event.finish_reason is not None:
            self._finish(attempt, event.finish_reason.value)

    @property
    def _prompt_tokens(self) -> int:
        return len(self.work.token_ids or ())

    def _finish(self, attempt: _Attempt, reason: str) -> None:
        now_s, peer_id = self.peer.now_s(), attempt.route.peer_id
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self.emitted),
            cached_tokens=self.cached_tokens or 0,
        )
        self.hops = 0 if peer_id == self.peer.peer_id else 1
        self.peer.router.finished(
            self.work,
            attempt.route,
            usage,
            tokens=attempt.tokens - 1,
            decode_s=now_s - attempt.first_s,
        )
        self._end(attempt)
        self.over = True
        self.told.ended(self, peer_id, usage, reason)

    # -- what goes wrong

    def _broke(self, attempt: _Attempt, error: Failure | Silent) -> None:
        """An attempt is over without a whole answer: another follows, or the client's error."""
        if attempt.over:
            return
        now_s, peer_id = self.peer.now_s(), attempt.route.peer_id
        self._end(attempt)
        if isinstance(error, ContextOverflow):
            self._fail(request_error("context_length_exceeded", str(error), param=error.param))
            return
        if isinstance(error, InvalidRequest):
            self._fail(request_error("invalid_request", str(error), param=error.param))
            return
        assert isinstance(error, AttemptEnded), error
        if isinstance(error, Silent | Broken):
            self.peer.router.failed(peer_id, now_s)
        self._excluded.add(peer_id)
        self._prefer_here = True
        if self.attempts >= ATTEMPTS_MAX:
            self._fail(request_error("no_capable_peer", "every peer that was tried failed"))
            return
        if self.emitted:
            self.resumes += 1
            self.work = self.work.resumed(tuple(self.emitted))
        here = self.peer.peer_id not in self._excluded
        if not here and not error.dead and not self.peer.retries.take(now_s):
            self._fail(request_error("overloaded", "too many retries at present"))
            return
        self._next()

    def _out_of_time(self) -> None:
        if not self.over:
            self._leave_attempt()
            self._fail(request_error("deadline_exceeded", "the request ran out of time"))

    def _leave_attempt(self) -> None:
        if self._attempt is not None and not self._attempt.over:
            self._end(self._attempt)

    def _end(self, attempt: _Attempt) -> None:
        """Whatever became of it: nothing of it runs on, here or there."""
        attempt.over = True
        self.peer.router.ended(attempt.route, attempt.booking, self.peer.now_s())
        if attempt.end is None:
            self.peer.engine.cancel(self.work.request_id)
            return
        self.peer.wait_no_more(attempt)

        def reset(_: CorePeer, __: End) -> None:
            if attempt.serving is not None:
                attempt.serving.cancel()

        self.reach(attempt.end, reset)

    def _fail(self, error: RequestError) -> None:
        self.over = True
        self.told.failed(error)


def work_of(peer: CorePeer, call: Call, tenant: TenantEpoch, request_id: str) -> Work:
    """A call as work, tokenised here.

    Raises:
        RequestError: Where no such model is served, or the prompt cannot be tokenised.
    """
    model = peer.router.model_of(call.model, tenant)
    try:
        token_ids = peer.engine.tokenize(model.name, call.prompt)
    except InvalidRequest as error:
        raise request_error("invalid_request", str(error), param=error.param) from error
    return Work(
        request_id=request_id,
        tenant=tenant.tenant_id,
        model=model.name,
        prompt=call.prompt,
        token_ids=token_ids,
        sampling=sampling_of(call, peer.entropy.rng.getrandbits(63)),
        emitted=(),
        body=call.raw,
    )
