"""Commands as a person types them: in this process, and peers as processes of their own."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from overlay.commands.main import main

ON_LOOPBACK = ("--interface", "lo", "--port", "0", "--enrol-port", "0", "--http", "127.0.0.1:0")
WORDS = "correct horse battery staple"
TOY = ("--engine", "toy", "--no-mdns", *ON_LOOPBACK)
COMMAND_S = 20
START_S = 30.0
STOP_S = 20.0
ROOT = Path(__file__).resolve().parent.parent.parent.parent


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # a document of any shape
        return json.loads(self.out)

    def failed(self, code: int = 1, *, begun: bool = False) -> str:
        """The one line on stderr of a command that failed as it should, perhaps in the middle."""
        assert self.code == code, self
        assert self.out.endswith("\n") if begun and self.out else self.out == "", self
        assert "Traceback" not in self.err
        assert self.err.startswith("rhizome: ")
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("rhizome: ").rstrip("\n")

    def worked(self) -> Ran:
        assert self.code == 0, self
        return self


def rhizome(*words: str, text: str | bytes = "") -> Ran:
    """Runs ``main()`` in this process, ``text`` being its standard input."""
    before = sys.argv
    sys.argv = ["rhizome", *words]
    handler = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(COMMAND_S)
    try:
        with CliRunner().isolation(input=text) as (out, err, _):
            code: object = 0
            try:
                main()
            except SystemExit as error:
                code = error.code
            assert isinstance(code, int)
            return Ran(code=code, out=out.getvalue().decode(), err=err.getvalue().decode())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        sys.argv = before


def out_of_time(*_: object) -> None:
    """Ends a command that should have ended long ago."""
    raise AssertionError("the command does not end")


@dataclass
class PeerProcess:
    """``rhizome peer`` as a process, started and known to be ready."""

    home: Path
    process: subprocess.Popen[bytes]
    posture: str = ""
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return self.home.with_suffix(".log").read_text(errors="replace")

    def run(self, command: str, *words: str, text: str | bytes = "") -> Ran:
        """A command beside this peer."""
        first, *rest = command.split()
        return rhizome(first, *rest, "--home", str(self.home), *words, text=text)

    def status(self) -> dict[str, Any]:
        status = self.run("status", "--json").worked().json
        assert isinstance(status, dict)
        return status

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for its end; the exit code."""
        return self.process.wait(STOP_S)


@contextmanager
def running_peer(home: Path, *flags: str) -> Iterator[PeerProcess]:
    """A peer that has printed its posture; it is gone when the block is left."""
    with home.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "overlay", "peer", "--home", str(home), *TOY, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    peer = PeerProcess(home, process)
    try:
        peer.posture = read_posture(peer)
        yield peer
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_posture(peer: PeerProcess) -> str:
    """What the peer prints once everything is open: it ends with the HTTP line."""
    stdout = peer.process.stdout
    assert stdout is not None
    text = b""
    ends = time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while not (text.endswith(b"\n") and b"http" in text):
            assert selector.select(ends - time.monotonic()), f"no posture: {peer.log}"
            data = os.read(stdout.fileno(), 1 << 16)
            assert data, f"the peer ended: {peer.log}"
            text += data
    return text.decode()


def until(condition: Any, timeout_s: float = STOP_S) -> None:  # any function without arguments
    """Polls until ``condition()`` holds."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "it did not come true"
        time.sleep(0.02)
