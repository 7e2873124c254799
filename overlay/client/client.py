"""``PeerClient``: requests from Python, over the overlay port or the Unix socket of this host.

async with PeerClient.connect(home="~/.local/share/rhizome") as client:
    async for event in client.chat([{"role": "user", "content": "Hello"}]):
        if isinstance(event, Delta):
            print(event.text, end="")
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import trio

from inference.request import FinishReason
from overlay.address import Address
from overlay.client.messages import (
    DEADLINE_MS_MAX,
    PROTOCOL,
    VERSION,
    Ask,
    Began,
    Done,
    Piece,
    Refusal,
    decode_reply,
    encode,
)
from overlay.errors import ConfigError, Deadline, PeerGone, ProtocolError, RequestError
from overlay.home import Home, home_path
from overlay.request import AnswerEvent, Delta, Finished, RequestId, Started, Usage
from overlay.transport.connection import Connection
from overlay.transport.dial import dial_peer, dial_socket
from overlay.transport.stream import Stream
from security.peer_id import PeerId

REQUEST_TIMEOUT_S = 600.0

ClientMessage = Mapping[str, Any]
"""A chat message in OpenAI's form; Any because the server judges its content."""


Redial = Callable[[], Awaitable[Connection]]


class Line:
    """The way to one peer: a connection, and another one after that has ended."""

    def __init__(self, connection: Connection, redial: Redial | None) -> None:
        self.connection = connection
        self._redial = redial
        self._dialling = trio.Lock()

    async def renewed(self, ended: Connection, why: PeerGone) -> Connection:
        """A connection in the stead of one that takes no requests any more.

        Raises:
            PeerGone: ``why``, where there is no way to dial.
            HomeError, OSError, OverlayError, SecurityError: When the peer is not to be had again.
        """
        if self._redial is None:
            raise why
        # One dial for all requests that find the connection ended.
        async with self._dialling:
            if self.connection is ended:
                self.connection = await self._redial()
            return self.connection


class Answer:
    """One answer under way: iterate it for events; leaving it early cancels the request.

    ``request_id`` is known after the first event. Iterating raises ``RequestError`` when the
    request fails, ``PeerGone`` when the connection is lost, and ``Deadline`` when time is up.
    A request that finds the connection ended before it begins, as after a restart of the peer,
    dials once more; one that was under way does not, as its tokens may have been sampled.
    """

    def __init__(self, line: Line, ask: Ask) -> None:
        self._line = line
        self._ask = ask
        self._stack = AsyncExitStack()
        self._stream: Stream | None = None
        self._deadline_s: float | None = None
        self._over = self._finished = False
        self.request_id: RequestId | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnswerEvent:
        if self._over:
            raise StopAsyncIteration
        try:
            data = await self._receive()
            if data is not None:
                return self._event(data)
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        if not self._finished:
            raise ProtocolError("the answer broke off without its last message")
        raise StopAsyncIteration

    async def _receive(self) -> bytes | None:
        timeout_s = self._ask.deadline_ms / 1000
        if self._deadline_s is None:
            self._deadline_s = trio.current_time() + timeout_s
        with trio.move_on_at(self._deadline_s):
            if self._stream is None:
                connection = self._line.connection
                try:
                    self._stream = await self._open(connection)
                except PeerGone as error:
                    self._stream = await self._open(await self._line.renewed(connection, error))
            return await self._stream.receive()
        raise Deadline(f"no whole answer within {timeout_s:g} s")

    async def _open(self, connection: Connection) -> Stream:
        """Raises PeerGone when the connection has ended; nothing has been sent then."""
        timeout_s = self._ask.deadline_ms / 1000
        opening = connection.open(PROTOCOL, encode(self._ask), deadline_s=timeout_s)
        return await self._stack.enter_async_context(opening)

    def _event(self, data: bytes) -> AnswerEvent:
        match decode_reply(data):
            case Began() as began:
                self.request_id = RequestId(began.request_id)
                return Started(model=began.model, served_by=PeerId(began.served_by))
            case Piece() as piece:
                ids = None if piece.token_ids is None else tuple(piece.token_ids)
                return Delta(text=piece.text, token_ids=ids, chunk=piece.chunk)
            case Done() as done:
                self._finished = True
                return finished_of(done)
            case Refusal() as refusal:
                self.request_id = RequestId(refusal.request_id)
                raise RequestError(
                    refusal.message,
                    code=refusal.code,
                    status=refusal.status,
                    param=refusal.param,
                    retry_after_s=refusal.retry_after_s,
                )

    async def text(self) -> str:
        """The whole text of the answer."""
        return "".join([event.text async for event in self if isinstance(event, Delta)])

    async def aclose(self) -> None:
        """Ends the request if it still runs."""
        self._over = True
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def finished_of(done: Done) -> Finished:
    """The event that a ``Done`` message stands for."""
    try:
        reason = FinishReason(done.finish_reason)
    except ValueError:
        raise ProtocolError("malformed client message: an unknown finish reason") from None
    return Finished(
        reason=reason,
        usage=Usage(
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            cached_tokens=done.cached_tokens,
        ),
        served_by=PeerId(done.served_by),
        hops=done.hops,
        resumes=done.resumes,
    )


