"""Helpers of the HTTP tests: a client that sends raw bytes, applications, and served connections.

Answers are read by h11's client half, one fresh parser for each, so that a wrong framing of ours
is an error here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio
import trio.testing

from chaos.clock import VirtualClock
from chaos.entropy import SeededEntropy
from overlay.http.connection import App, HttpConnection, Message
from overlay.http.limits import HttpLimits
from overlay.http.refusal import Stamp

LIMITS = HttpLimits(
    header_s=10, body_s=30, idle_s=60, write_s=30, header_bytes=4096, body_bytes=65536, linger_s=5
)
GET = b"GET /path HTTP/1.1\r\nHost: h\r\n\r\n"
ADDRESS = ("127.0.0.1", 40_000)


def stamp() -> Stamp:
    """Dates of 2027, and ids from a seed."""
    return Stamp(VirtualClock(), SeededEntropy(1, "stamp"))


Receive = Callable[[], Any]  # Any: an awaitable message
Send = Callable[[Message], Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One response, and the informational ones before it."""

    status: int
    headers: dict[str, str]
    body: bytes
    informational: tuple[int, ...] = ()

    def json(self) -> Any:  # Any: JSON
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's form; nothing else may stand beside it."""
        value = self.json()
        assert list(value) == ["error"]
        assert sorted(value["error"]) == ["code", "message", "param", "type"]
        error: dict[str, Any] = value["error"]
        return error

    def events(self) -> list[Any]:
        """Server-sent events: JSON values, and the text of the last one if that is none."""
        *whole, rest = self.body.decode().split("\n\n")
        assert rest == ""
        assert all(each.startswith("data: ") and "\n" not in each for each in whole)
        datas = [each.removeprefix("data: ") for each in whole]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]


class Hung(Exception):
    """The server ended the connection before a whole answer."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"after {len(got)} bytes of a body")
        self.got = got


class Client:
    """The far end of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.served = trio.Event()  # set when nothing of the connection runs any more
        self._left = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, request: bytes, method: str = "GET") -> Answer:
        """Sends one request and reads its answer."""
        await self.send(request)
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer. Raises Hung when it does not come whole."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(self._left) if self._left else None
        informational: list[int] = []
        head, body = None, b""
        while True:
            event = await self._event(reader, body)
            if isinstance(event, h11.InformationalResponse):
                informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        self._left = reader.trailing_data[0]
        assert head is not None
        return Answer(
            status=head.status_code,
            headers={name.decode(): value.decode() for name, value in head.headers},
            body=body,
            informational=tuple(informational),
        )

    async def _event(self, reader: h11.Connection, body: bytes) -> object:
        try:
            while (event := reader.next_event()) is h11.NEED_DATA:
                reader.receive_data(bytes(await self.stream.receive_some(65536)))
        except (h11.RemoteProtocolError, trio.BrokenResourceError) as error:
            raise Hung(body) from error
        if isinstance(event, h11.ConnectionClosed):
            raise Hung(body)
        return event

    async def until(self, text: bytes) -> bytes:
        """Reads raw bytes until ``text`` is among them."""
        while text not in self._left:
            more = bytes(await self.stream.receive_some(65536))
            assert more, "the connection ended first"
            self._left += more
        return self._left

    async def ended(self) -> bool:
        """Whether the connection ends here, without another byte."""
        try:
            return not self._left and not await self.stream.receive_some(1)
        except trio.BrokenResourceError:
            return True


@asynccontextmanager
async def connected(
    app: App,
    limits: HttpLimits = LIMITS,
    *,
    draining: Callable[[], bool] = lambda: False,
    lockstep: bool = False,
    client: tuple[str, int] = ADDRESS,
) -> AsyncIterator[Client]:
    """A connection over memory. A lockstep one holds nothing: its writer waits for its reader."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make()
    far = Client(theirs)

    async def serve() -> None:
        connection = HttpConnection(
            app, ours, limits, stamp=stamp(), client=client, scheme="http", draining=draining
        )
        async with ours:
            await connection.run()
        far.served.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield far
        nursery.cancel_scope.cancel()


async def respond(send: Send, body: bytes, status: int = 200) -> None:
    """A whole answer of an application."""
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def mirror(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with what was asked."""
    message = await receive()
    assert not message["more_body"]
    told = {name: scope[name] for name in ("method", "path", "scheme", "http_version", "client")}
    told["query"] = scope["query_string"].decode()
    told["body"] = message["body"].decode("latin-1")
    await respond(send, json.dumps(told).encode())


@dataclass
class Streaming:
    """An application that sends a part every ``every_s`` until it is left; what became of it."""

    every_s: float = 1.0
    part: bytes = b"tick\n"
    running: int = 0
    sent: int = 0
    ends: list[str] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": self.part, "more_body": True})
                self.sent += 1
                await trio.sleep(self.every_s)
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise
        finally:
            self.running -= 1
            self.changed.set()


def post(body: bytes, path: str = "/path", *headers: str) -> bytes:
    """A request with a body."""
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
