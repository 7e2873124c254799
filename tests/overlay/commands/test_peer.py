"""``rhizome peer``: what keeps it from starting, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from overlay.founding import found_overlay
from overlay.home import Home, HomeFile
from overlay.ports import Clock
from overlay.system import SystemClock, SystemEntropy
from tests.overlay.commands.terminal import (
    ROOT,
    TOY,
    PeerProcess,
    Ran,
    rhizome,
    running_peer,
    until,
)

DAY_S = 86_400.0
LONG = ("ask", "hi", "--max-tokens", "60", "--json")


class ShiftedClock:
    """The wall clock, some seconds away."""

    def __init__(self, offset_s: float) -> None:
        self._offset_s = offset_s

    def now_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return SystemClock().unix_s() + self._offset_s


def founded(home: Path, clock: Clock | None = None) -> Home:
    folder = Home.create(home)
    found_overlay(folder, ["default"], clock or SystemClock(), SystemEntropy())
    return folder


def peer(home: Path, *flags: str) -> Ran:
    return rhizome("peer", "--home", str(home), *TOY, *flags)


def test_a_folder_without_a_host_says_what_to_run(home: Path) -> None:
    assert "run 'rhizome init' or 'rhizome join TICKET'" in peer(home).failed(1)
    Home.create(home)
    assert f"{home} holds no leaf.der: run 'rhizome init'" in peer(home).failed(1)


def test_a_folder_in_use_names_the_process(issuer: PeerProcess) -> None:
    line = peer(issuer.home).failed(1)
    assert f"is in use by process {issuer.process.pid}: stop it first" in line
    assert issuer.status()["tenants"] == ["office", "research"]


def test_a_port_that_is_taken_is_named_with_what_to_do(issuer: PeerProcess, home: Path) -> None:
    founded(home)
    address = issuer.status()["addresses"][0]
    line = peer(home, "--port", address.rpartition(":")[2]).failed(1)
    assert line.startswith(f"cannot listen on {address}: Address already in use; take another port")
    assert "--port" in line
    line = peer(home, "--enrol-port", address.rpartition(":")[2]).failed(1)
    assert "--enrol-port" in line
    http = issuer.status()["http"][0].removeprefix("http://")
    line = peer(home, "--http", http).failed(2)
    assert line.startswith(f"port {http.rpartition(':')[2]} of 127.0.0.1 is taken")
    assert "--http" in line


def test_a_certificate_that_ended_long_ago_says_how_to_get_another(home: Path) -> None:
    founded(home, ShiftedClock(-32 * DAY_S)).remove(HomeFile.AUTHORITY)
    line = peer(home).failed(2)
    assert line.startswith(
        "this host's certificate ended more than 30 days ago: set the clock if it is wrong, or get"
    )


def test_the_issuers_host_starts_however_long_it_was_off(home: Path) -> None:
    folder = founded(home, ShiftedClock(-400 * DAY_S))
    before = folder.need(HomeFile.LEAF)
    with running_peer(home) as running:
        assert folder.need(HomeFile.LEAF) != before
        assert "certificate" not in dict(running.status()["posture"])


def test_a_clock_before_the_certificates_start_says_so(home: Path) -> None:
    founded(home, ShiftedClock(DAY_S))
    line = peer(home).failed(2)
    assert line == "this host's clock is before its certificate's start: set the clock"


def test_files_of_another_overlay_or_host_are_refused(home: Path, tmp_path: Path) -> None:
    folder, other = founded(home), founded(tmp_path / "other")
    whole = {file: folder.read(file) for file in HomeFile}

    def put(*files: HomeFile) -> str:
        for file in files:
            folder.write(file, other.need(file))
        line = peer(home).failed(1)
        for file in files:
            folder.write(file, whole[file] or b"")
        return line

    assert "are of two hosts" in put(HomeFile.HOST_KEYS)
    assert "that root did not sign that issuer" in put(HomeFile.ISSUER)
    assert "the certificate is of another overlay" in put(HomeFile.LEAF)
    line = put(HomeFile.ROOT, HomeFile.ISSUER, HomeFile.LEAF, HomeFile.HOST_KEYS)
    assert f"{home} belongs to overlay " in line
    for file in (HomeFile.HOST_KEYS, HomeFile.LEAF, HomeFile.ROOT, HomeFile.ISSUER):
        folder.write(file, b"damaged")
        assert peer(home).failed(1)
        folder.write(file, whole[file] or b"")


def test_a_damaged_authority_is_one_line(home: Path) -> None:
    founded(home).write(HomeFile.AUTHORITY, b"damaged")
    assert peer(home).failed(1)


def test_a_damaged_database_is_one_line_that_names_it(home: Path) -> None:
    folder = founded(home)
    folder.database_path.write_bytes(b"no database " * 1000)
    assert str(folder.database_path) in peer(home).failed(1)


def test_a_folder_open_to_others_is_refused(home: Path) -> None:
    founded(home)
    home.chmod(0o755)
    assert f"run chmod go= '{home}'" in peer(home).failed(1)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('polciy = "cost"', "no such setting: polciy (did you mean policy?)"),
        ('policy = "csot"', "policy: must be one of cost, longest-prefix"),
        ("drain = 30", 'drain: needs a unit and quotes, as in "30s"'),
        ("port = 99999", "port: must be from 0 to 65535"),
        ("port = ", "is not valid TOML"),
        ('http = "0.0.0.0:7403"', "is open to other hosts"),
    ],
)
def test_a_mistake_in_the_settings_file_is_named(home: Path, written: str, words: str) -> None:
    founded(home).config_path.write_text(written + "\n")
    line = rhizome("peer", "--home", str(home)).failed(2)
    assert words in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--policy", "csot"), "--policy: must be one of cost, longest-prefix"),
        (("--drain", "3"), "--drain: '3' needs a unit"),
        (("--interface", "nothing0"), "no interface 'nothing0' with an address; there are: "),
        (("--http", "0.0.0.0:0"), "or --http-insecure to serve it in clear"),
        (
            ("--engine", "tay"),
            "--engine: must be one of embedded, vllm, sglang, llamacpp, ollama, openai, toy, none",
        ),
    ],
)
def test_a_mistake_in_a_flag_is_named(home: Path, flags: tuple[str, ...], words: str) -> None:
    founded(home)
    assert words in rhizome("peer", "--home", str(home), *flags).failed(2)


def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(home: Path) -> None:
    founded(home)
    with running_peer(home, "--toy-decode", "20ms") as running:
        asking = subprocess.Popen(
            [sys.executable, "-m", "overlay", *LONG, "--home", str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            until(lambda: running.status()["open_requests"] == 1)
            running.signal(signal.SIGTERM)
            until(lambda: running.status()["draining"])
            assert running.run(*LONG).failed(1).startswith("this peer is draining: ask another")
            out, err = asking.communicate(timeout=20)
        finally:
            if asking.poll() is None:
                asking.kill()
                asking.wait()
        assert asking.returncode == 0, err
        assert b'"completion_tokens": ' in out
        assert running.ended() == 0
        assert "draining; once more to stop at once" in running.log
        assert "Traceback" not in running.log


def test_a_second_signal_ends_it_at_once(home: Path) -> None:
    founded(home)
    with running_peer(home, "--toy-decode", "60s", "--drain", "1h") as running:
        asking = subprocess.Popen(
            [sys.executable, "-m", "overlay", *LONG, "--home", str(home)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            until(lambda: running.status()["open_requests"] == 1)
            running.signal(signal.SIGINT)
            until(lambda: running.status()["draining"])
            running.signal(signal.SIGINT)
            running.ended()
            _, err = asking.communicate(timeout=20)
        finally:
            if asking.poll() is None:
                asking.kill()
                asking.wait()
        assert asking.returncode == 1
        assert err.startswith(b"rhizome: ")
        assert b"Traceback" not in err
        assert err.count(b"\n") == 1
        assert "stopping at once" in running.log
        assert "Traceback" not in running.log
    with Home(home).locked():
        pass


def test_a_killed_peers_folder_is_good_again(home: Path) -> None:
    founded(home)
    with running_peer(home) as running:
        first = running.status()["generation"]
        running.process.kill()
        running.ended()
    assert (home / "control.sock").exists()
    with running_peer(home) as running:
        assert running.status()["generation"] > first


def test_it_takes_the_policy_of_its_settings_file_and_logs_json(home: Path) -> None:
    founded(home).config_path.write_text('policy = "local"\nlog = "json"\n')
    with running_peer(home, "--engine", "none") as running:
        assert running.status()["policy"] == "local"
        assert running.run("ask", "hi").failed(1) == "no peer that is up serves any model"
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
        assert running.log.startswith('{"time"')


def test_what_is_refused_and_dropped_is_counted_where_it_can_be_scraped(
    issuer: PeerProcess,
) -> None:
    words = ("token create", "--tenant", "office", "--scope", "admin", "--json")
    key = issuer.run(*words).worked().json["api_key"]
    asked = Request(  # noqa: S310 - its own address
        f"{issuer.status()['http'][0]}/metrics", headers={"Authorization": f"Bearer {key}"}
    )
    with urlopen(asked) as answer:  # noqa: S310 - its own address
        lines = answer.read().decode().splitlines()
    for name, results in {
        "connections": ("peer", "client", "refused", "failed"),
        "gossip_objects": ("accepted", "old", "refused", "forgotten", "unreadable"),
        "served_forwards": ("accepted", "refused", "failed"),
    }.items():
        shown = [line.split()[0] for line in lines if line.startswith(f"rhizome_{name}_total{{")]
        assert shown == [f'rhizome_{name}_total{{result="{each}"}}' for each in results]
