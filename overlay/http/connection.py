"""One HTTP/1.1 connection: h11 between a trio stream and an ASGI application.

Requests are answered one after the other. While the application runs, the connection is read on,
so that a client that leaves is noticed and what runs for it is cancelled. A client that shuts down
only its sending side counts as gone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import h11
import trio

from overlay.http.framing import check_head, check_lines
from overlay.http.limits import HttpLimits
from overlay.http.refusal import PROMPT_FIELDS, REQUEST_ID, Refused, Stamp, malformed
from overlay.logs import about_request

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 16
SERVER = (b"server", b"rhizome")
ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
"""What a target has before its path when it is written as for a proxy (RFC 9112, 3.2.2)."""

Message = MutableMapping[str, Any]
"""ASGI messages are mappings of many types."""

App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

Sent = h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage


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
        stamp: Stamp,
        client: tuple[str, int],
        scheme: str,
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._stream = stream
        self._limits = limits
        self._stamp = stamp
        self._client = client
        self._scheme = scheme
        self._draining = draining
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._asked_head = False

    async def run(self) -> None:
        """Answers requests until the connection ends; the caller closes the stream."""
        wait_s = self._limits.header_s
        try:
            while (request := await self._next_request(wait_s)) is not None:
                await self._answer(request, await self._read_body(request))
                if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                    return
                self._h11.start_next_cycle()
                wait_s = self._limits.idle_s
        except h11.RemoteProtocolError as error:
            await self._refuse(malformed(error.error_status_hint))
        except Refused as refused:
            await self._refuse(refused)
        except ClientLeft:
            return

    # -- receiving

    async def _next_request(self, wait_s: float) -> h11.Request | None:
        """The next request's head; None when the client is done or silent."""
        self._asked_head = False
        begun = bool(self._h11.trailing_data[0])
        with trio.move_on_after(self._limits.header_s if begun else wait_s) as scope:
            while (event := self._next_event()) is h11.NEED_DATA:
                await self._receive()
                if not begun:
                    begun = True
                    scope.deadline = trio.current_time() + self._limits.header_s
            if not isinstance(event, h11.Request):
                return None
            self._check_head(event)
            return event
        if begun:
            raise Refused(408, "request_timeout", "the request's head did not come in time")
        return None

    def _next_event(self) -> object:
        """h11's next event, where the bytes that it was made of can be read in one way only.

        It takes a head, and the end of a chunked body with its trailers, in one piece each.
        """
        before = self._h11.trailing_data[0]
        event = self._h11.next_event()
        taken = before[: len(before) - len(self._h11.trailing_data[0])]
        if isinstance(event, h11.Request):
            self._asked_head = event.method == b"HEAD"
            check_head(taken, event.http_version)
        elif isinstance(event, h11.EndOfMessage):
            check_lines(taken)
        return event

    def _check_head(self, request: h11.Request) -> None:
        if not request.http_version.startswith(b"1."):
            raise Refused(505, "http_version_not_supported", "only HTTP/1.1 and 1.0 are spoken")
        if request.method == b"CONNECT":
            raise Refused(405, "method_not_allowed", "this is no proxy")
        size = len(request.target) + sum(len(n) + len(v) for n, v in request.headers)
        if size > self._limits.header_bytes:
            raise malformed(431)

    async def _read_body(self, request: h11.Request) -> bytes:
        """The whole body."""
        target = request.target
        for name, value in request.headers:
            if name == b"content-length":
                self._check_size(int(value), target)
        body = bytearray()
        with trio.move_on_after(self._limits.body_s):
            while not isinstance(event := self._next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    body += event.data
                    self._check_size(len(body), target)
                else:
                    await self._receive()
            return bytes(body)
        raise Refused(408, "request_timeout", "the body did not come in time")

    def _check_size(self, size_bytes: int, target: bytes) -> None:
        if size_bytes > self._limits.body_bytes:
            param = PROMPT_FIELDS.get(_path_of(target).decode("ascii"))
            words = f"the body is larger than {self._limits.body_bytes} bytes"
            raise Refused(413, "body_too_large", words, param=param)

    async def _receive(self) -> None:
        """Reads what comes next; the end of it is h11's to judge."""
        if self._h11.they_are_waiting_for_100_continue:
            await self.write(h11.InformationalResponse(status_code=100, headers=[]))
        self._h11.receive_data(await self._read())

    async def _read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientLeft from None

    # -- answering

    async def _answer(self, request: h11.Request, body: bytes) -> None:
        cycle = _Cycle(self, body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, cycle, nursery.cancel_scope)
            try:
                await self._app(self._scope_of(request), cycle.receive, cycle.send)
            except ClientLeft:
                cycle.left = True
            except Exception:
                log.exception("the HTTP application failed")
            nursery.cancel_scope.cancel()
        if cycle.left:
            raise ClientLeft
        if not cycle.begun:
            raise Refused(500, "internal_error", "internal error")
        if not cycle.complete:
            # Forcefully: an orderly end could be taken for the answer's.
            await trio.aclose_forcefully(self._stream)

    async def _watch(self, cycle: _Cycle, scope: trio.CancelScope) -> None:
        """Reads on while the application runs; a client that leaves ends it."""
        pending = 0
        while pending <= self._limits.header_bytes:
            try:
                data = await self._read()
            except ClientLeft:
                data = b""
            if not data:
                cycle.left = True
                cycle.ended.set()
                if not cycle.complete:
                    scope.cancel()
                return
            pending += len(data)
            self._h11.receive_data(data)

    def _scope_of(self, request: h11.Request) -> Message:
        path = _path_of(request.target)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": self._scheme,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": request.target.partition(b"?")[2],
            "root_path": "",
            "headers": _headers_of(request),
            "client": self._client,
            "server": None,
        }

    # -- sending

    def head(self, status: int, headers: list[tuple[bytes, bytes]]) -> h11.Response:
        """The head of an answer. Raises h11.LocalProtocolError for one that cannot be sent."""
        closing = [(b"connection", b"close")] if self._draining() else []
        date = (b"date", self._stamp.date())
        return h11.Response(status_code=status, headers=[*headers, date, SERVER, *closing])

    async def write(self, *events: Sent) -> None:
        """Sends these at once. Raises ClientLeft when they are not taken."""
        data = b"".join(self._encode(event) for event in events)
        if not data:
            return
        with trio.move_on_after(self._limits.write_s):
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ClientLeft from None
            return
        raise ClientLeft

    def _encode(self, event: Sent) -> bytes:
        if isinstance(event, h11.Data) and self._asked_head:
            return b""
        return self._h11.send(event)

    async def _refuse(self, refused: Refused) -> None:
        """An answer to what cannot be served; the connection ends with it."""
        if self._h11.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        request_id = self._stamp.request_id()
        with about_request(request_id):
            log.info("refused an HTTP request: %d %s", refused.status, refused.code)
        body = refused.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (REQUEST_ID.encode(), request_id.encode()),
            (b"date", self._stamp.date()),
            SERVER,
        ]
        with suppress(ClientLeft):
            await self.write(
                h11.Response(status_code=refused.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            await self._linger()

    async def _linger(self) -> None:
        """Takes what a refused client still sends, until it has read why.

        Closing a socket that holds unread data resets the connection, and the reset destroys the
        refusal on its way (RFC 9112, 9.6).
        """
        left = self._limits.linger_bytes
        with trio.move_on_after(self._limits.linger_s):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._send_eof(self._stream)
            while left > 0 and (data := await self._read()):
                left -= len(data)

    async def _send_eof(self, stream: trio.abc.HalfCloseableStream) -> None:
        try:
            await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientLeft from None


def _path_of(target: bytes) -> bytes:
    """The path of a request's target, in whatever form that is written."""
    if absolute := ABSOLUTE_FORM.match(target):
        target = target[absolute.end() :]
        target = target if target.startswith(b"/") else b"/" + target
    return target.partition(b"?")[0]


def _headers_of(request: h11.Request) -> list[tuple[bytes, bytes]]:
    """The headers; a host in the target counts, whatever the Host header says (RFC 9112, 3.2.2)."""
    absolute = ABSOLUTE_FORM.match(request.target)
    if absolute is None:
        return list(request.headers)
    rest = [(name, value) for name, value in request.headers if name != b"host"]
    return [(b"host", absolute[1]), *rest]


class _Cycle:
    """One request and its answer, as ASGI sees them."""

    def __init__(self, connection: HttpConnection, body: bytes) -> None:
        self._connection = connection
        self._body: bytes | None = body
        self._head: h11.Response | None = None
        self.ended = trio.Event()
        self.begun = False
        self.complete = False
        self.left = False

    async def receive(self) -> Message:
        """The body, and then, when it happens, that the exchange is over."""
        await trio.lowlevel.checkpoint()
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Sends what the application answers; the head leaves with the body's first part."""
        if message["type"] == "http.response.start":
            self._head = self._connection.head(message["status"], list(message["headers"]))
        elif message["type"] == "http.response.body":
            more = bool(message.get("more_body", False))
            body = bytes(message.get("body", b""))
            events: list[Sent] = []
            if self._head is not None:
                events.append(self._head)
                self._head, self.begun = None, True
            if body:
                events.append(h11.Data(data=body))
            if not more:
                events.append(h11.EndOfMessage())
            await self._write(events, complete=not more)

    async def _write(self, events: list[Sent], *, complete: bool) -> None:
        try:
            await self._connection.write(*events)
        except ClientLeft:
            self.left = True
            self.ended.set()
            raise
        if complete:
            self.complete = True
            self.ended.set()
