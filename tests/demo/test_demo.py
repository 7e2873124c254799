"""The whole demo with a tiny random model: what it writes, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.bench import save_tiny_llama

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_llama(folder, context_tokens=8192)
    return folder


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's path has room for a hundred characters."""
    folder = Path(tempfile.mkdtemp(prefix="rz"))
    yield folder
    shutil.rmtree(folder)


def start(model: Path, temporary: Path, *words: str) -> subprocess.Popen[str]:
    """A demo whose temporary folders lie where the test can look.

    Torch, loaded here to make the model, has set its own folder in this process's environment.
    """
    inherited = {name: value for name, value in os.environ.items() if "TORCH" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "overlay", "demo", "--short", "--model", str(model), *words],
        env={**inherited, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_closed_terminals,  # noqa: PLW1509 - it takes no lock
    )


def heed_closed_terminals() -> None:
    """Under ``nohup`` the tests ignore SIGHUP, and so would whatever they start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def peers_of(temporary: Path) -> list[int]:
    """Processes whose command line names a folder of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(temporary).encode() in line and b"peer" in line:
            found.append(int(entry.name))
    return found


def test_it_shows_what_it_promises_and_writes_it_down(
    model: Path, temporary: Path, tmp_path: Path
) -> None:
    written = tmp_path / "demo.json"
    demo = start(model, temporary, "--json", str(written))
    output, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, output
    seen = json.loads(written.read_text())
    assert [peer["name"] for peer in seen["peers"]] == ["anna", "bert", "cleo"]
    assert len({peer["peer_id"] for peer in seen["peers"]}) == 3
    assert not any(alive(peer["pid"]) for peer in seen["peers"])
    assert set(seen["summary"]) == {"cost", "random", "local"}
    for name, summary in seen["summary"].items():
        requests = [each for each in seen["requests"] if each["policy"] == name]
        assert len(requests) == summary["requests"] == 32
        cached = sum(each["cached_tokens"] for each in requests)
        prompts = sum(each["prompt_tokens"] for each in requests)
        assert summary["hit_rate"] == pytest.approx(cached / prompts)
        assert all(each["prompt_tokens"] >= 500 for each in requests)
        assert {each["tenant"] for each in requests} == {"tenant-a", "tenant-b"}
        assert {each["status"] for each in requests} == {"ok"}
    local = [each for each in seen["requests"] if each["policy"] == "local"]
    assert all(each["served_by"] == each["ingress"] for each in local)
    assert seen["checks"] == dict.fromkeys(
        (
            "outputs_equal_cold_run",
            "no_cross_tenant_hit",
            "all_requests_ended_once",
            "cleaned_up",
        ),
        True,
    )
    assert list(temporary.iterdir()) == []
    assert peers_of(temporary) == []


def started_with_peers(model: Path, temporary: Path) -> subprocess.Popen[str]:
    demo = start(model, temporary)
    deadline = time.monotonic() + 120
    while len(peers_of(temporary)) < 3:
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return demo


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_its_peers_and_removes_its_files(
    name: str, model: Path, temporary: Path
) -> None:
    demo = started_with_peers(model, temporary)
    number = signal.Signals[name]
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + number, output
    assert "Traceback" not in output
    assert ("ended by SIGTERM" in output) == (name == "SIGTERM")
    assert peers_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_its_peers_end_by_themselves_when_it_is_killed(model: Path, temporary: Path) -> None:
    demo = started_with_peers(model, temporary)
    demo.kill()
    demo.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while peers_of(temporary):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_model_that_is_not_there_is_one_clear_line(temporary: Path, tmp_path: Path) -> None:
    demo = start(tmp_path / "nowhere", temporary)
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1, output
    said = [line for line in output.splitlines() if line.startswith("rhizome: ")]
    assert len(said) == 1
    assert "--model" in said[0]
    assert "Traceback" not in output
    assert list(temporary.iterdir()) == []
