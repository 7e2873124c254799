"""Real peers: what one was told to revoke, all enforce; who was away is told; clones end."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
from httpx2 import AsyncClient

from overlay.client import PeerClient
from overlay.commands.main import EXIT_CLONED
from overlay.control.messages import InviteReply, StatusReply, TokenReply
from overlay.demo.cluster import PeerProcess, rhizome, running_cluster
from overlay.errors import HomeError
from overlay.request import Finished

pytestmark = pytest.mark.processes

TOY = ("--engine", "toy")
ENFORCED_S = 30.0
"""Connected peers enforce a revocation within 5 s; a machine that is busy with other tests is given
more."""
COME_S = 60.0
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


async def until_all(
    peers: list[PeerProcess], holds: Callable[[StatusReply], bool], timeout_s: float
) -> None:
    async def until_one(peer: PeerProcess) -> None:
        while not holds(await peer.status()):
            await trio.sleep(0.05)

    with trio.fail_after(timeout_s):
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(until_one, peer)


async def command(peer: PeerProcess, *words: str) -> bytes:
    return await rhizome(*words, "--home", str(peer.home))


async def kill(peer: PeerProcess) -> None:
    assert peer.process is not None
    peer.process.send_signal(signal.SIGKILL)
    await peer.process.wait()


async def http_status(status: StatusReply, key: str) -> int:
    async with AsyncClient(timeout=20) as client:
        answer = await client.post(
            f"{status.http[0]}/v1/chat/completions",
            json=BODY,
            headers={"Authorization": f"Bearer {key}"},
        )
        return int(answer.status_code)


async def is_served(peer: PeerProcess) -> bool:
    """Whether a client of the peer's own host gets an answer."""
    async with PeerClient.connect(home=peer.home) as client:
        events = [event async for event in client.chat(list(BODY["messages"]), max_tokens=2)]  # type: ignore[call-overload]
        return isinstance(events[-1], Finished)


def copied(peer: PeerProcess, home: Path) -> PeerProcess:
    """A copy of a peer's folder, without what belongs to the host that it is on."""
    shutil.copytree(peer.home, home, ignore=shutil.ignore_patterns("lock", "control.*"))
    return PeerProcess(home.name, home)


async def test_five_peers_enforce_what_one_is_told_and_lose_nothing(tmp_path: Path) -> None:
    names = ("anna", "bert", "cleo", "dora", "emil")
    async with running_cluster(tmp_path, names, ("default",)) as cluster:
        await cluster.create()
        await cluster.start(*TOY)
        issuer, bad = cluster.peers[0], cluster.peers[1]
        good = [peer for peer in cluster.peers if peer is not bad]
        created = await command(issuer, "token", "create", "--json")
        token = msgspec.json.decode(created, type=TokenReply)
        for peer in cluster.peers:
            assert await http_status(await peer.status(), token.api_key) == 200

        await command(issuer, "revoke", bad.peer_id)
        await until_all(
            good,
            lambda status: bad.peer_id not in {each.peer_id for each in status.peers},
            ENFORCED_S,
        )
        with trio.fail_after(ENFORCED_S):
            while (status := await bad.status()).peers or not status.revoked:
                await trio.sleep(0.05)
        assert "revoked: no other peer takes it in" in (await command(bad, "status")).decode()
        assert [len((await peer.status()).peers) for peer in good] == [3] * 4

        await command(issuer, "token", "revoke", token.token_id)
        with trio.fail_after(ENFORCED_S):
            for peer in good:
                while await http_status(await peer.status(), token.api_key) != 401:
                    await trio.sleep(0.05)
        other = msgspec.json.decode(
            await command(issuer, "token", "create", "--json"), type=TokenReply
        )
        for peer in good:
            assert await http_status(await peer.status(), other.api_key) == 200
        with pytest.raises(HomeError, match="only an issuer's host can do that"):
            await command(good[1], "revoke", other.token_id)

        # Killed as soon as the command is back: it is stored, and told to the others afterwards.
        last = msgspec.json.decode(await command(issuer, "invite", "--json"), type=InviteReply)
        await command(issuer, "revoke", last.ticket_id)
        await kill(issuer)
        await cluster.start_peer(issuer, *TOY)
        await cluster.ready(issuer)
        await until_all(good, lambda status: status.revocations == 3, COME_S)
        assert bad.peer_id not in {each.peer_id for each in (await issuer.status()).peers}


