"""Hosts of one overlay on loopback, each of which can run the code of another revision.

Commands are those of the code that the host runs at the time, as its owner would type them.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from overlay.demo.cluster import ON_LOOPBACK

OLD_DEFAULT = "1a63291"
"""What the present code is tried beside where nobody names another revision."""

REPOSITORY = Path(__file__).parents[2]
STARTS_S = 120.0
STOPS_S = 30.0
AGREES_S = 60.0
POLL_S = 0.3
LOG_LINES_SHOWN = 20

TOY = ("--engine", "toy", "--toy-decode", "10ms", "--gossip-period", "1s", "--drain", "20s")


@dataclass(frozen=True)
class Code:
    """All of the repository at one revision."""

    name: str
    folder: Path


PRESENT = Code("present", REPOSITORY)


def code_of(revision: str, folder: Path) -> Code:
    """Writes a revision out, without its history.

    Raises:
        LookupError: When it is not to be had here; the message says what to do.
    """
    words = ["git", "-C", str(REPOSITORY), "archive", "--format=tar", f"{revision}^{{tree}}"]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
    except FileNotFoundError:
        raise LookupError("git is needed: it has the revision to upgrade from") from None
    if done.returncode != 0:
        raise LookupError(
            f"revision {revision} is not in this clone's history: fetch it "
            "(git fetch --unshallow), or name another one (make test-upgrade OLD=REVISION)"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Code(revision, folder)


@dataclass(eq=False)
class Host:
    """One host: its state folder, and while it runs its process and the code of that.

    ``address`` and ``http`` are where it listens; empty while it does not.
    """

    name: str
    home: Path
    code: Code
    process: trio.Process | None = None
    peer_id: str = ""
    address: str = ""
    http: str = ""
    exits: list[int] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.home.with_suffix(".log")

    async def command(self, *words: str, text: str = "") -> bytes:
        """Runs a ``rhizome`` command of this host's code; raises RuntimeError where it fails."""
        done = await trio.run_process(
            [sys.executable, "-m", "overlay", *words, "--home", str(self.home)],
            stdin=text.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            **self._place(),
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"{self.name} ({self.code.name}): {words[0]} failed: {said}")
        return bytes(done.stdout)

    async def tells(self, *words: str) -> Any:  # whatever JSON the command prints
        """What a command prints with ``--json``."""
        return json.loads(await self.command(*words, "--json"))

    def _place(self) -> dict[str, Any]:
        """Where a process must be for this host's code to run."""
        folder = str(self.code.folder)
        return {"cwd": folder, "env": {**os.environ, "PYTHONPATH": folder}}

    async def start(self, code: Code, *flags: str) -> None:
        """Starts a peer of some code on this host's folder, and waits until it answers."""
        self.code = code
        words = ("-m", "overlay", "peer", "--home", str(self.home), "--with-parent", *ON_LOOPBACK)
        with self.log.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, *words, *flags],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._place(),
            )
        with trio.move_on_after(STARTS_S):
            while self.process.poll() is None:
                with suppress(RuntimeError):
                    status = await self.tells("status")
                    self.peer_id = status["peer_id"]
                    self.address, self.http = status["addresses"][0], status["http"][0]
                    return
                await trio.sleep(POLL_S)
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        raise RuntimeError("\n".join([f"{self.name} ({code.name}) does not run:", *lines]))

    async def stop(self) -> None:
        """SIGTERM: it drains and ends. What it did is in ``exits``; killed where it takes long."""
        process = self.process
        if process is None:
            return
        process.terminate()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(STOPS_S):
                await process.wait()
            if process.poll() is None:
                process.kill()
            self.exits.append(await process.wait())
            if process.stdin is not None:
                await process.stdin.aclose()
        self.process, self.address, self.http = None, "", ""

    async def replace(self, code: Code) -> None:
        """Another revision takes over on the same folder."""
        await self.stop()
        await self.start(code, *TOY)


async def found(folder: Path, names: tuple[str, ...], code: Code) -> list[Host]:
    """Hosts of one new overlay, made by that code's commands; none of them runs."""
    hosts = [Host(name, folder / name, code) for name in names]
    issuer = hosts[0]
    await issuer.command("init")
    await issuer.start(code, "--engine", "none")
    for host in hosts[1:]:
        ticket = (await issuer.tells("invite"))["ticket"]
        await host.command("join", "-", text=ticket)
    await issuer.stop()
    return hosts


async def until_all(
    hosts: list[Host], words: tuple[str, ...], holds: Callable[[Any], bool]
) -> None:
    """Waits until what a command says on each host is as it should be.

    Raises:
        AssertionError: When it is not in time on one, with what it said there.
    """
    for host in hosts:
        said: Any = None
        with trio.move_on_after(AGREES_S) as scope:
            while not holds(said := await host.tells(*words)):
                await trio.sleep(POLL_S)
        assert not scope.cancelled_caught, f"{host.name} ({host.code.name}) says {said}"
