"""Requests that two readers could frame in two ways, and paths that try to be others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from overlay.http.app import make_app
from overlay.http.framing import check_head, check_lines
from overlay.http.refusal import Refused
from tests.overlay.http.fronts import MadeUpFront
from tests.overlay.http.test_connection import never
from tests.overlay.http.world import GET, connected, mirror

HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

AMBIGUOUS = {
    "all lines end in bare line feeds": b"GET / HTTP/1.1\nHost: h\n\n",
    "the request line does": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    "a header does": HEAD + b"A: b\nContent-Length: 3\r\n\r\nabc",
    "the empty line does": b"GET / HTTP/1.1\r\nHost: h\r\n\n",
    "a folded header": HEAD + b"A: b\r\n c\r\n\r\n",
    "a header folded by a tab": HEAD + b"A: b\r\n\tc\r\n\r\n",
    "a folded length": HEAD + b"Content-Length:\r\n 3\r\n\r\nabc",
    "a folded coding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "one length twice": HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "one length twice in a list": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "length, then coding": HEAD
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding, then length": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a control character": HEAD + b"A: b\x01\r\n\r\n",
    "a form feed before a coding": HEAD + b"Transfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\n",
    "a delete character": HEAD + b"A: \x7f\r\n\r\n",
    "a bare carriage return": HEAD + b"A: b\rContent-Length: 3\r\n\r\nabc",
    "a space before the colon": HEAD + b"Content-Length : 3\r\n\r\nabc",
    "a space at the start of headers": b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "two spaces in the request line": b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "a chunk length with a sign": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk length below zero": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk length with a prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a bare line feed in a chunk extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a bare line feed as the last line": CHUNKED + b"0\r\n\n",
    "a bare line feed in trailers": CHUNKED + b"0\r\nA: b\nC: d\r\n\r\n",
    "folded trailers": CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n",
    "a chunk length of many digits": CHUNKED + b"f" * 25 + b"\r\n",
}


@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
@pytest.mark.parametrize("whole", [True, False])
async def test_what_could_be_read_in_two_ways_is_refused_with_all_that_follows(
    request_: bytes, whole: bool, autojump_clock: MockClock
) -> None:
    async with connected(never) as client:
        raw = request_ + SMUGGLED
        if whole:
            await client.send(raw)
        else:
            for byte in raw:
                if client.served.is_set():
                    break
                await client.send(bytes([byte]))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "malformed_request")
        assert answer.headers["connection"] == "close"
        assert await client.ended()


async def test_what_is_right_passes_beside_it(autojump_clock: MockClock) -> None:
    fine = [
        GET,
        HEAD + b"A:\tb \tc \r\nContent-Length: 3\r\n\r\na\nb",
        CHUNKED + b"3;x=y\r\n\n\n\n\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nA: b\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na",
    ]
    async with connected(mirror) as client:
        for request in fine[:-1]:
            assert (await client.ask(request)).status == 200
        await client.send(fine[0] + fine[1] + fine[2])
        bodies = [(await client.answer()).json()["body"] for _ in range(3)]
        assert bodies == ["", "a\nb", "\n\n\n"]
        assert (await client.ask(fine[-1])).status == 200


@pytest.mark.parametrize(
    "path",
    ["//v1/models", "/v1//models", "/./v1/models", "/v1/./models", "/v1/../v1/models",
     "/%2e%2e/v1/models", "/health/%2e%2e/v1/models", "/v1/models/", "/v1/models/%2e%2e",
     "/v1%2fmodels/x", "/V1/models", "/v1/models;a=b", "/v1\\models", "/v1/models%00",
     "/v1/models%20", "/metrics/", "//metrics", "/health/../metrics", "/%2e/metrics",
     "/rhizome/explain/../status", "/rhizome/explain/a/b", "http://localhost//v1/models",
     "/v1/models%2f..%2f..%2fmetrics", "/v1/models/%2e%2e%2f%2e%2e%2fmetrics"],
)  # fmt: skip
async def test_a_path_is_what_it_is_and_no_other(path: str) -> None:
    async with connected(make_app(MadeUpFront())) as client:
        for bearer in ("good", "admin-only"):
            head = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bearer}\r\n\r\n"
            answer = await client.ask(head.encode())
            assert answer.status in {403, 404}
            assert answer.body != b"metric 1\n"


@given(st.binary(max_size=200), st.sampled_from([b"1.0", b"1.1"]))
def test_any_head_passes_or_is_refused(raw: bytes, version: bytes) -> None:
    try:
        check_head(raw, version)
    except Refused:
        return
    check_lines(raw)
    assert raw.count(b"\n") == raw.count(b"\r\n")
