"""Requests to the HTTP face that two programs could read in two ways, or that never end."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from chaos.world import until
from tests.attacks.adversary import host_of, member_of_beta, repair
from tests.attacks.faces import CHAT, Face, code_of, faced_overlay
from tests.attacks.victim import ALPHA, BETA
from tests.overlay.http.world import Hung

ASK = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n%s\r\n"
CLOSE = "Connection: close"


async def statuses(face: Face, data: bytes) -> list[int]:
    """All that is answered to these bytes until the connection ends."""
    async with face.client() as client:
        found = []
        with suppress(Hung, trio.BrokenResourceError):
            await client.send(data)
            while True:
                found.append((await client.answer("POST")).status)
        return found


def post(face: Face, *headers: str, body: bytes) -> bytes:
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {face.token()}",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


SMUGGLED = {
    "CL.TE": (["Content-Length: 4", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    "TE.CL": (["Transfer-Encoding: chunked", "Content-Length: 5"], b"0\r\n\r\n"),
    "two lengths": (["Content-Length: 0", "Content-Length: 44"], b""),
    "two lengths in one": (["Content-Length: 0, 44"], b""),
    "a signed length": (["Content-Length: +0"], b""),
    "a length in hex": (["Content-Length: 0x10"], b""),
    "a length with a space inside": (["Content-Length: 1 0"], b""),
    "an unknown encoding": (["Transfer-Encoding: xchunked"], b""),
    "chunked before another": (["Transfer-Encoding: chunked, identity"], b""),
    "chunked with a tab": (["Transfer-Encoding:\x0bchunked"], b"0\r\n\r\n"),
    "a space before the colon": (["Transfer-Encoding : chunked"], b"0\r\n\r\n"),
    "two encodings": (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n"),
    "a chunk of a negative size": (["Transfer-Encoding: chunked"], b"-1\r\n\r\n"),
    "a chunk that is too large": (["Transfer-Encoding: chunked"], b"f" * 40 + b"\r\n"),
    "a chunk that does not end": (["Transfer-Encoding: chunked"], b"1\r\nxx\r\n0\r\n\r\n"),
    "a name with a NUL": (["X\x00: y"], b""),
    "a value with a NUL": (["X: a\x00b"], b""),
    "a value with a bare CR": (["X: a\rTransfer-Encoding: chunked"], b"0\r\n\r\n"),
    "a line without a colon": (["nothing"], b""),
    "two hosts": (["Host: other"], b""),
}


async def test_request_smuggling() -> None:
    """The second request, which one reading of the first one hides, is answered by nobody."""
    async with faced_overlay() as face, face.victim.unharmed():
        second = ASK % (face.token().encode(), f"{CLOSE}\r\n".encode())
        for name, (headers, body) in SMUGGLED.items():
            found = await statuses(face, post(face, *headers, body=body) + second)
            assert found in ([400], [501]), name


async def test_control_two_requests_one_after_the_other() -> None:
    async with faced_overlay() as face:
        token = face.token().encode()
        last = ASK % (token, f"{CLOSE}\r\n".encode())
        assert await statuses(face, ASK % (token, b"") + last) == [200, 200]
        upgrade = ["Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Content-Length: 0"]
        assert await statuses(face, post(face, *upgrade, body=b"") + last) == [400, 200]


PATHS = [
    "/v1/../metrics",
    "/v1/%2e%2e/metrics",
    "//metrics",
    "/metrics/",
    "/metrics%00",
    "/v1/models/../../metrics",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1/models/%2e%2e%2f%2e%2e%2f",
    "/V1/models",
    "/v1/models;x=/metrics",
    "/v1//models",
    "/.git/config",
    "/v1/models\\..\\metrics",
    "*",
    "127.0.0.1:443",
    "http://other/nowhere",
    "/%ff%fe",
    "/" + "a" * 9000,
]


async def test_path_tricks() -> None:
    """A path is one of those that are served, letter for letter, or it is not there."""
    async with faced_overlay() as face, face.victim.unharmed():
        for path in PATHS:
            for method in ("GET", "POST", "OPTIONS", "TRACE", "CONNECT", "PUT"):
                token = f"Authorization: Bearer {face.token()}"
                data = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n{CLOSE}\r\n\r\n"
                found = await statuses(face, data.encode())
                assert found, path
                assert all(400 <= status < 500 for status in found), (method, path, found)


async def test_every_path_that_tells_something_asks_for_a_token() -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        for line in (
            f"POST {CHAT}",
            "POST /v1/completions",
            "GET /v1/models",
            "GET /v1/models/x",
        ):
            data = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode()
            answer = await face.raw(data)
            assert (answer.status, code_of(answer)) == (401, "invalid_api_key")


BODIES = {
    "nested": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "numbers": b'{"messages": [], "max_tokens": ' + b"9" * 100_000 + b"}",
    "names": b"{" + b",".join(b'"%d": 0' % n for n in range(50_000)) + b"}",
    "not utf-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "surrogates": b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
    "infinite": b'{"messages": [], "temperature": Infinity}',
    "empty": b"",
    "null": b"null",
}


async def test_bodies_that_are_bombs() -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        for name, body in BODIES.items():
            found = await statuses(
                face, post(face, f"Content-Length: {len(body)}", CLOSE, body=body)
            )
            assert found in ([400], [413]), name


@pytest.mark.parametrize("headers", [["Content-Length: 99999999999"], ["Content-Length: 1048577"]])
async def test_a_body_that_is_too_large_is_not_waited_for(headers: list[str]) -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        answer = await face.raw(post(face, *headers, body=b"{"))
        assert answer.status == 413


async def test_a_chunked_body_without_end() -> None:
    async with faced_overlay(linger_s=0.2) as face, face.victim.unharmed(), face.client() as client:
        await client.send(post(face, "Transfer-Encoding: chunked", body=b""))
        chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
        with suppress(trio.BrokenResourceError):
            for _ in range(40):
                await client.send(chunk)
        assert (await client.answer("POST")).status == 413


async def test_headers_without_end() -> None:
    async with faced_overlay() as face, face.victim.unharmed(), face.client() as client:
        await client.send(b"GET /v1/models HTTP/1.1\r\n")
        with suppress(trio.BrokenResourceError):
            for number in range(400):
                await client.send(b"X-%d: %s\r\n" % (number, b"a" * 100))
        assert (await client.answer()).status == 431


async def test_slowloris_on_the_http_port() -> None:
    """Heads and bodies that drip in have a time for the whole; others are served meanwhile."""
    async with faced_overlay(header_s=5, body_s=5, linger_s=0.1) as face:
        ended: list[int] = []

        async def drip(data: bytes) -> None:
            async with face.client() as client:
                with suppress(trio.BrokenResourceError):
                    for byte in data:
                        await client.send(bytes([byte]))
                        await trio.sleep(0.05)
                with suppress(Hung):
                    ended.append((await client.answer("POST")).status)

        async with face.victim.unharmed(), trio.open_nursery() as nursery:
            body = post(face, "Content-Length: 500", body=b"")
            for _ in range(10):
                nursery.start_soon(drip, b"GET /v1/models HTTP/1.1\r\nX: " + b"a" * 500)
                nursery.start_soon(send_head, face, body, ended)
            assert (await face.chat(face.token())).status == 200
        assert ended == [408] * 20


async def send_head(face: Face, head: bytes, ended: list[int]) -> None:
    """A whole head, and a body of which nothing more comes."""
    async with face.client() as client:
        await client.send(head + b"{")
        ended.append((await client.answer("POST")).status)


async def test_more_connections_than_there_are_places() -> None:
    """Those over the bound are closed; those that have a place are served on."""
    async with (
        faced_overlay(connections=8) as face,
        face.victim.unharmed(),
        face.client() as served,
    ):
        ask = ASK % (face.token().encode(), b"")
        assert (await served.ask(ask)).status == 200
        async with trio.open_nursery() as nursery:
            closed = []

            async def hold() -> None:
                async with face.client() as client:
                    if await client.ended():
                        closed.append(client)

            for _ in range(20):
                nursery.start_soon(hold)
            await until(lambda: len(closed) >= 12, step_s=0.01)
            assert (await served.ask(ask)).status == 200
            nursery.cancel_scope.cancel()


async def test_a_name_that_was_bent_to_this_host() -> None:
    """DNS rebinding: the browser says the name that it believes in, and so does a proxy's form."""
    async with faced_overlay() as face, face.victim.unharmed():
        token = f"Authorization: Bearer {face.token()}"
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "0x7f"):
            answer = await face.raw(face.request(CHAT, token, host=host))
            assert (answer.status, code_of(answer)) == (421, "misdirected_request")
        bent = face.request(f"http://evil.example{CHAT}", token)
        assert (await face.raw(bent)).status == 421
        assert (await face.raw(face.request(CHAT, token, host="localhost"))).status == 200


