"""HTTP to a server that may be anything: bounded, direct, and closed when it is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from inference.remote.server import (
    ANSWER_BYTES_MAX,
    TEXT_BYTES_MAX,
    Server,
    ServerBroken,
    ServerError,
    ServerRefused,
    ServerUnreachable,
    cleaned,
    refused,
)
from inference.remote.settings import RemoteKind, RemoteSettings, RemoteTimeouts
from inference.remote.sse import EVENT_BYTES_MAX

OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
JSON = OK + b"content-type: application/json\r\n\r\n"
EVENTS = OK + b"content-type: text/event-stream\r\n\r\n"

Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def whole_request(stream: trio.SocketStream) -> bytes:
    """A connection that is closed with something unread in it breaks for the client too."""
    request = b""
    while b"\r\n\r\n" not in request or not request.endswith(b"}"):
        request += await stream.receive_some(1 << 16)
        if request.startswith(b"GET ") and request.endswith(b"\r\n\r\n"):
            break
    return request


class Raw:
    """A port that answers with bytes; ``closed`` counts the clients that went away."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.closed = 0
        self.changed = trio.Event()
        self.url = ""
        self.handler: Handler | None = None
        self.answer = b""

    async def connection(self, stream: trio.SocketStream) -> None:
        self.asked.append(await whole_request(stream))
        try:
            if self.handler is not None:
                await self.handler(stream)
                return
            await stream.send_all(self.answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.closed += 1
            self.changed.set()

    async def until_left(self, stream: trio.SocketStream) -> None:
        """Waits for the client to go."""
        while await stream.receive_some(1 << 16):
            pass
        self.closed += 1
        self.changed.set()


@asynccontextmanager
async def raw(**given: Any) -> AsyncIterator[tuple[Raw, Server]]:
    port = Raw()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, port.connection, listeners)
            port.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            server = Server(RemoteSettings(kind=RemoteKind.OPENAI, url=port.url, **given))
            yield port, server
            await server.aclose()
            nursery.cancel_scope.cancel()


async def test_an_object_is_read() -> None:
    async with raw() as (port, server):
        port.answer = JSON + b'{"a":1}'
        assert await server.get_json("/x") == {"a": 1}
        assert await server.post_json("/y", {"b": "é"}) == {"a": 1}
    assert port.asked[0].startswith(b"GET /x HTTP/1.1\r\n")
    assert port.asked[1].endswith('{"b":"é"}'.encode())


async def test_a_base_path_is_kept() -> None:
    async with raw() as (port, _):
        port.answer = JSON + b"{}"
        server = Server(RemoteSettings(kind=RemoteKind.OPENAI, url=port.url + "/base/v1"))
        await server.get_json("/v1/models")
    assert port.asked[0].startswith(b"GET /base/v1/models ")


async def test_the_key_is_sent_and_the_environment_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with raw(api_key="hunter2") as (port, server):
        port.answer = JSON + b"{}"
        await server.get_json("/")
    assert b"authorization: Bearer hunter2" in port.asked[0].replace(
        b"Authorization", b"authorization"
    )


async def test_a_server_that_is_not_there() -> None:
    async with raw() as (port, _):
        pass
    server = Server(RemoteSettings(kind=RemoteKind.OPENAI, url=port.url))
    with pytest.raises(ServerUnreachable) as caught:
        await server.get_json("/")
    assert not caught.value.slow
    assert port.url not in str(caught.value)


async def test_a_silent_server_is_given_up_and_left() -> None:
    async with raw(timeouts=RemoteTimeouts(answer_s=0.05)) as (port, server):
        port.handler = port.until_left
        with pytest.raises(ServerUnreachable) as caught:
            await server.get_json("/")
        assert caught.value.slow
        while not port.closed:
            await port.changed.wait()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}",
        JSON + b"[]",
        JSON + b"{",
        JSON + b"\xff\xfe",
        JSON + b'{"a":' * 100_000,
        JSON + b'{"a":NaN}',
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        OK + b"content-encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n{}",
    ],
    ids=lambda answer: str(answer[:30]),
)
async def test_what_is_no_answer_is_broken(answer: bytes) -> None:
    async with raw() as (port, server):
        port.answer = answer
        with pytest.raises(ServerBroken):
            await server.get_json("/")
    assert len(port.asked) == 1


@pytest.mark.parametrize(("path", "limit"), [("get", TEXT_BYTES_MAX), ("whole", ANSWER_BYTES_MAX)])
async def test_an_endless_body_is_cut(path: str, limit: int) -> None:
    async with raw() as (port, server):
        sent = 0

        async def endless(stream: trio.SocketStream) -> None:
            nonlocal sent
            await stream.send_all(JSON)
            while True:
                await stream.send_all(b"x" * (1 << 16))
                sent += 1 << 16

        port.handler = endless
        with pytest.raises(ServerBroken, match="more than"):
            await (server.get_text("/") if path == "get" else server.whole("/", b"{}"))
        while not port.closed:
            await port.changed.wait()
        assert sent < 8 * limit


