"""``rhizome ca http-name``, and peers whose HTTP API has a certificate of the overlay."""

from __future__ import annotations

import json
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from overlay.control.handler import NOT_AN_ISSUER
from tests.overlay.commands.terminal import PeerProcess, rhizome, running_peer, until
from tests.overlay.commands.test_tenant import STRANGER, founded, joined
from tests.overlay.http.test_curl import CURL


def grants(peer: PeerProcess, *words: str) -> dict[str, list[str]]:
    listed = peer.run("ca http-name", *words, "--json").worked().json
    return {host["peer_id"]: host["names"] for host in listed["hosts"]}


def test_names_are_granted_shown_and_taken_back(tmp_path: Path) -> None:
    with founded(tmp_path) as first, joined(first, tmp_path / "second") as far:
        second = far.status()["peer_id"]
        assert "no host may have" in first.run("ca http-name").worked().out
        first.run("ca http-name", second, "LLM.example.", "10.0.0.5").worked()
        assert grants(first) == {second: ["10.0.0.5", "llm.example"]}
        shown = first.run("ca http-name").worked().out
        assert second in shown
        assert "10.0.0.5, llm.example" in shown
        assert grants(first, first.status()["peer_id"]) == {first.status()["peer_id"]: []}
        first.run("ca http-name", second, "10.0.0.5", "--remove").worked()
        assert grants(first, second) == {second: ["llm.example"]}
        for words, line in (
            ((second, "10.0.0.5", "--remove"), "10.0.0.5: not granted to that host"),
            ((second, "a_b"), "neither a DNS name nor an IP address"),
            ((second, "localhost"), "every host's own name"),
            ((second, *(f"h{n}" for n in range(17))), "at most 16 HTTP names"),
            ((STRANGER, "llm.example"), "enrolled no such host"),
            (("nobody", "llm.example"), "no PeerId"),
        ):
            assert line in first.run("ca http-name", *words).failed(2), words
        assert far.run("ca http-name").failed(2) == NOT_AN_ISSUER
        assert "name what is to be removed" in first.run("ca http-name", second, "--remove").err
        assert grants(first) == {second: ["llm.example"]}
    with running_peer(first.home) as again:
        assert grants(again) == {second: ["llm.example"]}


def test_a_ticket_grants_names_and_says_how_they_are_used(tmp_path: Path) -> None:
    with founded(tmp_path) as first:
        assert "every host's own" in first.run("invite", "--http-name", "localhost").failed(2)
        invited = first.run("invite", "--http-name", "LLM.example").worked()
        assert "rhizome peer --http-name 'llm.example'" in invited.err
        rhizome("join", invited.out.split()[0], "--home", str(tmp_path / "second")).worked()
        assert list(grants(first).values()) == [["llm.example"]]
        flags = ("--http-name", "llm.example", "--bootstrap", first.status()["addresses"][0])
        with running_peer(tmp_path / "second", *flags) as far:
            assert far.status()["http"][0].startswith("https://llm.example:")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_trusts_a_host_that_is_no_issuers_under_its_names_alone(tmp_path: Path) -> None:
    with founded(tmp_path) as first:
        with joined(first, tmp_path / "second") as far:
            second = far.status()["peer_id"]
            address = first.status()["addresses"][0]
        named = ("--http-name", "llm.example", "--bootstrap", address)
        with running_peer(tmp_path / "second", *named) as far:
            assert "closed until there is a certificate" in far.posture
            assert f"run: rhizome ca http-name {second} llm.example" in far.posture
            first.run("ca http-name", second, "llm.example").worked()
            until(lambda: far.status()["http"], timeout_s=40)
            (url,) = far.status()["http"]
            port = url.rpartition(":")[2]
            assert url == f"https://llm.example:{port}"
            kept = tmp_path / "second" / "http.pem"
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
            root = tmp_path / "root.pem"
            root.write_text(far.run("ca export").worked().out)
            assert health(root, "llm.example", port) == {"status": "ok"}
            for other in ("other.example", "127.0.0.1"):
                with pytest.raises(subprocess.CalledProcessError):
                    health(root, other, port)
            with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
                urllib.request.urlopen(f"https://127.0.0.1:{port}/health", timeout=20)
        first.process.terminate()
        first.ended()
        with running_peer(tmp_path / "second", *named) as alone:
            port = alone.status()["http"][0].rpartition(":")[2]
            assert health(root, "llm.example", port) == {"status": "ok"}


def health(root: Path, name: str, port: str) -> dict[str, str]:
    assert CURL is not None
    words = ("--cacert", str(root), "--resolve", f"{name}:{port}:127.0.0.1")
    url = f"https://{name}:{port}/health"
    command = [CURL, "-q", "-sS", "--noproxy", "*", *words, url]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {"status": said["status"]}


def test_a_host_whose_issuer_is_away_runs_and_opens_its_api_when_it_is_back(
    tmp_path: Path,
) -> None:
    with founded(tmp_path) as first, joined(first, tmp_path / "second") as far:
        second, address = far.status()["peer_id"], first.status()["addresses"][0]
        first.run("ca http-name", second, "llm.example").worked()
    port = address.rpartition(":")[2]
    named = ("--http-name", "llm.example", "--bootstrap", address)
    with running_peer(tmp_path / "second", *named) as far:
        assert far.status()["http"] == []
        assert "closed until there is a certificate" in far.posture
        assert far.run("ask", "hello", "--max-tokens", "1").worked()
        with running_peer(first.home, "--port", port):
            until(lambda: far.status()["http"], timeout_s=40)
            assert "closed" not in far.run("status").worked().out
    assert rhizome("ca", "http-name", "--help").worked().out.count("Example") == 1
