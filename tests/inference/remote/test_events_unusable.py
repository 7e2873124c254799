"""Cache events that cannot be had end nothing: what is cached is estimated then."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from inference.events import Cleared
from inference.remote.engine import Pictured, RemoteEngine
from inference.remote.events.endpoints import EndpointUnusable
from inference.remote.pictures import picture_of
from inference.remote.preflight import Preflight, look
from inference.remote.server import Server
from inference.remote.settings import RemoteKind
from tests.inference.remote.bench import RemoteBench, ask, chat, request_for, secrets, settings_of
from tests.inference.remote.fake_picture import FakePicture
from tests.inference.remote.fake_server import FakeServer

TOLD = {"enable_kv_cache_events": True, "publisher": "zmq"}
LONG = chat("Who keeps the blocks? " * 20)


@pytest.fixture(name="taken")
def fixture_taken() -> Iterator[str]:
    """An endpoint that somebody else listens at."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"tcp://127.0.0.1:{other.getsockname()[1]}"


@asynccontextmanager
async def pictured(fake: FakeServer, **given: Any) -> AsyncIterator[RemoteBench]:
    """An engine with real pictures."""
    async with fake.running():
        bench = RemoteBench(
            fake, RemoteEngine(settings_of(fake, **given), picture_of, secret=secrets())
        )
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(bench.engine.run)
                yield bench
                nursery.cancel_scope.cancel()


def degraded(bench: RemoteBench) -> str:
    return "; ".join(words for name, words in bench.engine.posture() if name == "degraded")


async def estimates(bench: RemoteBench) -> None:
    """Events are given up, and the engine serves."""
    await bench.until(lambda: "events cannot be followed" in degraded(bench))
    assert "estimated" in dict(bench.engine.posture())["cache"]
    assert bench.engine.capabilities().models[0].estimated
    request = await request_for(bench, LONG)
    await ask(bench, request)
    warm = await ask(bench, request)
    assert (warm[0].cached_tokens or 0) > 0
    assert bench.engine.cache_events()[0] == Cleared()


async def test_an_owners_endpoint_that_is_taken(taken: str) -> None:
    async with pictured(FakeServer(RemoteKind.VLLM), events=taken, events_bind=True) as bench:
        await estimates(bench)
        assert taken in degraded(bench)


@pytest.mark.parametrize("endpoint", [None, "tcp://192.0.2.1:5557", "tcp://no such:5557"])
async def test_an_endpoint_that_the_server_tells(endpoint: str | None, taken: str) -> None:
    told = {"0": TOLD | {"endpoint": endpoint or taken}}
    async with pictured(FakeServer(RemoteKind.VLLM, event_sources=told)) as bench:
        await estimates(bench)


async def test_a_replay_endpoint_that_is_none() -> None:
    told = {"0": TOLD | {"endpoint": "tcp://*:1", "replay_endpoint": "tcp://no such:1"}}
    async with pictured(FakeServer(RemoteKind.VLLM, event_sources=told)) as bench:
        await estimates(bench)


@pytest.mark.parametrize("kind", [RemoteKind.SGLANG, RemoteKind.VLLM])
async def test_ranks_that_have_no_endpoints_are_told(kind: RemoteKind) -> None:
    config = json.dumps({"publisher": "zmq", "endpoint": "tcp://*:65535"})
    info = {"kv_events_config": config, "dp_size": 3}
    told = {"0": TOLD | {"endpoint": "tcp://*:99999999"}}
    async with pictured(FakeServer(kind, more_info=info, event_sources=told)) as bench:
        assert "its cache events cannot be used: a rank's port" in degraded(bench)
        await ask(bench, await request_for(bench, LONG))


@pytest.mark.parametrize("name", ["9" * 5000, "99999", "\u0663", "\u00b2"])
async def test_ranks_of_absurd_names_are_none(name: str) -> None:
    told = {name: TOLD | {"endpoint": "tcp://*:5557"}}
    async with pictured(FakeServer(RemoteKind.VLLM, event_sources=told)) as bench:
        assert bench.engine.capabilities().models
        assert "estimated" in dict(bench.engine.posture())["cache"]


async def test_whatever_a_look_fails_with_it_is_looked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def odd(*_: object, **__: object) -> Preflight:
        raise ValueError("secret prompt")

    with monkeypatch.context() as patched:
        patched.setattr("inference.remote.watch.look", odd)
        async with pictured(FakeServer(RemoteKind.VLLM)) as bench:
            assert "cannot be read" in bench.engine.capabilities().description
            assert "secret" not in bench.engine.capabilities().description
            patched.setattr("inference.remote.watch.look", look)
            await bench.until(lambda: bool(bench.engine.capabilities().models))


async def test_a_picture_that_fails_without_another_is_empty_from_then_on() -> None:
    fake, picture = FakeServer(RemoteKind.VLLM), FakePicture()

    async def run() -> None:
        raise EndpointUnusable("no way")

    async with fake.running(), trio.open_nursery() as nursery:
        engine = RemoteEngine(
            settings_of(fake), lambda _: Pictured(picture=picture, run=run), secret=secrets()
        )
        await nursery.start(engine.run)
        await trio.testing.wait_all_tasks_blocked()
        assert ("degraded", "its cache events cannot be followed (no way)") in engine.posture()
        assert ("cleared", None) in picture.told
        nursery.cancel_scope.cancel()


async def test_every_rank_is_followed_where_the_server_says() -> None:
    told = {
        "0": TOLD | {"endpoint": "ipc:///tmp/a", "topic": "kv"},
        "1": TOLD | {"endpoint": "ipc:///tmp/b"},
    }
    fake = FakeServer(RemoteKind.VLLM, event_sources=told)
    async with fake.running():
        settings = settings_of(fake)
        found = await look(Server(settings), settings, secret=secrets())
    names = [name for name, _ in picture_of(found).picture.posture()]
    assert {"events of ipc:///tmp/a", "events of ipc:///tmp/b"} <= set(names)


async def test_events_are_of_the_first_model_alone() -> None:
    told = {"0": TOLD | {"endpoint": "ipc:///tmp/a"}}
    fake = FakeServer(RemoteKind.VLLM, models=("a", "b"), event_sources=told)
    async with fake.running(), trio.open_nursery() as nursery:
        settings = settings_of(fake)
        found = await look(Server(settings), settings, secret=secrets())
        assert "its cache events are used for a alone" in found.degraded
        picture = FakePicture(exact=True)
        engine = RemoteEngine(settings, lambda _: Pictured(picture=picture), secret=secrets())
        await nursery.start(engine.run)
        models = engine.capabilities().models
        assert [(each.name, each.estimated) for each in models] == [("a", False), ("b", True)]
        nursery.cancel_scope.cancel()
