"""The serving side of ``/rhizome/client/1``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overlay.body import parse_chat, parse_completion
from overlay.client.messages import Ask, Began, Done, Piece, Refusal, Reply, decode_ask, encode
from overlay.errors import RequestError, draining
from overlay.forward import CHUNK_BYTES_MAX, TEXT_CHARS_MAX
from overlay.ports import Clock, Entropy
from overlay.principals import need
from overlay.quotas import Quotas
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Ingress,
    Principal,
    RequestId,
    Scope,
    Started,
    Submission,
    new_request_id,
)
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from overlay.work import request_error


class ClientHandler:
    """Answers asks; ``authenticate`` turns a credential into a principal or raises."""

    def __init__(
        self,
        *,
        ingress: Ingress,
        authenticate: Callable[[str], Principal],
        quotas: Quotas,
        draining: Callable[[], bool],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._ingress = ingress
        self._authenticate = authenticate
        self._quotas = quotas
        self._draining = draining
        self._clock = clock
        self._entropy = entropy

    async def __call__(self, connection: Connection, stream: Stream) -> None:  # noqa: ARG002 - a handler
        """Answers one ask; the client's reset cancels it wherever it runs."""
        ask = decode_ask(stream.body)
        request_id = new_request_id(self._entropy)
        try:
            if self._draining():
                raise draining()
            principal = self._authenticate(ask.credential)
            need(principal, Scope.INFER)
            with self._quotas.admitted(principal):
                await self._answer(stream, request_id, principal, ask)
        except RequestError as error:
            await stream.send(encode(refusal_of(request_id, error)))
        await stream.finish()

    async def _answer(
        self, stream: Stream, request_id: RequestId, principal: Principal, ask: Ask
    ) -> None:
        submission = Submission(
            request_id=request_id,
            principal=principal,
            call=(parse_chat if ask.chat else parse_completion)(ask.body),
            deadline_s=self._clock.now_s() + ask.deadline_ms / 1000,
        )
        async with self._ingress.open(submission) as events:
            async for event in events:
                for reply in replies_of(request_id, event, chunks=ask.chunks):
                    await stream.send(encode(reply))


def replies_of(request_id: str, event: AnswerEvent, *, chunks: bool) -> Iterator[Reply]:
    """The wire form of an answer event; with ``chunks`` the engine's own JSON goes along.

    Raises:
        RequestError: That JSON is too large for a message.
    """
    match event:
        case Started():
            yield Began(request_id=request_id, model=event.model, served_by=event.served_by)
        case Delta():
            yield from pieces_of(event, chunks=chunks)
        case Finished():
            yield Done(
                finish_reason=event.reason.value,
                prompt_tokens=event.usage.prompt_tokens,
                completion_tokens=event.usage.completion_tokens,
                cached_tokens=event.usage.cached_tokens,
                served_by=event.served_by,
                hops=event.hops,
                resumes=event.resumes,
            )


def pieces_of(delta: Delta, *, chunks: bool) -> Iterator[Piece]:
    """A piece of an answer as messages that are not too large; raises as :func:`replies_of`."""
    text, chunk = delta.text, delta.chunk if chunks else None
    if chunk is not None and len(chunk) > CHUNK_BYTES_MAX:
        raise request_error(
            "engine_failed", "the engine's answer is too large for one message: ask for a stream"
        )
    while len(text) > TEXT_CHARS_MAX:
        yield Piece(text=text[:TEXT_CHARS_MAX], token_ids=None)
        text = text[TEXT_CHARS_MAX:]
    ids = None if delta.token_ids is None else list(delta.token_ids)
    yield Piece(text=text, token_ids=ids, chunk=chunk)


def refusal_of(request_id: str, error: RequestError) -> Refusal:
    """The wire form of a failure."""
    return Refusal(
        request_id=request_id,
        code=error.code[:1024],
        message=error.message[:1024],
        status=error.status,
        param=None if error.param is None else error.param[:1024],
        retry_after_s=error.retry_after_s,
    )
