"""The server on real loopback sockets: TLS, resets, the limit of connections, and its end."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from overlay.http.connection import App, Message
from overlay.http.limits import HttpLimits
from overlay.http.server import HANDSHAKE_S, Places, serve_http
from overlay.system import SystemClock, SystemEntropy
from tests.overlay.http.certificate import Certificate, make_certificate
from tests.overlay.http.world import GET, Client, Hung, Receive, Send, Streaming, mirror, post

SOON_S = 10.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


@dataclass
class Server:
    """A server on a port of its own."""

    port: int
    scope: trio.CancelScope

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def connect_tls(self, certificate: Certificate) -> Client:
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", self.port, ssl_context=certificate.client()
        )
        await stream.do_handshake()
        return Client(stream)


@asynccontextmanager
async def served(
    app: App, limits: HttpLimits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serves on any port of loopback; everything must end with the block."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(SOON_S + HANDSHAKE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_http(
                    app,
                    listeners,
                    clock=SystemClock(),
                    entropy=SystemEntropy(),
                    tls=None if tls is None else lambda: tls,
                    limits=limits,
                    task_status=task_status,
                )
            )
            yield Server(port, nursery.cancel_scope)
            nursery.cancel_scope.cancel()


async def test_plain_requests_are_answered_and_the_client_is_known() -> None:
    async with served(mirror) as server, (await server.connect()).stream as stream:
        client = Client(stream)
        for _ in range(2):
            told = (await client.ask(post(b"x" * 100_000))).json()
            assert (told["scheme"], len(told["body"])) == ("http", 100_000)
            assert told["client"] == list(stream.socket.getsockname())  # type: ignore[attr-defined]


async def test_tls_requests_are_answered(certificate: Certificate) -> None:
    async with served(mirror, tls=server_context(certificate)) as server:
        client = await server.connect_tls(certificate)
        for _ in range(2):
            told = (await client.ask(post(b"x" * 100_000))).json()
            assert (told["scheme"], len(told["body"])) == ("https", 100_000)


async def test_an_answer_without_a_length_ends_with_the_end_of_tls(
    certificate: Certificate,
) -> None:
    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})

    async with served(stream, tls=server_context(certificate)) as server:
        client = await server.connect_tls(certificate)
        assert (await client.ask(b"GET / HTTP/1.0\r\n\r\n")).body == b"whole"


async def test_half_an_answer_has_no_end_of_tls(certificate: Certificate) -> None:
    async def half(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with served(half, tls=server_context(certificate)) as server:
        client = await server.connect_tls(certificate)
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.until(b"half")
        with pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some(1)


async def test_a_tls_client_on_the_plain_port_is_refused(certificate: Certificate) -> None:
    async with served(mirror) as server:
        with pytest.raises(trio.BrokenResourceError):
            await server.connect_tls(certificate)
        assert (await (await server.connect()).ask(GET)).status == 200


async def test_a_plain_client_on_the_tls_port_is_refused(certificate: Certificate) -> None:
    async with served(mirror, tls=server_context(certificate)) as server:
        client = await server.connect()
        await client.send(GET)
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            await client.until(b"HTTP/1.1 200")
        assert (await (await server.connect_tls(certificate)).ask(GET)).status == 200


def test_a_silent_client_on_the_tls_port_is_left(certificate: Certificate) -> None:
    async def main() -> None:
        async with served(mirror, tls=server_context(certificate)) as server:
            client = await server.connect()
            assert await client.ended()
            assert trio.current_time() >= HANDSHAKE_S

    trio.run(main, clock=MockClock(autojump_threshold=0.02))


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_client_that_leaves_in_mid_stream_frees_the_work(
    way: str, secured: bool, certificate: Certificate
) -> None:
    app = Streaming(every_s=3600)
    async with served(app, tls=server_context(certificate) if secured else None) as server:
        client = await (server.connect_tls(certificate) if secured else server.connect())
        await client.send(GET)
        await client.until(b"tick")
        assert app.running == 1
        transport = client.stream
        if isinstance(transport, trio.SSLStream):
            transport = transport.transport_stream
        if way == "reset":
            transport.setsockopt(  # type: ignore[attr-defined]  # a socket stream
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        await trio.aclose_forcefully(transport)
        await app.changed.wait()
        assert (app.running, app.ends) == (0, ["Cancelled"])


async def test_a_refused_client_that_sends_on_reads_why() -> None:
    async with served(mirror) as server:
        client = await server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n")
        await client.send(b"x" * 8_000_000)
        assert (await client.answer()).status == 413
        assert await client.ended()


async def test_a_client_that_takes_nothing_is_left_although_the_kernel_holds_a_part() -> None:
    app = Streaming(every_s=0, part=bytes(1 << 20))
    async with served(app, replace(HttpLimits(), write_s=0.05)) as server:
        client = await server.connect()
        await client.send(GET)
        await app.changed.wait()
        assert (app.running, app.ends) == (0, ["ClientLeft"])


async def test_more_connections_than_allowed_are_closed_and_others_unharmed() -> None:
    async with served(mirror, replace(HttpLimits(), connections=2)) as server:
        first, second = await server.connect(), await server.connect()
        for client in (first, second):
            assert (await client.ask(GET)).status == 200
        assert await (await server.connect()).ended()
        for client in (first, second):
            assert (await client.ask(GET)).status == 200
        await first.stream.aclose()
        while True:
            client = await server.connect()
            try:
                answer = await client.ask(GET)
                break
            except (Hung, trio.BrokenResourceError):
                continue
        assert answer.status == 200


def test_one_address_takes_no_more_than_its_share_and_this_host_has_no_share() -> None:
    places = Places(replace(HttpLimits(), connections=4, connections_per_address=2))
    with places.taken("10.0.0.7") as first, places.taken("10.0.0.7") as second:
        assert (first, second) == (True, True)
        with places.taken("10.0.0.7") as third, places.taken("fe80::7%eth0") as other:
            assert (third, other) == (False, True)
    with ExitStack() as stack:
        own = [stack.enter_context(places.taken("127.0.0.1")) for _ in range(5)]
        assert own == [True] * 4 + [False]


async def test_the_end_of_the_server_ends_everything() -> None:
    app = Streaming(every_s=3600)
    async with served(app) as server:
        idle, streaming = await server.connect(), await server.connect()
        await streaming.send(GET)
        await streaming.until(b"tick")
        server.scope.cancel()
    assert (app.running, app.ends) == (0, ["Cancelled"])
    assert await idle.ended()
    with pytest.raises(OSError, match="failed"):
        await server.connect()


def open_files() -> int:
    """Descriptors of this process; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def test_many_clients_come_and_go() -> None:
    app = Streaming(every_s=0, part=b"x" * 1000)
    before = open_files()
    async with served(app) as server:

        async def visit(number: int) -> None:
            client = await server.connect()
            async with client.stream:
                await client.send(GET if number % 3 else GET[:10])
                if number % 3 == 1:
                    await client.until(b"x" * 100)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(visit, number)
        while app.running:
            app.changed = trio.Event()
            await app.changed.wait()
        assert (await _status(server)) == 200
    assert open_files() <= before


async def _status(server: Server) -> int:
    client = await server.connect()
    async with client.stream:
        await client.send(GET)
        return int((await client.until(b"\r\n"))[9:12])