async def test_an_event_without_end_is_cut() -> None:
    async with raw() as (port, server):

        async def endless(stream: trio.SocketStream) -> None:
            await stream.send_all(EVENTS + b"data: ")
            while True:
                await stream.send_all(b"x" * (1 << 16))

        port.handler = endless
        with pytest.raises(ServerBroken, match=str(EVENT_BYTES_MAX)):
            async with server.stream("/", b"{}") as payloads:
                [payload async for payload in payloads]
        while not port.closed:
            await port.changed.wait()


async def test_what_does_not_stream_is_broken() -> None:
    async with raw() as (port, server):
        port.answer = JSON + b'{"choices":[]}'
        with pytest.raises(ServerBroken, match="stream"):
            async with server.stream("/", b"{}"):
                pytest.fail("entered")


async def test_a_stream_cut_anywhere_on_the_wire_gives_the_same_events() -> None:
    body = b'data: {"a":1}\n\n: ping\n\ndata: [DONE]\n\n'
    async with raw() as (port, server):
        for cut in range(1, len(body)):

            async def two_pieces(stream: trio.SocketStream, cut: int = cut) -> None:
                await stream.send_all(EVENTS + body[:cut])
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(body[cut:])

            port.handler = two_pieces
            async with server.stream("/", b"{}") as payloads:
                assert [payload async for payload in payloads] == [b'{"a":1}', b"[DONE]"]


async def test_a_stream_that_breaks_is_broken() -> None:
    chunked = EVENTS.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n")
    async with raw() as (port, server):
        port.answer = chunked + b"a\r\ndata: 1\n\n\r\n"
        with pytest.raises(ServerBroken):
            async with server.stream("/", b"{}") as payloads:
                [payload async for payload in payloads]


@pytest.mark.parametrize("events_read", [0, 1])
async def test_leaving_a_stream_closes_its_connection(events_read: int) -> None:
    async with raw() as (port, server):

        async def some(stream: trio.SocketStream) -> None:
            await stream.send_all(EVENTS + b"data: 1\n\ndata: 2\n\n")
            await port.until_left(stream)

        port.handler = some
        async with server.stream("/", b"{}") as payloads:
            for _ in range(events_read):
                await anext(payloads)
        while not port.closed:
            await port.changed.wait()


async def test_cancelling_a_wait_closes_the_connection() -> None:
    async with raw() as (port, server):
        port.handler = port.until_left
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.whole, "/", b"{}")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        while not port.closed:
            await port.changed.wait()


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        ({"error": {"message": "no", "param": "n", "code": "c"}}, "no", "n", "c"),
        ({"error": {"message": "no", "param": "body.top_p", "code": 400}}, "no", "top_p", None),
        ({"error": {"message": "no", "type": "T", "code": 400}}, "no", None, "T"),
        ({"object": "error", "message": "no", "code": 400}, "no", None, None),
        ({"error": "no"}, "no", None, None),
        ({"detail": "Not Found"}, "the inference server answered 400", None, None),
        ({"error": {"message": 5}}, "the inference server answered 400", None, None),
    ],
)
def test_errors_as_each_server_writes_them(
    body: dict[str, Any], message: str, param: str | None, code: str | None
) -> None:
    error = refused(400, body)
    assert (error.message, error.param, error.code) == (message, param, code)
    assert str(error) == "the inference server answered 400"


async def test_an_error_of_any_size_is_an_error() -> None:
    async with raw() as (port, server):
        for body in (
            b"",
            b"<html>",
            b"x" * (1 << 20),
            b'{"error":{"message":"' + b"y" * 900 + b'"}}',
        ):
            port.answer = b"HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n" + body
            with pytest.raises(ServerRefused) as caught:
                await server.get_json("/")
            assert caught.value.status == 500
            assert len(caught.value.message) <= 300


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\t\x1b[31m", "two lines [31m"),
        ("1 error:\n  {'msg': 'bad', 'input': 'my secret'}", "1 error: {'msg': 'bad'"),
        ('{"msg": "bad", "input": "my secret"}', '{"msg": "bad"'),
        ("bad [input_value='my secret']", "bad ["),
        (
            "must be positive, got -1 (parameter=n, value=secret)",
            "must be positive, got -1",
        ),
        ("'input': 'secret'", "the inference server gave no reason"),
    ],
)
def test_a_message_quotes_nothing_of_the_request(said: str, shown: str) -> None:
    assert cleaned(said) == shown


def test_all_errors_are_of_one_family() -> None:
    for each in (ServerBroken, ServerRefused, ServerUnreachable):
        assert issubclass(each, ServerError)
