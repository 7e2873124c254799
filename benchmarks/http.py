"""What the HTTP face costs by itself: requests and chunks per core-second, and latency.

    python -m benchmarks.http [--quick]

One serving process on loopback, callers in this one; "per core-second" divides by the CPU seconds
of the serving process alone. ``empty`` is the h11 driver with an application that answers "ok";
``openai`` the whole application over an ingress that answers at once, without checking a token's
signature (peers remember tokens that they have checked); ``limited`` the same with every limit of
tokens and tenants on, far above what is asked. What limits cost is the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass

import trio

from benchmarks.processes import cpu_s
from inference.request import FinishReason
from overlay.http.app import make_app
from overlay.http.connection import App, Message
from overlay.http.server import serve_http
from overlay.quotas import Quota, QuotaLimits, Quotas
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Principal,
    Scope,
    Started,
    Submission,
    Usage,
)
from overlay.system import SystemClock, SystemEntropy
from security.peer_id import PeerId
from security.tenant import TenantId

CALLERS = 32
WARM_UP = 200
TOKEN = "x" * 500
PEER = PeerId("b" * 52)
PROMPT = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 30
STREAM_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"


# -- the serving process


async def empty(
    _scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """The least that an application can do."""
    await receive()
    headers = [(b"content-length", b"2"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


class InstantIngress:
    """Answers at once, with as many pieces as tokens were asked for."""

    @asynccontextmanager
    async def open(self, submission: Submission) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        async with aclosing(self._answer(submission.call.max_tokens or 1)) as events:
            yield events

    async def _answer(self, tokens: int) -> AsyncGenerator[AnswerEvent, None]:
        yield Started(model="toy", served_by=PEER)
        for number in range(tokens):
            yield Delta(text=" word", token_ids=(number,))
        yield Finished(
            reason=FinishReason.LENGTH,
            usage=Usage(prompt_tokens=512, completion_tokens=tokens, cached_tokens=496),
            served_by=PEER,
            hops=0,
            resumes=0,
        )


class InstantFront:
    """A peer that knows everybody."""

    def __init__(self, quotas: QuotaLimits) -> None:
        self.ingress = InstantIngress()
        self.clock = SystemClock()
        self._quotas = Quotas(quotas, self.clock, serves=lambda _: True)
        self.entropy = SystemEntropy()
        self.request_timeout_s = 600.0
        self._principal = Principal(
            tenant=TenantId("ab" * 16),
            token_id=TOKEN[:8],
            scopes=frozenset({Scope.INFER}),
        )

    def authenticate(self, bearer: str) -> Principal:
        assert bearer == TOKEN
        return self._principal

    def admitted(self, principal: Principal) -> AbstractContextManager[None]:
        return self._quotas.admitted(principal)

    def check_open(self) -> None:
        """Open always."""

    def models(self, tenant: TenantId) -> Iterable[str]:  # noqa: ARG002 - a front
        return ["toy"]

    def health(self) -> Mapping[str, object]:
        return {}

    def metrics(self, principal: Principal) -> tuple[str, bytes]:  # noqa: ARG002 - a front
        return "text/plain", b""

    def status(self, principal: Principal) -> bytes:  # noqa: ARG002 - a front
        return b"{}"

    def explain(self, principal: Principal, request_id: str) -> bytes | None:  # noqa: ARG002 - a front
        return None


PLENTY = Quota(requests_per_min=10**9, prompt_tokens_per_min=10**12, concurrent=10**6)
APPS: dict[str, Callable[[], App]] = {
    "empty": lambda: empty,
    "openai": lambda: make_app(InstantFront(QuotaLimits())),
    "limited": lambda: make_app(InstantFront(QuotaLimits(token=PLENTY, tenant=PLENTY))),
}


async def serve(app: App) -> None:
    """Prints its port, serves until killed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=256)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve_http(app, listeners, clock=SystemClock(), entropy=SystemEntropy())


# -- the calling process


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, and what its answer ends with; None where the answer has a length."""

    request: bytes
    until: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run measured."""

    count: int
    server_cpu_s: float
    wall_s: float
    times_s: list[float]

    def line(self, units: int, unit: str) -> str:
        """``units`` are what is counted, a number of them for each request."""
        core = (
            "too short to tell" if not self.server_cpu_s else f"{units / self.server_cpu_s:8,.0f}"
        )
        p50_us, p99_us = (1e6 * self.times_s[self.count * q // 100] for q in (50, 99))
        return (
            f"{core} {unit}/core-s  {units / self.wall_s:8,.0f} {unit}/s  "
            f"p50 {p50_us:7,.0f} us  p99 {p99_us:7,.0f} us"
        )


def call_of(path: str, tokens: int, *, stream: bool) -> Call:
    """A chat or a completion of about 500 tokens."""
    body = {
        "model": "toy",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": stream,
    }
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return Call(request=head.encode() + raw, until=STREAM_END if stream else None)


async def make(stream: trio.SocketStream, call: Call) -> None:
    """Sends one request and reads its whole answer."""
    await stream.send_all(call.request)
    got = bytearray()
    while True:
        data = await stream.receive_some(1 << 16)
        assert data, "the server hung up"
        got += data
        if call.until is not None:
            if got.endswith(call.until):
                break
        else:
            head, found, body = got.partition(b"\r\n\r\n")
            if found and len(body) >= int(head.lower().split(b"content-length: ")[1].split()[0]):
                break
    assert got.startswith(b"HTTP/1.1 200"), bytes(got[:100])


async def measure(port: int, pid: int, call: Call, count: int, callers: int) -> Figures:
    """``count`` requests by so many callers, each on a connection that it keeps."""
    times_s: list[float] = []
    left = iter(range(count))

    async def caller(requests: Iterable[int], into: list[float]) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _ in requests:
                began_s = time.perf_counter()
                await make(stream, call)
                into.append(time.perf_counter() - began_s)

    await caller(range(min(count, WARM_UP)), [])
    before_s, began_s = cpu_s(pid), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller, left, times_s)
    return Figures(
        count=count,
        server_cpu_s=cpu_s(pid) - before_s,
        wall_s=time.perf_counter() - began_s,
        times_s=sorted(times_s),
    )


def run(app: str, name: str, call: Call, count: int, tokens: int | None = None) -> float:
    """Starts a server of its own, measures it with one caller and with many, and stops it.

    Returns:
        CPU seconds of the server for one request, with many callers.
    """
    command = [sys.executable, "-m", "benchmarks.http", "--serve", app]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            for callers in (1, CALLERS):
                figures = trio.run(measure, port, server.pid, call, count, callers)
                units, unit = (count, "requests") if tokens is None else (count * tokens, "chunks")
                print(f"{name:24} {callers:2} callers  {figures.line(units, unit)}", flush=True)
            return figures.server_cpu_s / count
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--serve", choices=sorted(APPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(serve, APPS[options.serve]())
        return
    share = 10 if options.quick else 1
    get = Call(request=b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    chat = "/v1/chat/completions"
    run("empty", "empty application", get, 10_000 // share)
    piece = call_of(chat, 1, stream=False)
    free_s = run("openai", "chat, one piece", piece, 5_000 // share)
    limited_s = run("limited", "the same, with limits", piece, 5_000 // share)
    run("openai", "chat, stream of 1 token", call_of(chat, 1, stream=True), 5_000 // share)
    tokens = 500
    count = 200 // share
    run("openai", f"chat, stream of {tokens}", call_of(chat, tokens, stream=True), count, tokens)
    print(f"a request with limits over one without: {limited_s / free_s:.3f} x its CPU")


if __name__ == "__main__":
    main()
