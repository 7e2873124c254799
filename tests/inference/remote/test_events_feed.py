"""The feed over real sockets: a publisher as vLLM's, and one that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
import zmq

from inference.remote.events.endpoints import EndpointUnusable, EventSource, of_rank
from inference.remote.events.feed import EventFeed, FeedSettings, _receive
from inference.remote.events.mirror import Mirror
from tests.inference.remote.folding import IDENTITY, KEYS, NS_A, names, tokens_of

Socket = zmq.Socket[bytes]

QUIET: dict[str, Any] = {"replay_wait_s": 5.0, "idle_s": 60.0, "settle_s": 60.0}
"""Nothing is asked for because of time alone."""


class Publisher:
    """The sockets of one rank. An XPUB is to subscribers what a PUB is, and tells who came."""

    topic = b"kv"

    def __init__(self, context: zmq.Context[Socket], endpoint: str, *, binds: bool = True) -> None:
        self.pub = context.socket(zmq.XPUB)
        self.router = context.socket(zmq.ROUTER)
        self.sent: list[bytes] = []
        (self.pub.bind if binds else self.pub.connect)(endpoint)
        self.router.bind(f"{endpoint}_replay")

    def close(self) -> None:
        self.pub.close(linger=0)
        self.router.close(linger=0)

    def say(self, *events: object, hidden: bool = False) -> None:
        """Publishes a batch; ``hidden`` ones are only there for replay."""
        self.raw(msgspec.msgpack.encode([1.0, list(events), 0]), hidden=hidden)

    def raw(self, payload: bytes, *, hidden: bool = False) -> None:
        number = len(self.sent).to_bytes(8, "big")
        self.sent.append(payload)
        if not hidden:
            self.pub.send_multipart([self.topic, number, payload])

    async def subscribed(self, topic: bytes = b"") -> None:
        assert await _receive(self.pub) == [b"\x01" + topic]

    async def asked(self) -> tuple[bytes, int]:
        peer, empty, start = await _receive(self.router)
        assert empty == b""
        return peer, int.from_bytes(start, "big")

    def answer(self, peer: bytes, start: int, *, ends: bool = True) -> None:
        for seq, payload in list(enumerate(self.sent))[start:]:
            self.router.send_multipart([peer, b"", b"kv", seq.to_bytes(8, "big"), payload])
        if ends:
            self.router.send_multipart([peer, b"", b"", b"\xff" * 8, b""])

    async def answer_all(self) -> None:
        while True:
            self.answer(*await self.asked())


def block(number: int, parent: int | None = None, **fields: object) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": [number],
        "parent_block_hash": parent,
        "token_ids": [number] * 16,
        "block_size": 16,
        "cache_salt": "sa",
        **fields,
    }


def gone(*numbers: int) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": list(numbers)}


class Watched(Mirror):
    """Wakes whoever waits each time that its feed has done what a message asked for."""

    moved: trio.Event

    def trust(self, rank: int, *, exact: bool) -> None:
        super().trust(rank, exact=exact)
        self.moved.set()
        self.moved = trio.Event()


class Rig:
    """A mirror, its feed and the wait for what is expected of it."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        *,
        endpoint: str,
        replay: str | None = None,
        bind: bool = False,
        ranks: int = 1,
        topic: str = "",
        **settings: Any,
    ) -> None:
        self.context = context
        self.mirror = Watched(IDENTITY, ranks=ranks)
        self.mirror.moved = trio.Event()
        self.mirror.learn(NS_A, KEYS[NS_A], "sa")
        sources = tuple(
            EventSource(
                endpoint=of_rank(endpoint, rank),
                replay=None if replay is None else of_rank(replay, rank),
                topic=topic,
                binds=bind,
            )
            for rank in range(ranks)
        )
        self.settings = FeedSettings(**QUIET | {"sources": sources} | settings)
        self.feed = EventFeed(self.mirror, self.settings, context=context)

    async def until(self, met: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not met():
                await self.mirror.moved.wait()

    def held(self, *numbers: int) -> int:
        return self.mirror.match(NS_A, names(NS_A, tokens_of(numbers)))

    def words(self) -> str:
        return " ".join(words for _, words in self.feed.posture())

    @asynccontextmanager
    async def running(self, publisher: Publisher | None = None) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            if publisher is not None:
                nursery.start_soon(publisher.answer_all)
            await nursery.start(self.feed.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(name="context")
def fixture_context() -> Any:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(name="endpoint")
def fixture_endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/kv"


@pytest.fixture(name="publisher")
def fixture_publisher(context: zmq.Context[Socket], endpoint: str) -> Any:
    publisher = Publisher(context, endpoint)
    yield publisher
    publisher.close()


async def subscribed(rig: Rig, publisher: Publisher) -> None:
    """A subscription takes a moment to reach the publisher: what is published before is lost."""
    with trio.fail_after(10):
        await publisher.subscribed()
    publisher.say(block(0))
    await rig.until(lambda: bool(rig.held(0)))


async def test_replay_then_live_then_a_gap(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    publisher.say(block(1), block(2, 1), hidden=True)
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay")
    assert rig.words() == "nothing has come yet"
    async with rig.running(publisher):
        await rig.until(lambda: rig.mirror.exact)
        assert rig.held(1, 2) == 2
        await subscribed(rig, publisher)
        publisher.say(gone(2), hidden=True)
        publisher.say(block(3, 1))
        await rig.until(lambda: rig.held(1, 3) == 2)
        assert rig.held(1, 2) == 1
        assert rig.mirror.exact
    assert "lost" not in rig.words()


async def test_what_was_published_before_the_subscription_stood_is_asked_for(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay", settle_s=0.02)
    async with rig.running(publisher):
        await rig.until(lambda: rig.mirror.exact)
        publisher.say(block(1), hidden=True)
        await rig.until(lambda: rig.held(1) == 1)


async def test_a_restarted_server_is_seen_and_followed(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay")
    async with rig.running(publisher):
        await subscribed(rig, publisher)
        publisher.say(block(1))
        await rig.until(lambda: rig.held(1) == 1)
        publisher.sent.clear()
        publisher.say(block(2), block(0))
        await rig.until(lambda: rig.held(2) == 1)
        assert rig.held(1) == 0
        assert rig.mirror.exact
    assert "started anew 1 times" in rig.words()


async def test_a_server_s_connection_that_ends_is_made_again(
    context: zmq.Context[Socket], endpoint: str
) -> None:
    first = Publisher(context, endpoint)
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay")
    async with rig.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.answer_all)
            await subscribed(rig, first)
            nursery.cancel_scope.cancel()
        first.close()
        second = Publisher(context, endpoint)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.answer_all)
            with trio.fail_after(10):
                await second.subscribed()
            second.say(block(5))
            await rig.until(lambda: bool(rig.held(5)))
            nursery.cancel_scope.cancel()
        second.close()
        assert rig.held(0) == 0


async def test_we_bind_where_the_server_connects(
    context: zmq.Context[Socket], endpoint: str
) -> None:
    rig = Rig(context, endpoint=endpoint, bind=True)
    async with rig.running():
        publisher = Publisher(context, endpoint, binds=False)
        await subscribed(rig, publisher)
        publisher.close()
    assert "missed ones cannot be asked for" in rig.words()


async def test_only_the_topic_that_is_told_is_listened_to(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    rig = Rig(context, endpoint=endpoint, topic="kv")
    async with rig.running():
        with trio.fail_after(10):
            await publisher.subscribed(b"kv")
        publisher.topic = b"others"
        publisher.say(block(1))
        publisher.topic = b"kv"
        publisher.sent.clear()
        publisher.say(block(2))
        await rig.until(lambda: rig.held(2) == 1)
        assert rig.held(1) == 0


async def test_every_rank_has_its_own_sockets(context: zmq.Context[Socket]) -> None:
    rig = Rig(context, endpoint="inproc://kv", ranks=2)
    publishers = [Publisher(context, f"inproc://kv{suffix}") for suffix in ("", "_dp1")]
    async with rig.running():
        for publisher in publishers:
            with trio.fail_after(10):
                await publisher.subscribed()
            publisher.say(block(1))
        await rig.until(lambda: rig.mirror.exact)
        publishers[0].say(gone(1))
        publishers[0].say(block(2))
        await rig.until(lambda: bool(rig.held(2)))
        assert rig.held(1) == 1
        publishers[1].say({"type": "AllBlocksCleared"})
        await rig.until(lambda: not rig.held(1))
        assert rig.held(2) == 1
    for publisher in publishers:
        publisher.close()


async def test_without_an_answer_to_a_replay_live_events_count_and_it_is_said(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    replay = f"{endpoint}_nobody"
    rig = Rig(context, endpoint=endpoint, replay=replay, replay_wait_s=0.01)
    async with rig.running():
        await rig.until(lambda: f"{replay} does not answer" in rig.words())
        assert not rig.mirror.exact
        publisher.say(block(9), hidden=True)
        await subscribed(rig, publisher)
        assert not rig.mirror.exact
        assert ("degraded", "some events were missed; the picture is not exact") in (
            rig.mirror.posture()
        )
        publisher.say({"type": "AllBlocksCleared"}, block(1))
        await rig.until(lambda: rig.mirror.exact)
        assert rig.held(1) == 1


async def test_an_unreachable_server_is_said(context: zmq.Context[Socket], endpoint: str) -> None:
    rig = Rig(context, endpoint=endpoint)
    async with rig.running():
        await trio.testing.wait_all_tasks_blocked()
        ((name, words),) = rig.feed.posture()
        assert (name, words) in rig.mirror.posture()
        assert name == f"events of {endpoint}"
        assert words.startswith("nothing has come yet")
        assert not rig.mirror.exact


async def test_what_cannot_be_read_is_counted_and_makes_inexact(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay")
    async with rig.running(publisher):
        await subscribed(rig, publisher)
        publisher.raw(b"\xc1")
        await rig.until(lambda: not rig.mirror.exact)
        publisher.pub.send_multipart([b"kv", b"short", b""])
        publisher.say({"type": "BlockPinned"}, block(1))
        await rig.until(lambda: rig.held(1) == 1)
    posture = dict(rig.mirror.posture())
    assert posture["messages that could not be read"] == "2"
    assert posture["events of an unknown kind"] == "1"


async def test_a_restart_known_from_elsewhere_is_replayed(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay", idle_s=0.02)
    async with rig.running(publisher):
        await subscribed(rig, publisher)
        rig.mirror.cleared()
        assert rig.held(0) == 0
        await rig.until(lambda: rig.mirror.exact)
        assert rig.held(0) == 1


async def test_a_flood_gives_way_to_other_tasks(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    many = 4000
    whole = block(0) | {"block_hashes": list(range(many)), "token_ids": [1] * 16 * many}
    publisher.say(whole, hidden=True)
    rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay")
    seen: set[int] = set()

    async def watch() -> None:
        while True:
            seen.add(len(rig.mirror))
            await trio.lowlevel.checkpoint()

    async with rig.running(publisher), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await rig.until(lambda: rig.mirror.exact)
        nursery.cancel_scope.cancel()
    assert len(rig.mirror) == many
    assert max(b - a for a, b in zip(sorted(seen), sorted(seen)[1:], strict=False)) <= 256


def sockets_of(context: zmq.Context[Socket]) -> int:
    return sum(not socket.closed for socket in context._sockets)


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when tasks have run so many times."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.steps, self.scope = steps, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps -= 1
        if self.steps == 0:
            self.scope.cancel()


async def test_cancelled_anywhere_no_socket_stays_open(
    context: zmq.Context[Socket], endpoint: str, publisher: Publisher
) -> None:
    publisher.say(block(1), hidden=True)
    publisher.say(
        block(2) | {"block_hashes": list(range(300)), "token_ids": [2] * 4800}, hidden=True
    )
    before = sockets_of(context)
    ended = False
    steps = 0
    while not ended:
        steps += 1
        rig = Rig(context, endpoint=endpoint, replay=f"{endpoint}_replay")
        scope = trio.CancelScope()
        instrument = CancelAt(steps, scope)
        trio.lowlevel.add_instrument(instrument)
        with trio.fail_after(20), scope:
            async with rig.running(publisher):
                await rig.until(lambda rig=rig: rig.mirror.exact)  # type: ignore[misc]
        trio.lowlevel.remove_instrument(instrument)
        ended = not scope.cancelled_caught
        assert sockets_of(context) == before
    assert steps > 5


async def test_its_own_context_is_gone_at_the_end(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[zmq.Context[Socket]] = []
    real = zmq.Context

    def make() -> zmq.Context[Socket]:
        made.append(real())
        return made[-1]

    monkeypatch.setattr(zmq, "Context", make)
    source = EventSource(endpoint=endpoint)
    feed = EventFeed(Mirror(IDENTITY), FeedSettings(sources=(source,)))
    async with trio.open_nursery() as nursery:
        await nursery.start(feed.run)
        nursery.cancel_scope.cancel()
    assert [context.closed for context in made] == [True]


async def test_an_endpoint_in_use_is_an_error_of_ours(
    context: zmq.Context[Socket], publisher: Publisher, tmp_path: Path
) -> None:
    rig = Rig(context, endpoint=f"ipc://{tmp_path}/no/such/folder", bind=True)
    with pytest.raises(EndpointUnusable, match="no/such/folder cannot be used"):
        await rig.feed.run()
    assert sockets_of(context) == 2
