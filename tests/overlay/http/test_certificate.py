"""TLS of the HTTP face: the operator's files as they change, and certificates of the overlay."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from trio.testing import MockClock

from chaos.clock import VirtualClock
from chaos.world import world_of
from overlay.address import Address
from overlay.commands.ca import command as ca
from overlay.config import PeerConfig
from overlay.errors import ConfigError
from overlay.founding import found_overlay
from overlay.home import Home
from overlay.http.certificate import LOOK_S, IssuedCertificate, OperatorsCertificate
from overlay.http.face import certificate_of, serve_http_face
from overlay.identity import load_identity
from overlay.issuer import IssuerDesk
from overlay.system import SystemClock, SystemEntropy
from security.certificate import ISSUER_LIFETIME_S, make_issuer, make_root, renew_issuer
from security.errors import MalformedName
from security.http_certificate import HttpCertificate, make_http_certificate
from tests.overlay.http.certificate import Certificate, make_certificate
from tests.overlay.http.peers import QUICK, SOON_S, served
from tests.overlay.http.test_curl import CURL, curl
from tests.security.world import seeded

ANY = Address("127.0.0.1", 0)
LIFE_S = 3600.0


def another(folder: Path, name: str = "other") -> Certificate:
    made = folder / name
    made.mkdir()
    return make_certificate(made)


def put(new: Path, old: Path) -> None:
    """Replaces a file as renewing tools do."""
    new.replace(old)


class TestTheOperators:
    def test_without_any_it_is_plain(self) -> None:
        assert certificate_of(PeerConfig(http=ANY), None, [], SystemClock()) is None

    @pytest.mark.parametrize("wrong", ["missing", "no certificate", "another key", "locked key"])
    def test_one_that_cannot_be_used_is_said_in_one_line(self, wrong: str, tmp_path: Path) -> None:
        made = make_certificate(tmp_path)
        cert, key = made.cert, made.key
        if wrong == "missing":
            cert = tmp_path / "missing.pem"
        elif wrong == "no certificate":
            cert.write_text("nothing")
        elif wrong == "another key":
            key = another(tmp_path).key
        else:
            key = made.locked_key
        config = PeerConfig(http=ANY, http_cert=str(cert), http_key=str(key))
        with pytest.raises(ConfigError, match="http_cert or http_key cannot be used") as caught:
            certificate_of(config, None, [], SystemClock())
        assert "\n" not in str(caught.value)

    def test_a_renewed_one_counts_once_both_files_are_there(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made, new = make_certificate(tmp_path), another(tmp_path)
        certificate = OperatorsCertificate(str(made.cert), str(made.key))
        first = certificate.context
        certificate.look()
        assert certificate.context is first
        put(new.cert, made.cert)
        for _ in range(3):
            certificate.look()
            assert certificate.context is first
        assert len(caplog.records) == 1
        put(new.key, made.key)
        certificate.look()
        assert certificate.context is not first
        second = certificate.context
        made.key.unlink()
        made.cert.write_text("damaged")
        certificate.look()
        assert certificate.context is second
        assert "PRIVATE" not in caplog.text

    async def test_a_running_server_shows_the_new_one_and_keeps_its_connections(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("overlay.http.certificate.LOOK_S", 0.01)
        made, new = make_certificate(tmp_path), another(tmp_path)
        old_client, new_client = made.client(), new.client()
        settings = {"http_cert": str(made.cert), "http_key": str(made.key)}
        async with served(**settings) as peer:
            port = int(peer.url.rpartition(":")[2])
            old = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=old_client)
            await old.do_handshake()
            put(new.cert, made.cert)
            put(new.key, made.key)
            while not await shows(port, new_client):
                await trio.sleep(0.01)
            assert not await shows(port, old_client)
            await old.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert bytes(await old.receive_some(1000)).startswith(b"HTTP/1.1 200")
            await old.aclose()


async def shows(port: int, trusting: ssl.SSLContext) -> bool:
    """Whether a client that trusts so much finds somebody."""
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=trusting)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        return False
    finally:
        await trio.aclose_forcefully(stream)
    return True


class TestTheOverlays:
    async def test_it_is_made_again_at_half_of_its_life(self, autojump_clock: MockClock) -> None:
        clock = VirtualClock()
        root = make_root(seeded(1), clock.unix_s())
        issuer = make_issuer(root, seeded(2), clock.unix_s())
        made: list[HttpCertificate] = []

        def make() -> HttpCertificate:
            now_unix_s = clock.unix_s()
            made.append(
                make_http_certificate(issuer, ["a"], seeded(3), now_unix_s, lifetime_s=LIFE_S)
            )
            return made[-1]

        certificate = IssuedCertificate(make, frozenset({"a"}), clock)
        first = certificate.context
        with trio.move_on_after(LIFE_S / 2 - LOOK_S):
            await certificate.keep()
        assert (len(made), certificate.context) == (1, first)
        with trio.move_on_after(2 * LOOK_S):
            await certificate.keep()
        assert len(made) == 2
        assert certificate.context is not first
        assert made[1].not_after_unix_s - made[0].not_after_unix_s >= LIFE_S / 2

    async def test_while_its_issuer_makes_none_the_old_one_stays(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = VirtualClock()
        root = make_root(seeded(1), clock.unix_s())
        issuers = [make_issuer(root, seeded(2), clock.unix_s() - ISSUER_LIFETIME_S + LIFE_S)]

        def make() -> HttpCertificate:
            return make_http_certificate(issuers[-1], ["a"], seeded(3), clock.unix_s())

        certificate = IssuedCertificate(make, frozenset({"a"}), clock)
        first = certificate.context
        with trio.move_on_after(2 * LIFE_S):
            await certificate.keep()
        assert certificate.posture()[0][1].endswith("'rhizome ca issuer renew' on its host")
        assert len(caplog.records) == 1
        assert certificate.context is not first, "it was made again until there was no time left"
        last = certificate.context
        issuers.append(renew_issuer(root, issuers[0], seeded(4), clock.unix_s()))
        with trio.move_on_after(2 * LOOK_S):
            await certificate.keep()
        assert certificate.context is not last
        assert certificate.posture() == []

    def test_a_name_that_only_a_peer_has_is_refused(self, tmp_path: Path) -> None:
        desk = founded(tmp_path)[1]
        config = PeerConfig(http=ANY, http_names=("x.peer.rhizome.internal",))
        with pytest.raises(MalformedName, match="peers' own"):
            certificate_of(config, desk, [], SystemClock())

    async def test_clients_that_trust_the_root_call_by_name_and_by_address(
        self, tmp_path: Path
    ) -> None:
        async with issued_face(tmp_path, "llm.example", "10.9.9.9") as face:
            assert face.urls == (
                f"https://llm.example:{face.port}",
                f"https://127.0.0.1:{face.port}",
            )
            assert await shows(face.port, ssl.create_default_context(cafile=str(face.root)))
            assert not await shows(face.port, ssl.create_default_context())

    @pytest.mark.skipif(CURL is None, reason="curl is not installed")
    async def test_curl_takes_it_and_only_under_its_names(self, tmp_path: Path) -> None:
        async with issued_face(tmp_path, "llm.example") as face:
            trusting = ("--cacert", str(face.root))
            resolved = ("--resolve", f"llm.example:{face.port}:127.0.0.1")
            for url in face.urls:
                said = await curl(*trusting, *resolved, f"{url}/health")
                assert said.status == 200
            other = ("--resolve", f"other.example:{face.port}:127.0.0.1")
            with pytest.raises(subprocess.CalledProcessError):
                await curl(*trusting, *other, f"https://other.example:{face.port}/health")
            with pytest.raises(subprocess.CalledProcessError):
                await curl(f"{face.urls[-1]}/health")


@dataclass(frozen=True, kw_only=True)
class IssuedFace:
    """A face with a certificate of an overlay whose exported root is a file."""

    urls: tuple[str, ...]
    root: Path

    @property
    def port(self) -> int:
        return int(self.urls[0].rpartition(":")[2])


def founded(folder: Path) -> tuple[Home, IssuerDesk]:
    home = Home.create(folder / "home")
    found_overlay(home, ["default"], SystemClock(), SystemEntropy())
    identity = load_identity(home)
    return home, IssuerDesk(home, identity, SystemClock(), SystemEntropy(), lambda _: None)


@asynccontextmanager
async def issued_face(folder: Path, *names: str) -> AsyncIterator[IssuedFace]:
    home, desk = founded(folder)
    root = folder / "root.pem"
    exported = CliRunner().invoke(ca, ["export", "--home", str(home.path)], catch_exceptions=False)
    root.write_text(exported.output)
    config = PeerConfig(http=ANY, http_names=names)
    with trio.fail_after(SOON_S):
        async with world_of(1, [QUICK]) as world, trio.open_nursery() as nursery:
            node = world.hosts[0].running
            urls = await nursery.start(serve_http_face, node, config, (), desk)
            yield IssuedFace(urls=urls, root=root)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "--http-cert and --http-key.*--http-name.*--http-insecure"),
        ({"http_names": ("a",), "http_insecure": True}, "contradicts"),
        ({"http_names": ("a",), "http_cert": "c", "http_key": "k"}, "contradicts"),
    ],
)
def test_beyond_loopback_it_says_what_to_give(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PeerConfig(http=Address("192.0.2.1", 1), **settings)  # type: ignore[arg-type]  # by name
