"""Clients of a simulated cluster: they send planned requests and note what becomes of each.

A request ends in the history exactly once, with OK, FAIL, CANCELLED, or INFO where its ingress was
lost and nobody can know. One that is still open :data:`PATIENCE_S` after its deadline is STUCK, and
INFO as well when its client gives it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import trio

from chaos.history import What
from chaos.modes.asked import AT_FAULT, PATIENCE_S, Sent, asked_ids, body_of, prompt_text
from chaos.modes.node.cluster import Boot, SimCluster, SimHost
from chaos.modes.node.face import Answer, Broke
from chaos.pieces import piece_of, text_of_chunk
from chaos.scenario.schedule import PlannedRequest
from overlay.body import parse_chat
from overlay.errors import RequestError
from overlay.node import Node
from overlay.request import (
    Delta,
    Finished,
    Principal,
    RequestId,
    Scope,
    Started,
    Submission,
)

CLIENT_ID = "chaos"
UNAUTHORIZED = "invalid_api_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How clients of an ingress behave while a fault lasts. None is as usual.

    ``on_effect`` is called for each request that it changes.
    """

    fault_id: str
    on_effect: Callable[[], None]
    hang_up_after_tokens: int | None = None
    cancel_after_s: float | None = None
    gap_s: float | None = None
    twice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a client shows, where it is more than a name.

    ``on_taken`` is called with the node that takes it, ``on_refused`` where one does not.
    """

    text: str
    on_taken: Callable[[Node], None]
    on_refused: Callable[[], None]


@dataclass(eq=False)
class Open:
    """A request that has not ended."""

    request: PlannedRequest
    sent_s: float
    answer: trio.MemoryReceiveChannel[Answer] | None = None


@dataclass(eq=False)
class Clients:
    """All clients of a cluster.

    ``manners`` are those in force, by ingress and then by fault; ``tokens`` are shown by the
    requests of these ids.
    """

    cluster: SimCluster
    nursery: trio.Nursery
    manners: dict[str, dict[str, Manner]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    open: dict[str, Open] = field(default_factory=dict)
    _product_ids: dict[str, tuple[RequestId, Boot]] = field(default_factory=dict)

    async def send_all(self) -> None:
        """Sends the schedule's requests at their times, counted from now."""
        began_s = trio.current_time()
        for request in self.cluster.schedule.requests:
            await trio.sleep_until(began_s + request.at_s)
            self.send(request)

    def send(self, request: PlannedRequest, text: str | None = None) -> None:
        """Sends a request now, in a task of its own; ``text`` stands for its planned prompt."""
        manners = tuple(self.manners.get(request.ingress, {}).values())
        self.nursery.start_soon(self._request, request, text, manners)
        for manner in manners:
            if manner.twice:
                manner.on_effect()
                again = replace(request, id=f"{request.id}-{manner.fault_id}")
                self.nursery.start_soon(self._request, again, text, manners)

    async def _request(
        self, request: PlannedRequest, text: str | None, manners: tuple[Manner, ...]
    ) -> None:
        cluster = self.cluster
        history = cluster.history
        text = prompt_text(request) if text is None else text
        now_s = trio.current_time()
        cluster.sent[request.id] = Sent(request=request, text=text, at_s=now_s)
        manner = {"tools": True} if request.tools else {}
        if cluster.schedule.cluster.remote and not request.stream:
            manner["whole"] = True
        history.add(
            What.INVOKE,
            request.id,
            ingress=request.ingress,
            tenant=request.tenant,
            max_tokens=request.max_tokens,
            prompt_tokens=len(asked_ids(request, text)),
            **manner,
        )
        host = cluster.host(request.ingress)
        try:
            answer, scope = self._submit(host, request, text)
        except ConnectionRefusedError as error:
            self._lost(request, f"not taken: {error}")
            return
        except RequestError as error:
            self._end(request, error, slow=False)
            return
        if host.stopped:
            self._mark("ingress_silent", request)
        self.open[request.id] = Open(request, now_s, answer)
        try:
            patience_s = request.timeout_s + PATIENCE_S + _reading_s(request, manners)
            with trio.move_on_after(patience_s) as patience:
                await self._watch(request, answer, manners)
            if patience.cancelled_caught:
                self._out_of_patience(request, host, patience_s)
        finally:
            del self.open[request.id]
            scope.cancel()
            answer.close()

    def note_silence(self, ingress: str) -> None:
        """Marks the requests that wait for an ingress which stands still now."""
        for waiting in self.open.values():
            if waiting.request.ingress == ingress:
                self._mark("ingress_silent", waiting.request)

    def _submit(
        self, host: SimHost, request: PlannedRequest, text: str
    ) -> tuple[trio.MemoryReceiveChannel[Answer], trio.CancelScope]:
        boot = host.boot
        if boot is None:
            raise ConnectionRefusedError(f"the ingress is down ({host.down})")
        product_id = RequestId(boot.node.ports.entropy.secret(16).hex())
        self.cluster.request_ids[product_id] = request.id
        submission = Submission(
            request_id=product_id,
            principal=self._principal(boot.node, request),
            call=parse_chat(body_of(request, text)),
            deadline_s=trio.current_time() + request.timeout_s,
        )
        answer, scope = boot.face.submit(submission)
        self._product_ids[request.id] = (product_id, boot)
        return answer, scope

    def _principal(self, node: Node, request: PlannedRequest) -> Principal:
        """Who asks. Raises ``RequestError`` where the node does not take the token."""
        token = self.tokens.get(request.id)
        if token is None:
            tenant = self.cluster.authority.tenant_id(request.tenant)
            return Principal(tenant=tenant, token_id=CLIENT_ID, scopes=frozenset({Scope.INFER}))
        principal = node.principals.of_token(token.text)
        token.on_taken(node)
        return principal

    async def _watch(
        self,
        request: PlannedRequest,
        answer: trio.MemoryReceiveChannel[Answer],
        manners: tuple[Manner, ...],
    ) -> None:
        """Follows one answer to its end, or until the client hangs up."""
        cancel_s, by = _first_cancel(request, manners)
        with trio.move_on_after(cancel_s) as hang_up:
            await self._follow(request, answer, manners)
        if hang_up.cancelled_caught:
            for manner in manners:
                if manner.fault_id == by:
                    manner.on_effect()
            self.cluster.history.add(What.CANCELLED, request.id, by=by)

    async def _follow(
        self,
        request: PlannedRequest,
        answer: trio.MemoryReceiveChannel[Answer],
        manners: tuple[Manner, ...],
    ) -> None:
        history, tokens = self.cluster.history, 0
        gap_s = max((manner.gap_s or 0.0 for manner in manners), default=0.0)
        async for event in answer:
            if isinstance(event, Started):
                served_by = self.cluster.name_of(event.served_by)
                history.add(What.STARTED, request.id, node=served_by)
            elif isinstance(event, Delta):
                tokens += self._got(request, event)
            else:
                self._end(request, event, slow=gap_s > 0)
                return
            for manner in manners:
                most = manner.hang_up_after_tokens
                if most is not None and tokens >= most:
                    manner.on_effect()
                    history.add(What.CANCELLED, request.id, by=manner.fault_id)
                    return
                if manner.gap_s is not None and isinstance(event, Delta):
                    manner.on_effect()
            if gap_s and isinstance(event, Delta):
                await trio.sleep(gap_s * len(event.token_ids or (0,)))
        self._lost(request, "the ingress went away")

    def _got(self, request: PlannedRequest, delta: Delta) -> int:
        """Writes a piece of an answer; how many tokens it is, or at least one where it is blind."""
        ids, add = list(delta.token_ids or ()), self.cluster.history.add
        if not self.cluster.schedule.cluster.remote:
            add(What.TOKENS, request.id, ids=ids)
            return len(ids)
        blind = {} if delta.token_ids is not None else {"blind": True}
        text = delta.text if delta.chunk is None else text_of_chunk(delta.chunk)
        piece = piece_of(delta.token_ids, delta.text, delta.chunk)
        add(What.TOKENS, request.id, ids=ids, text=text, piece=piece, **blind)
        return len(ids) or bool(blind)

    def _end(
        self, request: PlannedRequest, event: Finished | RequestError | Broke, *, slow: bool
    ) -> None:
        add = self.cluster.history.add
        if isinstance(event, Broke):
            self.cluster.broken.append(f"{request.ingress}: {request.id}: {event.error}")
            add(What.FAIL, request.id, code="broke", message=event.error, expected=False)
        elif isinstance(event, RequestError):
            host, token = self.cluster.host(request.ingress), self.tokens.get(request.id)
            if token is not None and event.code == UNAUTHORIZED:
                token.on_refused()
            outside = request.tenant not in host.tenants or request.tenant in host.left
            expected = (
                event.code in AT_FAULT
                or (token is not None and event.code == UNAUTHORIZED)
                or (outside and event.code == "not_a_member")
                or (slow and event.code == "deadline_exceeded")
            )
            message = event.message[:200]
            add(What.FAIL, request.id, code=event.code, message=message, expected=expected)
        else:
            add(
                What.OK,
                request.id,
                reason=event.reason.value,
                node=self.cluster.name_of(event.served_by),
                prompt_tokens=event.usage.prompt_tokens,
                cached_tokens=event.usage.cached_tokens,
                completion_tokens=event.usage.completion_tokens,
                hops=event.hops,
                resumes=event.resumes,
                attempts=self._attempts(request),
            )

    def _attempts(self, request: PlannedRequest) -> int:
        """Attempts of a request by its ingress's own log; 0 where it has none of it."""
        product_id, boot = self._product_ids[request.id]
        explained = boot.node.decisions.find(product_id, None)
        if explained is None or explained.outcome is None:
            return 0
        return explained.outcome.attempts

    def _lost(self, request: PlannedRequest, why: str) -> None:
        self._mark("ingress_lost", request)
        self.cluster.history.add(What.INFO, request.id, why=why)

    def _out_of_patience(self, request: PlannedRequest, host: SimHost, waited_s: float) -> None:
        if host.stopped:
            self._mark("ingress_silent", request)
        else:
            why = "open after its deadline"
            self.cluster.history.add(What.STUCK, request.id, why=why, for_s=waited_s)
        self.cluster.history.add(What.INFO, request.id, why=f"no end after {waited_s:g} s")

    def _mark(self, mark: str, request: PlannedRequest) -> None:
        self.cluster.history.add(What.MARK, mark, node=request.ingress, request=request.id)


def _reading_s(request: PlannedRequest, manners: tuple[Manner, ...]) -> float:
    """How long the client itself takes over an answer, at most."""
    return sum((manner.gap_s or 0.0) * (request.max_tokens + 1) for manner in manners)


def _first_cancel(request: PlannedRequest, manners: tuple[Manner, ...]) -> tuple[float, str]:
    """After how many seconds the client cancels, and because of what; never is infinite."""
    found = [(float("inf"), "")]
    if request.cancel_after_s is not None:
        found.append((request.cancel_after_s, "client"))
    found += [
        (manner.cancel_after_s, manner.fault_id)
        for manner in manners
        if manner.cancel_after_s is not None
    ]
    return min(found)
