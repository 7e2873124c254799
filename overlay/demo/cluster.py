"""Real peer processes on loopback, made with the commands that a person would type.

A peer's standard input is a pipe that only this process holds open, so that a peer ends by itself
when this process is gone, however that ended (``overlay.parent``).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from overlay.control.client import call
from overlay.control.messages import GetStatus, InviteReply, StatusReply
from overlay.errors import HomeError, OverlayError
from overlay.home import Home
from overlay.parent import LIVE_ON

START_TIMEOUT_S = 120.0
"""Loading a model takes seconds; a busy machine, or a first conversion, minutes."""

MEET_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.1
LOG_LINES_SHOWN = 15

ON_LOOPBACK = ("--interface", "lo", "--port", "0", "--enrol-port", "0", "--http", "127.0.0.1:0")


@dataclass
class PeerProcess:
    """One peer: its name, state folder and, while it runs, its process."""

    name: str
    home: Path
    process: trio.Process | None = None
    peer_id: str = ""
    pids: list[int] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.home.with_suffix(".log")

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def status(self) -> StatusReply:
        """What ``rhizome status`` shows."""
        return await call(Home(self.home), GetStatus(), StatusReply)

    def failure(self) -> HomeError:
        """Why it ended, from the last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return HomeError("\n".join([f"peer {self.name} ended unexpectedly:", *lines]))


class Cluster:
    """Some peers of one overlay; the first one is the issuer."""

    def __init__(self, folder: Path, names: Sequence[str], tenants: Sequence[str]) -> None:
        self.peers = [PeerProcess(name, folder / name) for name in names]
        self._tenants = tenants

    async def create(self, *flags: str) -> None:
        """Makes the overlay: ``init`` on the first host, ``invite`` and ``join`` for the others."""
        issuer = self.peers[0]
        tenants = [word for tenant in self._tenants for word in ("--tenant", tenant)]
        await rhizome("init", "--home", str(issuer.home), *tenants)
        await self.start_peer(issuer, *flags, "--engine", "none")
        await self.ready(issuer)
        for peer in self.peers[1:]:
            output = await rhizome("invite", "--json", "--home", str(issuer.home))
            ticket = msgspec.json.decode(output, type=InviteReply).ticket
            await rhizome("join", "-", "--home", str(peer.home), text=ticket)
        await self.stop_peer(issuer)

    async def start(self, *flags: str) -> None:
        """Starts one peer after the other, and returns when each knows all the others.

        All at once, the first to be loaded would measure itself while the others load beside it,
        and be taken for slow.
        """
        for peer in self.peers:
            await self.start_peer(peer, *flags)
            await self.ready(peer)
        await self.met()

    async def start_peer(
        self, peer: PeerProcess, *flags: str, program: Sequence[str] = ("-m", "overlay")
    ) -> None:
        """Starts one process; its log goes beside its state folder.

        ``program`` stands for ``rhizome``: what the interpreter runs.
        """
        words = (*program, "peer", "--home", str(peer.home), "--with-parent", *ON_LOOPBACK)
        with peer.log.open("ab") as log:
            peer.process = await trio.lowlevel.open_process(
                [sys.executable, *words, *flags],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        peer.pids.append(peer.process.pid)

    async def ready(self, peer: PeerProcess) -> StatusReply:
        """Waits until a peer answers on its socket."""
        with trio.move_on_after(START_TIMEOUT_S):
            while peer.runs:
                with suppress(OverlayError, OSError):
                    status = await peer.status()
                    peer.peer_id = status.peer_id
                    return status
                await trio.sleep(POLL_S)
        raise peer.failure()

    async def met(self) -> None:
        """Waits until every running peer has every other one up."""
        running = [peer for peer in self.peers if peer.runs]
        with trio.move_on_after(MEET_TIMEOUT_S):
            while True:
                statuses = [await peer.status() for peer in running]
                if all(len(status.peers) == len(running) - 1 for status in statuses):
                    return
                await trio.sleep(POLL_S)
        raise HomeError(f"the peers did not find each other within {MEET_TIMEOUT_S:g} s")

    async def let_go(self) -> None:
        """Lets every peer live on without this process."""
        for peer in self.peers:
            if peer.process is not None and peer.process.stdin is not None:
                await peer.process.stdin.send_all(LIVE_ON)

    async def stop(self) -> None:
        """Ends every peer, all at once."""
        async with trio.open_nursery() as nursery:
            for peer in self.peers:
                nursery.start_soon(self.stop_peer, peer)

    async def stop_peer(self, peer: PeerProcess) -> None:
        """Ends one peer: politely, and if it takes long, at once."""
        process = peer.process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(STOP_TIMEOUT_S):
                await process.wait()
            if process.poll() is None:
                process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdin is not None:
                await process.stdin.aclose()
        peer.process = None


@asynccontextmanager
async def running_cluster(
    folder: Path, names: Sequence[str], tenants: Sequence[str], *, keep: bool = False
) -> AsyncIterator[Cluster]:
    """A cluster whose processes are gone when the block is left, however it is left.

    With ``keep`` they go on where it is left well.
    """
    cluster = Cluster(folder, names, tenants)
    stays = False
    try:
        yield cluster
        if keep:
            await cluster.let_go()
        stays = keep
    finally:
        if not stays:
            with trio.CancelScope(shield=True):
                await cluster.stop()


async def rhizome(*words: str, text: str = "") -> bytes:
    """Runs a command to its end; its standard output.

    Raises:
        HomeError: When it fails, with what it printed.
    """
    done = await trio.run_process(
        [sys.executable, "-m", "overlay", *words],
        stdin=text.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise HomeError(f"rhizome {words[0]} failed: {said}")
    return bytes(done.stdout)
