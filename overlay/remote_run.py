"""Runs a request on another peer: one forward, from its opening message to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from overlay.errors import LocalFault, PeerGone, ProtocolError, RequestError, StreamReset
from overlay.forward import (
    PROTOCOL,
    REFUSALS,
    VERSION,
    Accept,
    Answer,
    End,
    Failed,
    ForwardRequest,
    Progress,
    Refuse,
    Tokens,
    decode_answer,
    encode,
)
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from overlay.work import ANSWER_ERRORS, Broken, Refused, Silent, Work, request_error

CLIENT_ERRORS = {"bad_request": "invalid_request"}
"""Refusals that are the request's own fault: no other peer would take it either."""


class RemoteRun:
    """An answer under way at another peer, accepted with ``accept``."""

    def __init__(self, stream: Stream, accept: Accept, *, silence_s: float) -> None:
        self._stream = stream
        self.accept = accept
        self._silence_s = silence_s

    @property
    def expected_start_s(self) -> float:
        """Seconds after its arrival there at which the peer expects to start on it."""
        return self.accept.expected_start_ms / 1000

    async def next(self) -> Tokens | End:
        """The next piece of the answer, or its end.

        Raises:
            Silent: When the peer says nothing for ``silence_s``.
            Broken: When the peer fails or breaks the protocol.
            RequestError: When the peer found the request itself wrong.
        """
        while True:
            with trio.move_on_after(self._silence_s) as scope:
                answer = await receive(self._stream)
            if scope.cancelled_caught:
                raise Silent("silent")
            match answer:
                case Tokens() | End():
                    return answer
                case Progress():
                    continue
                case Failed():
                    raise failure(answer)
                case Accept() | Refuse():
                    raise Broken("protocol_error")


def failure(answer: Failed) -> Exception:
    """What a peer's ``Failed`` means here. Its words reach the client only for client errors."""
    if answer.retryable or answer.code not in ANSWER_ERRORS or answer.status >= 500:
        return Broken(answer.code if answer.code in ANSWER_ERRORS else "engine_failed")
    return request_error(answer.code, answer.message)


async def receive(stream: Stream) -> Answer:
    """One answer message. Raises Broken, never the transport's own errors."""
    try:
        data = await stream.receive()
        if data is None:
            raise Broken("ended_early")
        return decode_answer(data)
    except PeerGone as error:
        raise Broken("peer_gone", dead=True) from error
    except StreamReset as error:
        raise Broken("stream_reset") from error
    except ProtocolError as error:
        raise Broken("protocol_error") from error


@asynccontextmanager
async def run_there(
    connection: Connection,
    work: Work,
    *,
    token_id: str,
    chat: bool,
    attempt: int,
    deadline_s: float,
    budget_s: float,
    silence_s: float,
) -> AsyncIterator[RemoteRun]:
    """Forwards ``work``; leaving early cancels it there.

    Args:
        connection: To the peer that shall run it.
        work: What to run.
        token_id: Id of the client's credential, for the far side's audit.
        chat: Whether ``work.body`` is a chat completion.
        attempt: 0 for the first try of this request.
        deadline_s: Seconds left of the request's time.
        budget_s: Seconds within which the peer must accept or refuse.
        silence_s: Seconds of silence after which it counts as fallen silent.

    Raises:
        Refused: The peer will not; Silent: it did not answer within the budget; Broken: it failed.
        RequestError: When the peer found the request itself wrong.
    """
    opening = opening_of(work, token_id=token_id, chat=chat, attempt=attempt, deadline_s=deadline_s)
    try:
        async with AsyncExitStack() as stack:
            stream = None
            with trio.move_on_after(budget_s) as scope:
                # In the budget too: it waits while the peer takes no more streams.
                stream = await stack.enter_async_context(
                    connection.open(PROTOCOL, opening, deadline_s=deadline_s)
                )
                answer = await receive(stream)
            if stream is None:
                raise Refused("no_free_stream")
            if scope.cancelled_caught:
                raise Silent("budget")
            match answer:
                case Accept():
                    yield RemoteRun(stream, answer, silence_s=silence_s)
                case Refuse():
                    raise refusal(answer)
                case Failed():
                    raise failure(answer)
                case _:
                    raise Broken("protocol_error")
    except PeerGone as error:
        raise Broken("peer_gone", dead=True) from error
    except StreamReset as error:
        raise Broken("stream_reset") from error
    except RequestError:
        raise
    except LocalFault as error:
        # Too large for one message, or a connection that is only just coming up.
        raise Refused("cannot_send") from error


def opening_of(work: Work, *, token_id: str, chat: bool, attempt: int, deadline_s: float) -> bytes:
    """The opening message that asks a peer to run ``work``; arguments as in ``run_there``."""
    return encode(
        ForwardRequest(
            v=VERSION,
            request_id=work.request_id,
            attempt=attempt,
            tenant=work.tenant,
            token_id=token_id,
            chat=chat,
            model=work.model,
            body=work.body,
            token_ids=None if work.token_ids is None else list(work.token_ids),
            emitted=list(work.emitted),
            seed=work.sampling.seed,
            deadline_ms=max(0, int(deadline_s * 1000)),
            hops=1,
        )
    )


def refusal(answer: Refuse) -> Refused | RequestError:
    """A refusal, or the client's own error where no other peer would take the request either."""
    if answer.code in CLIENT_ERRORS:
        return request_error(CLIENT_ERRORS[answer.code], "the serving peer cannot read this body")
    return Refused(answer.code if answer.code in REFUSALS else "refused")