class PeerClient:
    """A connection to one peer, for any number of requests at a time; dialled again when lost."""

    def __init__(
        self, connection: Connection, credential: str, redial: Redial | None = None
    ) -> None:
        self._line = Line(connection, redial)
        self._credential = credential

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        address: str | Address | None = None,
        *,
        home: str | Path | None = None,
        tenant: str = "",
        token: str = "",
        ca: str | Path | None = None,
    ) -> AsyncIterator[PeerClient]:
        """Connects to a peer, and disconnects on leaving the block.

        Args:
            address: ``host:port`` of a peer's overlay port; needs ``token`` and ``ca``.
            home: State folder of the peer that runs on this host; None for the default one.
            tenant: With ``home``: the tenant to ask as; empty where there is only one.
            token: A bearer token from ``rhizome token create``.
            ca: The overlay's root certificate, ``root.der`` of any home folder.

        Raises:
            ConfigError: When the arguments do not fit together.
            HomeError: When no peer runs on this host.
            OSError: When the address cannot be reached.
            OverlayError: When the peer does not take the connection; PeerGone where it ends.
            security.errors.SecurityError: When the peer there is not of this overlay.
        """
        if address is None:
            if token or ca is not None:
                raise ConfigError("token= and ca= go with an address")
            path = home_path(None if home is None else str(home), os.environ)
            dial: Redial = partial(dial_socket, Home(path))
        else:
            if home is not None or tenant:
                raise ConfigError("an address goes with token= and ca=, not with home= or tenant=")
            dial = partial(dial_peer, address, ca=ca)
        connection = await dial()
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def redial() -> Connection:
                another = await dial()
                await nursery.start(another.run, {})
                return another

            client = cls(connection, tenant if address is None else token, redial)
            await nursery.start(connection.run, {})
            try:
                yield client
            except Exception as error:  # noqa: BLE001 - leaves the block as it is, in no group
                failure = error
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await client._line.connection.aclose(0, "client is done")
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def chat(
        self,
        messages: Sequence[ClientMessage],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        chunks: bool = False,
        **fields: Any,
    ) -> Answer:
        """A chat completion; ``fields`` are those of OpenAI's body (``model``, ``tools``…).

        With ``chunks`` each ``Delta.chunk`` is the engine's own JSON, where it has any: calls of
        tools stand there.
        """
        body = {"messages": list(messages), **fields}
        return self._ask(chat=True, body=body, timeout_s=timeout_s, chunks=chunks)

    def complete(
        self,
        prompt: str,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        chunks: bool = False,
        **fields: Any,
    ) -> Answer:
        """A plain completion of ``prompt``; the rest as of :meth:`chat`."""
        body = {"prompt": prompt, **fields}
        return self._ask(chat=False, body=body, timeout_s=timeout_s, chunks=chunks)

    def _ask(
        self, *, chat: bool, body: Mapping[str, Any], timeout_s: float, chunks: bool
    ) -> Answer:
        ask = Ask(
            v=VERSION,
            credential=self._credential,
            chat=chat,
            body=json.dumps({"stream": True, **body}).encode(),
            deadline_ms=max(1, min(DEADLINE_MS_MAX, int(timeout_s * 1000))),
            chunks=chunks,
        )
        return Answer(self._line, ask)