async def test_a_page_of_another_origin() -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example", "file://"):
            answer = await face.chat(face.token(), f"Origin: {origin}")
            assert (answer.status, code_of(answer)) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in answer.headers
        assert (await face.chat(face.token(), "Origin: http://127.0.0.1")).status == 200


async def models(face: Face, tenant: str) -> set[str]:
    """The models that a client of a tenant is told of."""
    head = "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
    answer = await face.raw(f"{head}{face.token(tenant)}\r\n\r\n".encode())
    return {model["id"] for model in answer.json()["data"]}


@pytest.mark.parametrize("of_a_tenant", [False, True])
async def test_models_of_hosts_that_are_no_members(of_a_tenant: bool) -> None:
    """A client is told of those that its own tenant's members serve, and of no others."""
    async with faced_overlay() as face:
        victim = face.victim
        own = member_of_beta(victim) if of_a_tenant else host_of(victim)
        line = "another\t8192\t0123456789abcdef\t0123456789abcdef\tfloat32"
        async with victim.unharmed(by=own.peer_id), own.gossiping(victim.honest[0]) as say:
            await say(repair(records=[own.record(models=(line,))], heads=[own.head()]))
            await until(lambda: victim.nodes[0].knowledge.models(own.peer_id), step_s=0.01)
            assert await models(face, ALPHA) == {"toy"}
            assert await models(face, BETA) == ({"toy", "another"} if of_a_tenant else {"toy"})
