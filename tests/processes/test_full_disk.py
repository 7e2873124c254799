"""A disk that takes no more bytes, made with RLIMIT_FSIZE: nothing is lost, serving goes on."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from overlay.client import PeerClient
from overlay.demo.cluster import ON_LOOPBACK, PeerProcess, running_cluster
from overlay.request import Finished

pytestmark = pytest.mark.processes


def limit_file_size(peer: PeerProcess, size_bytes: int) -> None:
    """No file of the peer's process may grow beyond this from now on."""
    _, hard = resource.prlimit(peer.pids[-1], resource.RLIMIT_FSIZE)
    resource.prlimit(peer.pids[-1], resource.RLIMIT_FSIZE, (size_bytes, hard))


async def ask(peer: PeerProcess, text: str) -> bool:
    """Whether a question gets an end; the toy's text may be empty."""
    async with PeerClient.connect(home=peer.home) as client:
        messages = [{"role": "user", "content": text}]
        events = [event async for event in client.chat(messages, max_tokens=4)]
        return isinstance(events[-1], Finished)


async def test_a_running_peer_serves_on_with_a_full_disk_and_stores_later(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, ("anna", "bert"), ("default",)) as cluster:
        await cluster.create()
        await cluster.start("--engine", "toy", "--policy", "local")
        full, other = cluster.peers
        written = full.home / "state.sqlite-wal"
        limit_file_size(full, written.stat().st_size)
        with trio.fail_after(60):
            while "no space is left" not in full.log.read_text():
                assert await ask(other, f"{trio.current_time()} " * 40)
                assert await ask(full, "still there?")
        limit_file_size(full, resource.RLIM_INFINITY)
        size = written.stat().st_size
        with trio.fail_after(60):
            while written.stat().st_size == size:
                await trio.sleep(0.1)
        assert await ask(full, "still there?")
        assert "Traceback" not in full.log.read_text()


def test_a_peer_that_cannot_store_its_generation_says_so_and_loses_nothing(tmp_path: Path) -> None:
    home = tmp_path / "anna"
    rhizome(home, "init")
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    done = rhizome(
        home, "peer", *ON_LOOPBACK, "--engine", "toy", limit_bytes=0, check=False, timeout_s=60
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("rhizome: no space is left ")
    assert "Traceback" not in done.stderr
    for name, content in before.items():
        assert (home / name).read_bytes() == content


def rhizome(
    home: Path,
    *words: str,
    limit_bytes: int | None = None,
    check: bool = True,
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.run(
        [sys.executable, "-m", "overlay", *words, "--home", str(home)],
        check=check,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        preexec_fn=limit,
    )
