"""``openssl s_client`` and ``curl`` as peers and clients that nobody here has written."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import trio

from chaos.world import Host
from overlay.transport import frame
from overlay.transport.hello import HELLO_BYTES_MAX, Hello, decode_hello
from overlay.transport.tls import PEER_ALPN
from tests.attacks.adversary import KeyHolder, member_of_beta
from tests.attacks.faces import CHAT, Face, faced_overlay
from tests.attacks.worlds import real_overlay

OPENSSL, CURL = shutil.which("openssl"), shutil.which("curl")
with_openssl = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl here")
with_curl = pytest.mark.skipif(CURL is None, reason="there is no curl here")

TLS_1_3 = ("-tls1_3",)
ALPN = ("-alpn", PEER_ALPN)


def certified(own: KeyHolder, folder: Path) -> tuple[str, ...]:
    """The flags that show a host's leaf and issuer; its key is written for this test alone."""
    identity = own.identity
    files = {
        "leaf": ssl.DER_cert_to_PEM_cert(identity.leaf),
        "issuer": ssl.DER_cert_to_PEM_cert(identity.issuer),
        "root": ssl.DER_cert_to_PEM_cert(identity.trust.roots.newest),
        "key": identity.keys.identity_pem().decode(),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    flags = ("-cert", "leaf", "-key", "key", "-cert_chain", "issuer", "-CAfile", "root")
    return tuple(str(folder / flag) if flag in files else flag for flag in flags)


async def s_client(host: Host, *flags: str) -> bytes:
    """What the peer says inside TLS to ``openssl s_client``, up to one frame; b"" for nothing."""
    address = host.running.addresses[0]
    command = ["openssl", "s_client", "-connect", str(address), "-quiet", "-verify_return_error"]
    process = await trio.lowlevel.open_process(
        [*command, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    said = b""
    try:
        while len(said) < frame.HEADER_BYTES + 1 and (data := await process.stdout.receive_some()):
            said += data
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    return said


def hello_in(said: bytes) -> Hello:
    size, stream, kind, flags = frame.HEADER.unpack_from(said)
    assert (stream, kind, flags) == (0, frame.HELLO, 0)
    assert size <= HELLO_BYTES_MAX
    return decode_hello(said[frame.HEADER_BYTES : frame.HEADER_BYTES + size])


@with_openssl
async def test_openssl_with_a_leaf_of_the_overlay_hears_hello(tmp_path: Path) -> None:
    """The control of those below: TLS 1.3, the protocol, and a chain that it verifies itself."""
    async with real_overlay() as victim:
        own, host = member_of_beta(victim), victim.honest[0]
        async with victim.unharmed(by=own.peer_id):
            hello = hello_in(await s_client(host, *TLS_1_3, *ALPN, *certified(own, tmp_path)))
            assert hello.peer_id == host.running.peer_id


@with_openssl
async def test_openssl_with_anything_less_hears_nothing(tmp_path: Path) -> None:
    async with real_overlay() as victim:
        own, host = member_of_beta(victim), victim.honest[0]
        shown = certified(own, tmp_path)
        root = shown[-2:]
        async with victim.unharmed(by=own.peer_id):
            for name, flags in {
                "TLS 1.2": ("-tls1_2", *ALPN, *shown),
                "no protocol": (*TLS_1_3, *shown),
                "another protocol": (*TLS_1_3, "-alpn", "h2", *shown),
                "the joiners' protocol": (*TLS_1_3, "-alpn", "rhizome-join/1", *shown),
                "no certificate": (*TLS_1_3, *ALPN, *root),
                "a certificate without its issuer": (*TLS_1_3, *ALPN, *shown[:4], *root),
            }.items():
                assert await s_client(host, *flags) == b"", name


@with_openssl
async def test_openssl_gets_no_session_to_resume(tmp_path: Path) -> None:
    async with real_overlay() as victim:
        own, session = member_of_beta(victim), tmp_path / "session"
        shown = certified(own, tmp_path)
        async with victim.unharmed(by=own.peer_id):
            flags = (*TLS_1_3, *ALPN, *shown, "-sess_out", str(session))
            assert hello_in(await s_client(victim.honest[0], *flags))
            assert not session.exists()


async def curl(face: Face, path: str, *flags: str) -> tuple[int, str]:
    """The status and body that ``curl`` has got; 0 for none."""
    url = f"http://127.0.0.1:{face.port}{path}"
    command = [
        "curl",
        "-s",
        "-q",
        "--noproxy",
        "*",
        "-m",
        "10",
        "-w",
        "\n%{http_code}",
        *flags,
        url,
    ]
    done = await trio.run_process(command, capture_stdout=True, check=False)
    body, _, status = done.stdout.decode().rpartition("\n")
    return int(status), body


@with_curl
async def test_curl_with_a_token_is_answered_and_its_tricks_are_not() -> None:
    async with faced_overlay() as face, face.victim.unharmed():
        shown = ("-H", f"Authorization: Bearer {face.token()}")
        models = await curl(face, "/v1/models", *shown)
        assert models[0] == 200
        assert "toy" in models[1]
        assert (await curl(face, "/v1/models"))[0] == 401
        assert (await curl(face, "/v1/../metrics", "--path-as-is", *shown))[0] == 404
        assert (await curl(face, "/v1/models", "-H", "Host: evil.example", *shown))[0] == 421
        assert (await curl(face, "/v1/models", "-H", "Origin: http://evil.example", *shown))[
            0
        ] == 403
        assert (await curl(face, "/v1/models", "--http2-prior-knowledge", *shown))[0] == 0
        both = ("-H", "Transfer-Encoding: chunked", "-H", "Content-Length: 3", "-d", "abc")
        assert (await curl(face, CHAT, *both, *shown))[0] == 400
