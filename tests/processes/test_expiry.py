"""Real peers whose certificates last seconds: renewed in time, ended, renewed from the key."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio

from overlay.control.messages import InviteReply
from overlay.demo.cluster import Cluster, PeerProcess, rhizome, running_cluster
from overlay.errors import OverlayError
from overlay.home import Home, HomeFile

pytestmark = pytest.mark.processes

LEAF = ("--leaf", "12s")
FLAGS = ("--engine", "toy", "--no-mdns", "--gossip-period", "200ms")
RENEWALS = 2
WAIT_S = 60.0


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.sleep(0.05)


def leaf_of(peer: PeerProcess) -> bytes:
    return Home(peer.home).need(HomeFile.LEAF)


async def certificate(peer: PeerProcess) -> str:
    """What its owner is told of its certificate."""
    try:
        return dict((await peer.status()).posture).get("certificate", "")
    except OverlayError:
        return "not there yet"


async def until_told(peer: PeerProcess, words: str) -> None:
    with trio.fail_after(WAIT_S):
        while words not in await certificate(peer):
            await trio.sleep(0.05)


async def until_well(peer: PeerProcess) -> None:
    with trio.fail_after(WAIT_S):
        while await certificate(peer):
            await trio.sleep(0.05)


async def links(peer: PeerProcess) -> int:
    return len((await peer.status()).peers)


async def until_linked(peer: PeerProcess, count: int) -> None:
    with trio.fail_after(WAIT_S):
        while await links(peer) != count:
            await trio.sleep(0.05)


async def ask(peer: PeerProcess) -> bytes:
    return await rhizome("ask", "hello", "--max-tokens", "4", "--home", str(peer.home))


def free_port() -> str:
    """A port for an issuer that must be found where it was: one that no system gives out itself."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


async def join(cluster: Cluster, issuing: tuple[str, ...]) -> None:
    issuer, host = cluster.peers
    await rhizome("init", "--home", str(issuer.home), "--tenant", "default")
    await cluster.start_peer(issuer, *FLAGS, *issuing)
    status = await cluster.ready(issuer)
    ticket = msgspec.json.decode(
        await rhizome("invite", "--json", "--home", str(issuer.home)), type=InviteReply
    ).ticket
    await rhizome("join", "-", "--home", str(host.home), text=ticket)
    await cluster.start_peer(host, *FLAGS, "--bootstrap", status.addresses[0])
    await cluster.ready(host)
    await until_linked(host, 1)


def test_certificates_of_seconds(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        issuing = (*LEAF, "--port", port, "--enrol-port", free_port())
        async with running_cluster(tmp_path, ("anna", "boris"), ("default",)) as cluster:
            issuer, host = cluster.peers
            await join(cluster, issuing)
            seen = {leaf_of(host)}
            while len(seen) <= RENEWALS:
                await until(lambda: leaf_of(host) not in seen)
                seen.add(leaf_of(host))
                await until_linked(host, 1)
                await ask(host)
            # A machine that stands still for seconds may take the link down once.
            assert host.log.read_text().count(" is down") < RENEWALS, "renewing is no reason to"

            await cluster.stop_peer(issuer)
            await until_told(host, "not renewed since its half life")
            await until_told(host, "no links to other peers")
            await ask(host)

            await cluster.stop_peer(host)
            await cluster.start_peer(host, *FLAGS, "--bootstrap", f"127.0.0.1:{port}")
            await until_told(host, "no links to other peers")
            await ask(host)
            assert await links(host) == 0
            ended = leaf_of(host)
            await cluster.start_peer(issuer, *FLAGS, *issuing)
            await cluster.ready(issuer)
            await until(lambda: leaf_of(host) != ended)
            await until_well(host)
            await until_linked(host, 1)
            await ask(host)

    trio.run(main)
