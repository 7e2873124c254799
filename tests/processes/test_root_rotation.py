"""Real peers under a root that is changed: one goes on, one was off for all of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from overlay.commands.ca_rotation import RootStatus
from overlay.control.messages import InviteReply
from overlay.demo.cluster import Cluster, PeerProcess, rhizome, running_cluster
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from security.certificate import parse_issuer
from tests.processes.test_expiry import FLAGS, ask, free_port, until, until_linked

pytestmark = pytest.mark.processes

WORDS = "correct horse battery staple"
WAIT_S = 90.0


def number_of(peer: PeerProcess) -> int:
    """The number of the root bundle that a peer has stored."""
    return load_identity(Home(peer.home)).trust.roots.number


def shows_the_newest(peer: PeerProcess) -> bool:
    folder = Home(peer.home)
    newest = load_identity(folder).trust.roots.newest
    try:
        return bool(parse_issuer(folder.need(HomeFile.ISSUER), newest))
    except Exception:  # noqa: BLE001 - by the old root
        return False


class Overlay:
    """Three hosts; the first one is the issuer's, and is found at the same ports each time."""

    def __init__(self, cluster: Cluster, words: Path) -> None:
        self.cluster = cluster
        self.issuer, self.host, self.late = cluster.peers
        words.write_text(WORDS + "\n")
        self._words = ("--passphrase-file", str(words))
        port = free_port()
        self._issuing = ("--port", port, "--enrol-port", free_port())
        self._known = ("--bootstrap", f"127.0.0.1:{port}")

    async def begin(self) -> None:
        home = ("--home", str(self.issuer.home))
        await rhizome("init", *home, "--tenant", "default", *self._words)
        await self.start_issuer()
        for peer in (self.host, self.late):
            told = await rhizome("invite", "--json", *home)
            ticket = msgspec.json.decode(told, type=InviteReply).ticket
            await rhizome("join", "-", "--home", str(peer.home), text=ticket)
            await self.start(peer)

    async def start_issuer(self) -> None:
        await self.cluster.start_peer(self.issuer, *FLAGS, *self._issuing)
        await self.cluster.ready(self.issuer)

    async def start(self, peer: PeerProcess) -> None:
        await self.cluster.start_peer(peer, *FLAGS, *self._known)
        await self.cluster.ready(peer)

    async def ca(self, *words: str) -> None:
        """A step at the issuer's host, whose peer is stopped for it."""
        await self.cluster.stop_peer(self.issuer)
        await rhizome("ca", *words, "--home", str(self.issuer.home), *self._words)
        await self.start_issuer()

    async def status(self) -> RootStatus:
        told = await rhizome("ca", "root", "status", "--json", "--home", str(self.issuer.home))
        return msgspec.json.decode(told, type=RootStatus)

    async def until_next(self, words: str) -> None:
        with trio.fail_after(WAIT_S):
            while words not in (await self.status()).next:
                await trio.sleep(0.2)


def test_a_root_is_changed_under_running_peers(tmp_path: Path) -> None:
    async def main() -> None:
        names = ("anna", "boris", "clara")
        async with running_cluster(tmp_path, names, ("default",)) as cluster:
            overlay = Overlay(cluster, tmp_path / "words")
            issuer, host, late = cluster.peers
            await overlay.begin()
            await until_linked(host, 2)
            await cluster.stop_peer(late)

            await overlay.ca("root", "rotate")
            await until(lambda: number_of(host) == 2)
            with trio.fail_after(WAIT_S):
                while (await overlay.status()).hosts_lacking != [late.peer_id]:
                    await trio.sleep(0.2)
            await ask(host)

            await overlay.ca("issuer", "renew")
            await until(lambda: shows_the_newest(host) and shows_the_newest(issuer))
            await until_linked(host, 1)

            await overlay.ca("root", "rotate", "--drop", "--anyway")
            await until(lambda: number_of(host) == 3)
            await until_linked(host, 1)
            await ask(host)
            assert (await overlay.status()).next == "nothing"

            await overlay.start(late)
            await until(lambda: number_of(late) == 3)
            await until_linked(late, 2)
            await ask(late)

    trio.run(main)
