"""One HTTP/1.1 connection: h11 between a trio stream and an ASGI application.

Requests are answered one after the other. While the application runs, the connection is read on,
so that a client that leaves is noticed and what runs for it is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
import trio

from overlay.http.limits import HttpLimits

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 16
SERVER = (b"server", b"rhizome")

Message = MutableMapping[str, Any]
"""ASGI messages are mappings of many types."""

App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


class ClientLeft(Exception):
    """The client has closed its side, or does not take what is sent."""


class HttpConnection:
    """Serves one client until it leaves, errs, or is idle for too long."""

    def __init__(
        self,
        app: App,
        stream: trio.abc.Stream,
        limits: HttpLimits,
        *,
        client: tuple[str, int],
        scheme: str,
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._stream = stream
        self._limits = limits
        self._client = client
        self._scheme = scheme
        self._draining = draining
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)

    async def run(self) -> None:
        """Answers requests until the connection ends."""
        first = True
        try:
            while True:
                wait_s = self._limits.header_s if first else self._limits.idle_s
                request = await self._next_request(wait_s)
                if request is None:
                    return
                await self._answer(request)
                if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                    return
                self._h11.start_next_cycle()
                first = False
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, "malformed HTTP request")
        except (ClientLeft, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _next_request(self, wait_s: float) -> h11.Request | None:
        """The next request's head; None when the client is done or too slow."""
        with trio.move_on_after(wait_s) as scope:
            while True:
                event = await self._next_event()
                if isinstance(event, h11.Request):
                    return event
                if isinstance(event, h11.ConnectionClosed):
                    return None
                scope.deadline = min(scope.deadline, trio.current_time() + self._limits.header_s)
        if self._h11.trailing_data[0]:
            await self._refuse(408, "the request's head did not come in time")
        return None

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # h11 has no name for what is left
            if self._h11.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._h11.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))

    async def _answer(self, request: h11.Request) -> None:
        body = await self._read_body(request)
        if body is None:
            return
        cycle = _Cycle(self, body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, cycle, nursery.cancel_scope)
            try:
                await self._app(self._scope_of(request), cycle.receive, cycle.send)
            except Exception:
                log.exception("the HTTP application failed")
                if not cycle.started:
                    await self._refuse(500, "internal error")
            cycle.over = True
            nursery.cancel_scope.cancel()
        if cycle.left:
            raise ClientLeft
        if cycle.started and not cycle.complete:
            await trio.aclose_forcefully(self._stream)

    async def _read_body(self, request: h11.Request) -> bytes | None:
        """The whole body; None when it was refused."""
        for name, value in request.headers:
            too_large = name == b"content-length" and int(value) > self._limits.body_bytes
            if too_large:
                await self._refuse(413, "the body is too large")
                return None
        parts: list[bytes] = []
        size = 0
        with trio.move_on_after(self._limits.body_s):
            while True:
                event = await self._next_event()
                if isinstance(event, h11.EndOfMessage):
                    return b"".join(parts)
                if isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                    size += len(event.data)
                if size > self._limits.body_bytes:
                    await self._refuse(413, "the body is too large")
                    return None
                if isinstance(event, h11.ConnectionClosed):
                    return None
        await self._refuse(408, "the body did not come in time")
        return None

    async def _watch(self, cycle: _Cycle, scope: trio.CancelScope) -> None:
        """Reads on while the application runs; a client that leaves ends it."""
        pending = 0
        while pending <= self._limits.header_bytes:
            try:
                data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                if not cycle.over:
                    cycle.left = True
                    cycle.changed.set()
                    scope.cancel()
                return
            pending += len(data)
            self._h11.receive_data(data)

    def _scope_of(self, request: h11.Request) -> Message:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": self._scheme,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name, value) for name, value in request.headers],
            "client": self._client,
            "server": None,
        }

    # -- sending

    async def respond(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of the answer."""
        closing = [(b"connection", b"close")] if self._draining() else []
        await self._send(h11.Response(status_code=status, headers=[*headers, SERVER, *closing]))

    async def data(self, body: bytes, *, more: bool) -> None:
        """A part of the answer's body."""
        if body:
            await self._send(h11.Data(data=body))
        if not more:
            await self._send(h11.EndOfMessage())

    async def _send(
        self, event: h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
    ) -> None:
        data = self._h11.send(event)
        if not data:
            return
        with trio.move_on_after(self._limits.write_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise ClientLeft

    async def _refuse(self, status: int, message: str) -> None:
        """An answer to what cannot be served; the connection ends with it."""
        if self._h11.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = (
            b'{"error": {"message": "%s", "type": "invalid_request_error", '
            b'"param": null, "code": "http_%d"}}'
        ) % (message.encode(), status)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            SERVER,
        ]
        try:
            await self._send(h11.Response(status_code=status, headers=headers))
            await self.data(body, more=False)
        except (ClientLeft, trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a client left before its refusal was sent")


class _Cycle:
    """One request and its answer, as ASGI sees them."""

    def __init__(self, connection: HttpConnection, body: bytes) -> None:
        self._connection = connection
        self._body: bytes | None = body
        self.changed = trio.Event()
        self.started = False
        self.complete = False
        self.left = False
        self.over = False

    async def receive(self) -> Message:
        """The body, and then, when it happens, that the client has left."""
        await trio.lowlevel.checkpoint()
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.changed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Sends what the application answers."""
        if message["type"] == "http.response.start":
            self.started = True
            await self._connection.respond(message["status"], list(message["headers"]))
        elif message["type"] == "http.response.body":
            more = bool(message.get("more_body", False))
            await self._connection.data(bytes(message.get("body", b"")), more=more)
            self.complete = not more
