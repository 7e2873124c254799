"""Real peers whose engines are servers that run already: started, asked, gone and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from inference.remote.settings import RemoteKind
from overlay.client import PeerClient
from overlay.control.client import call
from overlay.control.messages import Explain, ExplainReply, StatusReply
from overlay.demo.cluster import Cluster, PeerProcess, rhizome, running_cluster
from overlay.errors import HomeError, RequestError
from overlay.home import Home
from overlay.request import Delta, Finished
from tests.inference.remote.fake_server import FakeServer

pytestmark = pytest.mark.processes

SOON_S = 60.0
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
TEXT = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 8


def flags_of(server: FakeServer, *more: str) -> tuple[str, ...]:
    return ("--engine", server.kind.value, "--engine-url", server.url, *more)


@asynccontextmanager
async def peers_of(
    folder: Path, *servers: FakeServer, tenants: tuple[str, ...] = ("default",)
) -> AsyncIterator[Cluster]:
    """A peer for each server, and one without an engine at the end; all know each other."""
    names = (*(f"host{number}" for number, _ in enumerate(servers)), "front")
    with trio.fail_after(4 * SOON_S):
        async with running_cluster(folder, names, tenants) as cluster:
            await cluster.create()
            for peer, server in zip(cluster.peers, servers, strict=False):
                await cluster.start_peer(peer, *flags_of(server))
                await cluster.ready(peer)
            await cluster.start_peer(cluster.peers[-1], "--engine", "none")
            await cluster.ready(cluster.peers[-1])
            await cluster.met()
            yield cluster


async def until_status(peer: PeerProcess, holds: Callable[[StatusReply], bool]) -> StatusReply:
    """Waits until a peer's status is as wanted."""
    with trio.fail_after(SOON_S):
        while True:
            status = await peer.status()
            if holds(status):
                return status
            await trio.sleep(0.1)


async def ask(peer: PeerProcess, **fields: Any) -> tuple[str, list[bytes], Finished]:
    """One chat: its text, the engine's own chunks, and its end."""
    text, chunks = "", []
    async with PeerClient.connect(home=peer.home, tenant=fields.pop("tenant", "")) as client:
        messages = [{"role": "user", "content": fields.pop("text", TEXT)}]
        async with client.chat(messages, chunks=True, **fields) as answer:
            async for event in answer:
                if isinstance(event, Delta):
                    text += event.text
                    chunks += [] if event.chunk is None else [event.chunk]
                elif isinstance(event, Finished):
                    return text, chunks, event
    raise AssertionError("an answer ends with Finished")


async def test_a_server_behind_a_peer_is_found_asked_explained_lost_and_found_again(
    tmp_path: Path,
) -> None:
    server = FakeServer(RemoteKind.VLLM, calls_tools=True)
    async with server.running(), peers_of(tmp_path, server) as cluster:
        host, front = cluster.peers
        status = await until_status(host, lambda status: status.models == ["toy"])
        assert any(name == "prompts of toy" for name, _ in status.posture)
        await until_status(front, lambda status: status.models == ["toy"])

        text, chunks, finished = await ask(front, max_tokens=8)
        assert text
        assert chunks
        assert finished.served_by == host.peer_id
        _, _, again = await ask(host, max_tokens=8)
        assert again.usage.cached_tokens > 0
        _, chunks, finished = await ask(front, tools=[TOOL], max_tokens=8)
        assert finished.reason.value == "tool_calls"
        assert b"tool_calls" in b"".join(chunks)
        explained = await call(Home(front.home), Explain(), ExplainReply)
        assert explained.routes[0].basis == "load alone"
        salts = [body["cache_salt"] for body in server.asked("/v1/chat/completions")]
        assert len(set(salts)) == 1

        server.stop()
        await until_status(host, lambda status: not status.models)
        with pytest.raises(RequestError) as caught:
            await ask(front, max_tokens=8)
        assert caught.value.code == "no_capable_peer"
        async with server.running():
            await until_status(host, lambda status: status.models == ["toy"])
            await until_status(front, lambda status: status.models == ["toy"])
            _, _, finished = await ask(front, max_tokens=8)
            assert finished.served_by == host.peer_id


async def test_of_two_servers_the_one_that_holds_the_prefix_answers(tmp_path: Path) -> None:
    first, second = (
        FakeServer(RemoteKind.LLAMACPP, slots=2, prefill_s_per_token=0.002) for _ in range(2)
    )
    async with first.running(), second.running(), peers_of(tmp_path, first, second) as cluster:
        one, two, _ = cluster.peers
        for peer in (one, two):
            await until_status(peer, lambda status: bool(status.models))
        _, _, cold = await ask(one, max_tokens=4)
        owner, other = (one, two) if cold.served_by == one.peer_id else (two, one)
        await until_status(other, lambda status: any(each.prefixes > 0 for each in status.peers))
        for peer in (owner, other):
            _, _, warm = await ask(peer, max_tokens=4)
            assert warm.served_by == owner.peer_id
            assert warm.usage.cached_tokens > 0
        explained = await call(Home(other.home), Explain(), ExplainReply)
        able = [each for each in explained.routes[0].candidates if each.excluded is None]
        assert len(able) == 2
        assert all(each.estimated for each in able)


async def test_a_server_without_salts_serves_the_tenant_that_is_named(tmp_path: Path) -> None:
    server = FakeServer(RemoteKind.LLAMACPP)
    async with server.running(), running_cluster(tmp_path, ("a",), ("anna", "bert")) as cluster:
        await cluster.create()
        (peer,) = cluster.peers
        await cluster.start_peer(peer, *flags_of(server, "--engine-tenant", "bert"))
        await cluster.ready(peer)
        await until_status(peer, lambda status: bool(status.models))
        await ask(peer, tenant="bert", max_tokens=2)
        with pytest.raises(RequestError) as caught:
            await ask(peer, tenant="anna", max_tokens=2)
        assert caught.value.code == "no_capable_peer"
        status = await peer.status()
        assert dict(status.posture)["isolation"].endswith("serves tenant bert alone")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--engine", "vllm"), "--engine-url http://127.0.0.1:8000"),
        (("--engine", "vllm", "--engine-url", "ftp://x"), "must be http or https"),
        (("--engine", "toy", "--engine-url", "http://127.0.0.1:1"), "goes with --engine vllm"),
        (
            ("--engine", "vllm", "--engine-url", "http://127.0.0.1:1", "--engine-key-file", "/no"),
            "engine_key_file",
        ),
    ],
)
async def test_a_mistake_is_one_line(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    home = tmp_path / "home"
    await rhizome("init", "--home", str(home))
    with pytest.raises(HomeError) as caught:
        await rhizome("peer", "--home", str(home), "--interface", "lo", *flags)
    message = str(caught.value).removeprefix("rhizome peer failed: ")
    assert words in message
    assert "Traceback" not in message
