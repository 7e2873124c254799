"""Runs a request on another peer: one forward, from its opening message to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from msgspec import UNSET

from overlay.errors import (
    Deadline,
    LocalFault,
    PeerGone,
    ProtocolError,
    RequestError,
    StreamReset,
)
from overlay.forward import (
    PROTOCOL,
    REFUSALS,
    VERSION,
    Accept,
    Answer,
    End,
    Failed,
    ForwardRequest,
    Joined,
    Progress,
    Refuse,
    Tokens,
    decode_answer,
    encode,
)
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from overlay.work import ANSWER_ERRORS, AttemptEnded, Broken, Denied, Refused, Silent, Work

DENIALS = {"invalid_request", "context_length_exceeded"}
"""Failures by which a peer says that the request itself is wrong."""

PATIENCE_MIN_S = 30.0
"""A request may have to wait for a slot that others hold, of whom this router knows nothing."""

PATIENCE_FACTOR = 4.0

START_BELIEVED_S = 30.0
"""A later start than this is not waited for on the peer's word alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long signs of life alone keep an attempt alive. All in seconds.

    A serving peer gives an answer up by itself when its engine hangs (``overlay/serve.py``); this
    bounds one that does not, or that lies. It has to be generous: what is expected rests on noisy
    rates and on loads that have changed since, and a slow peer that works is worth waiting for.

    Args:
        silence_s: Without any message.
        first_s: Expected time to the first token.
        next_s: Expected time between tokens.
    """

    silence_s: float
    first_s: float = 0.0
    next_s: float = 0.0

    def to_first_s(self, start_s: float) -> float:
        """To the first token of an answer that the peer says to start after ``start_s``."""
        expected_s = PATIENCE_FACTOR * self.first_s + min(start_s, START_BELIEVED_S)
        return max(PATIENCE_MIN_S, expected_s)

    def to_next_s(self) -> float:
        """To any further token."""
        return max(PATIENCE_MIN_S, PATIENCE_FACTOR * self.next_s)


class RemoteRun:
    """An answer under way at another peer, accepted with ``accept``."""

    def __init__(self, stream: Stream, accept: Accept, *, patience: Patience) -> None:
        self._stream = stream
        self.accept = accept
        self._patience = patience
        self._waits_s = patience.to_first_s(self.expected_start_s)
        self._joined = Joined()

    @property
    def expected_start_s(self) -> float:
        """Seconds after its arrival there at which the peer expects to start on it."""
        return self.accept.expected_start_ms / 1000

    async def next(self, left_s: float) -> Tokens | End:
        """The next piece of the answer, or its end.

        Raises:
            trio.TooSlowError: When it does not come within ``left_s``.
            Silent: When the peer says nothing, or nothing but that it lives, for too long.
            Broken: When the peer fails or breaks the protocol.
            Denied: When the peer finds the request itself wrong.
        """
        now_s = trio.current_time()
        ends_s, gives_up_s = now_s + left_s, now_s + self._waits_s
        while True:
            silent_s = now_s + self._patience.silence_s
            try:
                answer = await receive(self._stream, min(silent_s, ends_s))
            except Deadline:
                raise trio.TooSlowError if ends_s < silent_s else Silent("silent") from None
            match answer:
                case Tokens():
                    self._waits_s = self._patience.to_next_s()
                    now_s = trio.current_time()
                    try:
                        whole = self._joined.add(answer)
                    except ProtocolError as error:
                        raise Broken("protocol_error") from error
                    if whole is not None:
                        return whole
                case End():
                    return answer
                case Progress():
                    now_s = trio.current_time()
                    if now_s >= gives_up_s:
                        raise Silent("no_progress")
                case Failed():
                    raise failure(answer)
                case Accept() | Refuse():
                    raise Broken("protocol_error")


def failure(answer: Failed) -> AttemptEnded:
    """What a peer's ``Failed`` means here; its words never reach the client."""
    if answer.code in DENIALS and not answer.retryable:
        return Denied(answer.code, param=answer.param or None)
    return Broken(answer.code if answer.code in ANSWER_ERRORS else "engine_failed")


async def receive(stream: Stream, by_s: float) -> Answer:
    """One answer message. Raises Broken, of the transport's own errors Deadline alone."""
    try:
        data = await stream.receive(by_s=by_s)
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
    variant: str,
    attempt: int,
    deadline_s: float,
    budget_s: float,
    patience: Patience,
) -> AsyncIterator[RemoteRun]:
    """Forwards ``work``; leaving early cancels it there.

    Args:
        connection: To the peer that shall run it.
        work: What to run.
        token_id: Id of the client's credential, for the far side's audit.
        variant: Of the model, as the peer's record tells it; empty for any.
        attempt: 0 for the first try of this request.
        deadline_s: Seconds left of the request's time.
        budget_s: Seconds within which the peer must accept or refuse.
        patience: How long it may take.

    Raises:
        Refused: The peer will not; Silent: it did not answer within the budget; Broken: it failed.
        Denied: The peer finds the request itself wrong.
    """
    opening = opening_of(
        work, token_id=token_id, variant=variant, attempt=attempt, deadline_s=deadline_s
    )
    answer_by_s = trio.current_time() + budget_s
    try:
        async with connection.open(
            PROTOCOL, opening, deadline_s=deadline_s, wait_s=budget_s
        ) as stream:
            try:
                answer = await receive(stream, answer_by_s)
            except Deadline:
                raise Silent("budget") from None
            match answer:
                case Accept():
                    yield RemoteRun(stream, answer, patience=patience)
                case Refuse():
                    raise refusal(answer)
                case Failed():
                    raise failure(answer)
                case _:
                    raise Broken("protocol_error")
    except Deadline as error:
        raise Refused("no_free_stream") from error
    except PeerGone as error:
        raise Broken("peer_gone", dead=True) from error
    except StreamReset as error:
        raise Broken("stream_reset") from error
    except RequestError:
        raise
    except LocalFault as error:
        # Too large for one message, or a connection that is only just coming up.
        raise Refused("cannot_send") from error


def opening_of(
    work: Work, *, token_id: str, variant: str, attempt: int, deadline_s: float
) -> bytes:
    """The opening message that asks a peer to run ``work``; arguments as in ``run_there``."""
    return encode(
        ForwardRequest(
            v=VERSION,
            request_id=work.request_id,
            attempt=attempt,
            tenant=work.tenant,
            token_id=token_id,
            chat=work.chat,
            model=work.model,
            body=work.body,
            token_ids=None if work.token_ids is None else list(work.token_ids),
            emitted=list(work.emitted),
            seed=work.sampling.seed,
            deadline_ms=max(0, int(deadline_s * 1000)),
            hops=1,
            variant=variant or UNSET,
        )
    )


def refusal(answer: Refuse) -> Refused:
    """A refusal; codes that this version does not know count as one."""
    return Refused(answer.code if answer.code in REFUSALS else "refused")
