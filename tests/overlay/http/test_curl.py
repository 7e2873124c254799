"""curl as an independent client of a real HTTP face on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.overlay.http.certificate import make_certificate
from tests.overlay.http.peers import Served, served, token_of

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3})


@dataclass(frozen=True, kw_only=True)
class Said:
    """What curl printed: the status, and the body."""

    status: int
    body: bytes


async def curl(*words: str, stdin: bytes = b"") -> Said:
    assert CURL is not None
    command = [CURL, "-q", "-sS", "--noproxy", "*", "-w", "\n%{http_code}", *words]
    ran = await trio.run_process(command, stdin=stdin, capture_stdout=True, capture_stderr=True)
    body, _, status = ran.stdout.rpartition(b"\n")
    return Said(status=int(status), body=body)


def authorised(peer: Served) -> tuple[str, ...]:
    bearer = token_of(peer.world, "default")
    return "-H", f"Authorization: Bearer {bearer}", "-H", "Content-Type: application/json"


async def test_it_asks_by_address_and_by_name_and_reuses_its_connection() -> None:
    async with served() as peer:
        chat = f"{peer.url}/v1/chat/completions"
        said = await curl(*authorised(peer), "-d", BODY, chat)
        assert said.status == 200
        assert json.loads(said.body)["usage"]["completion_tokens"] == 3
        by_name = peer.url.replace("127.0.0.1", "localhost")
        assert (await curl("-4", f"{by_name}/health")).status == 200
        last = ("-w", "\n%{num_connects}", f"{peer.url}/health", f"{peer.url}/health")
        assert (await curl(*last)).status == 0, "the second request needed no new connection"


async def test_it_streams_and_sends_large_and_chunked_bodies() -> None:
    async with served() as peer:
        chat = f"{peer.url}/v1/chat/completions"
        streaming = json.dumps({**json.loads(BODY), "stream": True})
        said = await curl(*authorised(peer), "-N", "-d", streaming, chat)
        assert said.body.endswith(b"data: [DONE]\n\n")
        chunked = ("-H", "Transfer-Encoding: chunked", "--data-binary", "@-")
        said = await curl(*authorised(peer), *chunked, chat, stdin=BODY.encode())
        assert said.status == 200
        large = json.dumps({**json.loads(BODY), "user": "x" * 500_000}).encode()
        waits = ("-H", "Expect: 100-continue", "--data-binary", "@-")
        assert (await curl(*authorised(peer), *waits, chat, stdin=large)).status == 200
        beyond = b"x" * (2 << 20)
        assert (await curl(*authorised(peer), *waits, chat, stdin=beyond)).status == 413


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("-H", "Host: evil.example"), 421),
        (("--resolve", "evil.example:PORT:127.0.0.1", "http://evil.example:PORT/health"), 421),
        (("-H", "Origin: http://evil.example"), 403),
        (("-H", "Host:"), 400),
        (("-H", "Content-Length: 3", "-H", "Transfer-Encoding: chunked", "-d", "abc"), 400),
        (("-X", "CONNECT"), 405),
        (("--http1.0",), 200),
        (("-X", "TRACE"), 405),
        (("-H", "X: " + "x" * 20_000), 431),
        (("--path-as-is", "URL/health/../metrics"), 404),
        (("URL//health",), 404),
    ],
)
async def test_its_tricks_are_refused(words: tuple[str, ...], status: int) -> None:
    async with served() as peer:
        port = peer.url.rpartition(":")[2]
        said = [word.replace("PORT", port).replace("URL", peer.url) for word in words]
        if not any("://" in word and "Origin" not in word for word in said):
            said.append(f"{peer.url}/health")
        assert (await curl(*said)).status == status
        assert (await curl(f"{peer.url}/health")).status == 200


async def test_it_trusts_the_operators_certificate_and_no_other(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    settings = {"http_cert": str(certificate.cert), "http_key": str(certificate.key)}
    async with served(**settings) as peer:
        health = f"{peer.url}/health"
        assert (await curl("--cacert", str(certificate.cert), health)).status == 200
        with pytest.raises(subprocess.CalledProcessError, match="60"):
            await curl(health)
        with pytest.raises(subprocess.CalledProcessError):
            await curl("--cacert", str(certificate.cert), "--tls-max", "1.1", health)
        with pytest.raises(subprocess.CalledProcessError):
            await curl(health.replace("https", "http"))