async def test_a_peer_restored_from_an_old_copy_waits_to_be_told_and_then_enforces(
    tmp_path: Path,
) -> None:
    async with running_cluster(tmp_path, ("anna", "bert", "cleo"), ("default",)) as cluster:
        await cluster.create()
        await cluster.start(*TOY)
        issuer, bad, restored = cluster.peers
        await cluster.stop_peer(restored)
        old = copied(restored, tmp_path / "old")
        await command(issuer, "revoke", bad.peer_id)
        for peer in (issuer, bad):
            await cluster.stop_peer(peer)
        shutil.rmtree(restored.home)
        shutil.copytree(old.home, restored.home)

        await cluster.start_peer(restored, *TOY)
        await cluster.ready(restored)
        assert await is_served(restored)
        status = await restored.status()
        assert not status.confirmed
        assert set(status.waits_for) == {issuer.peer_id, bad.peer_id}
        assert "unconfirmed" in (await command(restored, "status")).decode()

        await cluster.start_peer(issuer, *TOY)
        await cluster.ready(issuer)
        await until_all([restored, issuer], lambda status: status.confirmed, COME_S)
        assert (await restored.status()).revocations == 1
        await cluster.start_peer(bad, *TOY)
        await cluster.ready(bad)
        await until_all([restored], lambda status: len(status.peers) == 1, COME_S)
        assert [each.peer_id for each in (await restored.status()).peers] == [issuer.peer_id]


async def test_all_restarted_at_once_confirm_each_other(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, ("anna", "bert", "cleo"), ("default",)) as cluster:
        await cluster.create()
        await cluster.start(*TOY)
        for peer in cluster.peers:
            await kill(peer)
        for peer in cluster.peers:
            await cluster.start_peer(peer, *TOY)
        for peer in cluster.peers:
            await cluster.ready(peer)
        await until_all(cluster.peers, lambda status: status.confirmed, COME_S)
        await cluster.met()


async def test_of_two_clones_exactly_one_ends_and_restarts_are_none(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, ("anna", "bert"), ("default",)) as cluster:
        await cluster.create()
        await cluster.start(*TOY)
        host = cluster.peers[1]
        for _ in range(5):
            await kill(host)
            await cluster.start_peer(host, *TOY)
            await cluster.ready(host)
            await cluster.met()
        assert "cloned host" not in host.log.read_text()

        await cluster.stop_peer(host)
        clone = copied(host, tmp_path / "clone")
        cluster.peers.append(clone)  # so that it ends with the cluster
        for peer in (host, clone):
            await cluster.start_peer(peer, *TOY)
        ended, stays = await one_that_ends(host, clone)
        assert ended.process is not None
        assert ended.process.returncode == EXIT_CLONED
        assert "rhizome: cloned host: another process runs" in ended.log.read_text()
        await still_runs(stays, cluster.peers[0])


async def one_that_ends(one: PeerProcess, other: PeerProcess) -> tuple[PeerProcess, PeerProcess]:
    with trio.fail_after(COME_S):
        while one.runs and other.runs:
            await trio.sleep(0.1)
    return (other, one) if one.runs else (one, other)


async def still_runs(peer: PeerProcess, beside: PeerProcess) -> None:
    """It goes on, is connected, and what the other one left behind does not end it."""
    await until_all([peer], lambda status: len(status.peers) == 1, COME_S)
    await until_all([beside], lambda status: len(status.peers) == 1, COME_S)
    assert await is_served(peer)
    assert "cloned host" not in peer.log.read_text()
