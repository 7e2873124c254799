"""The serving side of ``/rhizome/forward/1``: another peer asks us to run a request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio
from msgspec import UNSET

from overlay.body import parse_chat, parse_completion
from overlay.errors import PeerGone, ProtocolError, RequestError
from overlay.forward import (
    PROGRESS_EVERY_S,
    START_MS_MAX,
    Accept,
    Answer,
    End,
    Failed,
    ForwardRequest,
    Progress,
    Refuse,
    Tokens,
    decode_request,
    encode,
    pieces_of,
)
from overlay.local_run import LocalRun, run_here
from overlay.logs import about_request
from overlay.ports import Engine
from overlay.served import advertised
from overlay.tenants import TenantBook
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from overlay.work import Broken, Refused, Work, sampling_of
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tenant import TenantId

log = logging.getLogger(__name__)

HOPS_MAX = 1
"""A request crosses at most one hop: who receives a forward never forwards it on."""


@dataclass(slots=True)
class ServeCounters:
    """What became of forwards that reached us."""

    accepted: int = 0
    refused: int = 0
    failed: int = 0


class ForwardHandler:
    """Takes forwards from peers whose roster entry allows them."""

    def __init__(
        self,
        *,
        engine: Engine,
        tenants: TenantBook,
        draining: Callable[[], bool],
        confirmed: Callable[[], bool],
        is_revoked: Callable[[str], bool],
        expected_cached_tokens: Callable[[TenantEpoch, Work], int],
        expected_start_s: Callable[[Work], float],
        serves: Callable[[TenantId], bool],
    ) -> None:
        self._serves = serves
        self._engine = engine
        self._tenants = tenants
        self._draining = draining
        self._confirmed = confirmed
        self._is_revoked = is_revoked
        self._expected_cached_tokens = expected_cached_tokens
        self._expected_start_s = expected_start_s
        self.counters = ServeCounters()

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        """Answers one forward; runs in a scope that the far side's reset cancels."""
        forwarder = connection.remote.peer_id
        if forwarder is None:
            raise ProtocolError("a client may not forward")
        if connection.closed is not None:
            raise PeerGone(connection.closed)  # dropped while this waited: admitted no more
        request = decode_request(stream.body)
        with about_request(request.request_id):
            tenant = self._tenants.get(TenantId(request.tenant))
            code = self._refusal(tenant, forwarder, request)
            if code is None and tenant is not None:
                await self._answer(stream, tenant, forwarder, request)
            else:
                self.counters.refused += 1
                await send_last(stream, Refuse(code=code or "not_a_member"))

    def _refusal(
        self, tenant: TenantEpoch | None, forwarder: PeerId, request: ForwardRequest
    ) -> str | None:
        """The forwarder's roster entry comes first: before any lookup for the tenant."""
        if tenant is None or not self._tenants.is_member(tenant.tenant_id, forwarder):
            return "not_a_member"
        if not self._confirmed():
            return "unconfirmed"
        if self._is_revoked(request.token_id):
            return "token_revoked"
        if request.hops > HOPS_MAX:
            return "too_many_hops"
        if self._draining():
            return "draining"
        if request.deadline_ms == 0:
            return "deadline"
        if self._engine.stalled():
            return "stalled"
        if not self._serves(tenant.tenant_id):
            return "not_isolated"
        return None if self._is_expected(request) else "other_variant"

    def _is_expected(self, request: ForwardRequest) -> bool:
        """Whether the model is still the one that our record told when the forwarder chose us."""
        models = self._engine.capabilities().models
        ours = next((model for model in models if model.name == request.model), None)
        return ours is None or not request.variant or advertised(ours).variant == request.variant

    async def _answer(
        self, stream: Stream, tenant: TenantEpoch, forwarder: PeerId, request: ForwardRequest
    ) -> None:
        try:
            work = work_of(tenant, request)
            start_ms = int(1000 * self._expected_start_s(work))  # before it is in the queue itself
            with trio.move_on_after(request.deadline_ms / 1000) as scope:
                async with run_here(self._engine, tenant, work, self._engine.stalled) as run:
                    self.counters.accepted += 1
                    accept = Accept(
                        cached_tokens=self._expected_cached_tokens(tenant, work),
                        expected_start_ms=min(START_MS_MAX, start_ms),
                    )
                    await stream.send(encode(accept))
                    is_member = partial(self._tenants.is_member, tenant.tenant_id, forwarder)
                    await self._pump(run, stream, is_member)
            if scope.cancelled_caught:
                await self._fail(stream, "deadline_exceeded", "out of time", 504, retryable=False)
        except Refused as error:
            self.counters.refused += 1
            await send_last(stream, Refuse(code=error.code))
        except Broken as error:
            log.warning("a forwarded request broke off: %s", error.code)
            await self._fail(stream, error.code, "the engine failed", 502, retryable=True)
        except RequestError as error:
            await self._fail(
                stream, error.code, error.message, error.status, retryable=False, param=error.param
            )

    async def _pump(self, run: LocalRun, stream: Stream, is_member: Callable[[], bool]) -> None:
        """Sends the answer as it comes, and a sign of life where nothing comes from a live engine.

        Nothing more goes to a host that has left the tenant's roster meanwhile.

        One that hangs is given up by the run itself (``overlay/local_run.py``): the host knows what
        its engine may take for a step, as no other peer can. The ingress has only its own patience
        against a host that does not tell (``overlay/remote_run.py``).
        """
        while True:
            try:
                piece = await run.next(PROGRESS_EVERY_S)
            except trio.TooSlowError:
                piece = None
            if not is_member():
                raise Broken("not_a_member")
            match piece:
                case None:
                    await stream.send(encode(Progress()))
                case Tokens():
                    for each in pieces_of(piece):
                        await stream.send(encode(each))
                case End():
                    await send_last(stream, piece)
                    return

    async def _fail(
        self,
        stream: Stream,
        code: str,
        message: str,
        status: int,
        *,
        retryable: bool,
        param: str | None = None,
    ) -> None:
        self.counters.failed += 1
        failed = Failed(
            code=code,
            message=message[:256],
            status=status,
            retryable=retryable,
            param=UNSET if param is None else param[:256],
        )
        await send_last(stream, failed)


def work_of(tenant: TenantEpoch, request: ForwardRequest) -> Work:
    """The work that a forward asks for; the body is parsed again here, never trusted.

    Raises:
        Refused: When this version cannot honour the whole body; the ingress has, or another may.
    """
    parse = parse_chat if request.chat else parse_completion
    try:
        call = parse(request.body)
    except RequestError as error:
        raise Refused("cannot_read") from error
    return Work(
        request_id=request.request_id,
        tenant=tenant.tenant_id,
        model=request.model,
        prompt=call.prompt,
        token_ids=None if request.token_ids is None else tuple(request.token_ids),
        sampling=sampling_of(call, request.seed),
        emitted=tuple(request.emitted),
        body=request.body,
        chat=request.chat,
        beyond=bool(call.beyond),
    )


async def send_last(stream: Stream, answer: Answer) -> None:
    """Sends the message after which nothing follows."""
    await stream.send(encode(answer))
    await stream.finish()
