"""``PeerClient`` against a simulated node: its answers, its errors, and what leaving early ends."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from chaos.world import Host, World, until, world_of
from inference.toy import ToyConfig
from overlay.address import Address
from overlay.choices import EngineKind
from overlay.client import PeerClient
from overlay.client.messages import PROTOCOL, Began, Done, Piece, decode_ask, encode
from overlay.commands.peer import make_ports
from overlay.config import PeerConfig
from overlay.engines import make_engine
from overlay.errors import (
    ConfigError,
    Deadline,
    HomeError,
    OverlayError,
    PeerGone,
    ProtocolError,
    RequestError,
    StreamReset,
)
from overlay.founding import found_overlay
from overlay.home import Home
from overlay.identity import load_identity
from overlay.node import NodeConfig, run
from overlay.ports import SecureChannel
from overlay.quotas import Quota, QuotaLimits
from overlay.request import Delta, Finished, Scope, Started
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.connection import Connection, Handler
from overlay.transport.hello import client_hello
from overlay.transport.limits import Limits
from overlay.transport.link import establish
from overlay.transport.local import listen_local
from overlay.transport.stream import Stream
from security.errors import SecurityError
from security.token import issue_token
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, nothing_runs, simulate
from tests.overlay.transport.world import Overlay, link

CHAT = [{"role": "user", "content": QUESTION}]
CLIENT_HOST = "10.0.9.9"
SLOW_DECODE = ToyConfig(slots=2, prefill_tokens_per_s=5000.0, decode_s_per_token=0.5, end_every=0)


@asynccontextmanager
async def client_of(world: World, host: Host, token: str) -> AsyncIterator[PeerClient]:
    """A client with a token at a host's overlay port, over the simulated network."""
    (address,) = [a for a in world.network.listeners if a.host == host.name]
    listener = world.network.listeners[address]
    ours, theirs = world.network.connect(CLIENT_HOST, host.name)
    node = host.running
    listener.nursery.start_soon(
        listener.transport._accept,
        listener.accept,
        SecureChannel(channel=theirs, leaf=None, issuer=None, address=address),
    )
    limits = Limits()
    connection = await establish(
        SecureChannel(
            channel=ours, leaf=host.identity.leaf, issuer=host.identity.issuer, address=address
        ),
        ours=client_hello(
            overlay_id=host.identity.trust.overlay_id, windows=limits.windows, unix_s=0
        ),
        judge=node.admission.judge,
        expected=host.identity.peer_id,
        clock=node.ports.clock,
        entropy=world.entropy("client"),
        limits=limits,
        allowed="/rhizome/none/",
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run, {})
        yield PeerClient(connection, token)
        nursery.cancel_scope.cancel()


def token_of(
    world: World,
    *,
    tenant: str = "default",
    scopes: tuple[str, ...] = (Scope.INFER.value,),
    ttl_s: float = 3600.0,
) -> str:
    assert world.authority is not None
    now_unix_s = 1_800_000_000.0
    return issue_token(
        world.authority.issuer,
        tenant_id=world.authority.tenant_id(tenant),
        name="test",
        scopes=scopes,
        token_id="0" * 32,
        now_unix_s=now_unix_s,
        expires_unix_s=now_unix_s + ttl_s,
    )


def scenario(
    body: Callable[[World], Awaitable[None]],
    engines: tuple[ToyConfig | None, ...] = (FAST,),
    **settings: object,
) -> None:
    async def main() -> None:
        async with world_of(31, list(engines), tenants=("default", "other"), **settings) as world:  # type: ignore[arg-type]
            await everybody_ready(world)
            await body(world)

    simulate(31, main)


def test_a_client_over_its_limits_is_told_when_to_try_again() -> None:
    async def body(world: World) -> None:
        host = world.hosts[0]
        async with client_of(world, host, token_of(world)) as client:
            assert await client.chat(CHAT, max_tokens=2).text()
            with pytest.raises(RequestError) as caught:
                await client.chat(CHAT, max_tokens=2).text()
        assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
        assert caught.value.retry_after_s is not None
        assert 1 <= caught.value.retry_after_s < 100
        node = host.running
        assert b'result="token_prompt_tokens"' in node.metrics.text()[1]
        await trio.sleep(caught.value.retry_after_s)
        async with client_of(world, host, token_of(world)) as client:
            assert await client.chat(CHAT, max_tokens=2).text()

    few = QuotaLimits(token=Quota(prompt_tokens_per_min=600))
    scenario(body, quotas=few)


def test_an_answer_comes_as_events_that_end_once() -> None:
    async def body(world: World) -> None:
        host = world.hosts[0]
        async with client_of(world, host, token_of(world)) as client:
            answer = client.chat(CHAT, max_tokens=5, seed=1, temperature=0)
            events = [event async for event in answer]
            assert isinstance(events[0], Started)
            assert events[0].served_by == host.identity.peer_id
            assert isinstance(events[-1], Finished)
            assert events[-1].usage.completion_tokens == 5
            assert all(isinstance(event, Delta) for event in events[1:-1])
            assert answer.request_id is not None
            assert host.running.decisions.find(answer.request_id, None) is not None
            text = "".join(event.text for event in events if isinstance(event, Delta))
            again = client.chat(CHAT, max_tokens=5, seed=1, temperature=0)
            assert await again.text() == text
            assert await client.complete("hello", max_tokens=3).text()

    scenario(body)


def test_a_whole_answer_leaves_nothing_behind_on_the_connection() -> None:
    async def body(world: World) -> None:
        async with client_of(world, world.hosts[0], token_of(world)) as client:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(3):
                    async for _event in client.chat(CHAT, max_tokens=2):
                        pass
                    gc.collect()
                    assert client._line.connection.statistics().streams_open == 0

    scenario(body)


def test_many_answers_at_a_time_share_a_connection() -> None:
    async def body(world: World) -> None:
        texts: dict[int, str] = {}
        async with client_of(world, world.hosts[0], token_of(world)) as client:

            async def ask(number: int) -> None:
                words = [{"role": "user", "content": f"{number} " * 20}]
                texts[number] = await client.chat(words, max_tokens=4, seed=1).text()

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(ask, number)
        assert len(texts) == 20
        assert all(texts.values())

    scenario(body)


@pytest.mark.parametrize("forwarded", [False, True])
@pytest.mark.parametrize("how", ["block left", "aclose", "cancelled", "client gone"])
def test_leaving_an_answer_frees_the_work_on_the_serving_peer(how: str, *, forwarded: bool) -> None:
    async def body(world: World) -> None:
        ingress, serving = world.hosts[0], world.hosts[-1]

        async def first_token(client: PeerClient) -> None:
            async with client.chat(CHAT, max_tokens=500) as answer:
                async for event in answer:
                    if isinstance(event, Delta):
                        assert serving.running.ports.engine.load().running == 1
                        if how == "aclose":
                            await answer.aclose()
                        elif how == "cancelled":
                            await trio.sleep(1.7)
                        else:
                            return
                assert how == "aclose"

        async with client_of(world, ingress, token_of(world)) as client:
            if how == "client gone":
                answer = client.chat(CHAT, max_tokens=500)
                await anext(answer)
                await until(lambda: serving.running.ports.engine.load().running == 1)
            else:
                with trio.move_on_after(3.0):
                    await first_token(client)
                await until(lambda: all(map(nothing_runs, world.hosts)), timeout_s=1)
        await until(lambda: all(map(nothing_runs, world.hosts)), timeout_s=1)

    scenario(body, (None, SLOW_DECODE) if forwarded else (SLOW_DECODE,))


@pytest.mark.parametrize(
    ("fields", "code", "status", "param"),
    [
        ({"model": "gpt"}, "model_not_found", 404, "model"),
        ({"max_tokens": 9000}, "context_length_exceeded", 400, "max_tokens"),
        ({"n": 2}, "unsupported_parameter", 400, "n"),
        ({"temperature": "hot"}, "invalid_request", 400, "temperature"),
    ],
)
def test_a_bad_request_is_a_typed_error(
    fields: Mapping[str, object], code: str, status: int, param: str
) -> None:
    async def body(world: World) -> None:
        async with client_of(world, world.hosts[0], token_of(world)) as client:
            answer = client.chat(CHAT, **fields)
            with pytest.raises(RequestError) as caught:
                await answer.text()
            assert (caught.value.status, caught.value.param) == (status, param)
            assert code in {caught.value.code, "unsupported_parameter", "invalid_request"}
            assert answer.request_id is not None
            assert [event async for event in answer] == []
            assert client._line.connection.statistics().streams_open == 0
            assert await client.chat(CHAT, max_tokens=1).text()

    scenario(body)


def test_a_token_that_is_not_good_is_a_typed_error_that_does_not_quote_it() -> None:
    async def body(world: World) -> None:
        good = token_of(world)
        for bad, status, code in (
            ("", 401, "invalid_api_key"),
            ("nonsense", 401, "invalid_api_key"),
            (good[:-4] + "AAAA", 401, "invalid_api_key"),
            (token_of(world, ttl_s=0.001), 401, "invalid_api_key"),
            (token_of(world, scopes=()), 403, "forbidden"),
        ):
            async with client_of(world, world.hosts[0], bad) as client:
                with pytest.raises(RequestError) as caught:
                    await client.chat(CHAT).text()
                assert (caught.value.status, caught.value.code) == (status, code)
                assert not bad or bad not in caught.value.message

    scenario(body)


def test_a_tenant_that_is_not_served_here_is_421_and_names_no_peer() -> None:
    async def main() -> None:
        outside = {0: ("other",)}
        async with world_of(32, [FAST, FAST], tenants=("default", "other"), outside=outside) as w:
            await everybody_ready(w)
            async with client_of(w, w.hosts[0], token_of(w, tenant="other")) as client:
                with pytest.raises(RequestError) as caught:
                    await client.chat(CHAT).text()
            assert (caught.value.status, caught.value.code) == (421, "not_a_member")
            assert "12D3" not in caught.value.message
            assert "rhizome token create" in caught.value.message

    simulate(32, main)


def test_a_draining_peer_takes_no_new_request_and_finishes_the_old_one() -> None:
    async def body(world: World) -> None:
        node = world.hosts[0].running
        async with client_of(world, world.hosts[0], token_of(world)) as client:
            answer = client.chat(CHAT, max_tokens=20, temperature=0)
            await anext(answer)
            node.leaving.set()
            await until(lambda: node.draining)
            with pytest.raises(RequestError) as caught:
                await client.chat(CHAT).text()
            assert (caught.value.code, caught.value.status) == ("draining", 503)
            assert caught.value.retry_after_s
            assert [e async for e in answer if isinstance(e, Finished)]

    scenario(body)


def test_a_deadline_ends_the_request_on_both_sides() -> None:
    async def body(world: World) -> None:
        async with client_of(world, world.hosts[0], token_of(world)) as client:
            began_s = trio.current_time()
            with pytest.raises((Deadline, RequestError)):
                await client.chat(CHAT, max_tokens=4000, timeout_s=3.0).text()
            assert 2.9 < trio.current_time() - began_s < 3.2
            await until(lambda: nothing_runs(world.hosts[0]), timeout_s=1)

    scenario(body, (SLOW_DECODE,))


def test_a_peer_that_dies_in_the_middle_is_peer_gone() -> None:
    async def body(world: World) -> None:
        async with client_of(world, world.hosts[0], token_of(world)) as client:
            answer = client.chat(CHAT, max_tokens=100)
            await anext(answer)
            world.kill(world.hosts[0])
            with pytest.raises(PeerGone):
                await answer.text()
            with pytest.raises(PeerGone):
                await client.chat(CHAT).text()

    scenario(body)


# -- a server that breaks the rules, at the Unix socket of a home folder

BEGAN = encode(Began(request_id="0" * 32, model="toy", served_by="12D3"))
PIECE = encode(Piece(text="x", token_ids=[1]))
DONE = Done(
    finish_reason="stop",
    prompt_tokens=1,
    completion_tokens=1,
    cached_tokens=0,
    served_by="12D3",
    hops=0,
    resumes=0,
)


@asynccontextmanager
async def serving(host: Host, home: Home, handler: Handler) -> AsyncIterator[None]:
    async def accept(channel: SecureChannel) -> None:
        connection = await establish(
            channel,
            ours=host.running.hello(),
            judge=host.running.admission.judge,
            expected=None,
            clock=host.running.ports.clock,
            entropy=host.running.ports.entropy,
            limits=Limits(),
        )
        await connection.run({PROTOCOL: handler})

    async with trio.open_nursery() as nursery:
        await nursery.start(listen_local, home.control_path(), accept)
        yield
        nursery.cancel_scope.cancel()


def says(*messages: bytes, then: str = "finish") -> Handler:
    async def handler(connection: Connection, stream: Stream) -> None:
        assert decode_ask(stream.body).credential == "default"
        for message in messages:
            await stream.send(message)
        if then == "hangs":
            await trio.sleep_forever()
        while then == "drips":
            await trio.sleep(0.3)
            await stream.send(PIECE)
        if then == "resets":
            await trio.sleep(0.1)
            stream.reset()
        if then == "hangs up":
            await trio.sleep(0.1)
            await connection.aclose(0, "bye")

    return handler


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (says(), ProtocolError),
        (says(BEGAN, PIECE), ProtocolError),
        (says(b"garbage"), ProtocolError),
        (says(BEGAN, b"\xc1" * 1000), ProtocolError),
        (says(b""), ProtocolError),
        (says(BEGAN, encode(msgspec.structs.replace(DONE, finish_reason="?"))), ProtocolError),
        (says(then="resets"), StreamReset),
        (says(BEGAN, then="resets"), StreamReset),
        (says(BEGAN, then="hangs up"), PeerGone),
        (says(BEGAN, then="hangs"), Deadline),
        (says(BEGAN, then="drips"), Deadline),
        (says(then="hangs"), Deadline),
    ],
)
def test_a_server_that_breaks_the_rules_is_a_typed_error_in_time(
    handler: Handler, error: type[OverlayError], tmp_path: Path
) -> None:
    home = Home.create(tmp_path / "h")

    async def body(world: World) -> None:
        async with serving(world.hosts[0], home, handler):
            began_s = trio.current_time()
            with pytest.raises(error):
                async with PeerClient.connect(home=home.path, tenant="default") as client:
                    await client.chat(CHAT, timeout_s=2.0).text()
            assert trio.current_time() - began_s < 2.5

    scenario(body)


# -- connecting


async def test_connecting_by_home_without_a_peer_is_one_plain_error(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="there is no"):
        async with PeerClient.connect(home=tmp_path / "none"):
            raise AssertionError
    Home.create(tmp_path / "h")
    with pytest.raises(HomeError, match="no peer is running"):
        async with PeerClient.connect(home=str(tmp_path / "h")):
            raise AssertionError


async def test_arguments_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    for arguments in (
        {"address": "127.0.0.1:1", "token": "t"},
        {"address": "127.0.0.1:1", "ca": tmp_path / "none", "token": "t"},
        {"address": "127.0.0.1", "ca": tmp_path / "none", "token": "t"},
        {"address": "127.0.0.1:1", "home": tmp_path},
        {"address": "127.0.0.1:1", "tenant": "a"},
        {"home": tmp_path, "token": "t"},
        {"home": tmp_path, "ca": "root.der"},
    ):
        with pytest.raises(ConfigError):
            async with PeerClient.connect(**arguments):  # type: ignore[arg-type]  # on purpose
                raise AssertionError


async def test_what_is_raised_in_the_block_leaves_it_as_it_is(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        path = Home.create(tmp_path / "h").control_path()
        overlay = Overlay()
        host = overlay.host()

        async def accept(channel: SecureChannel) -> None:
            await (await link(overlay, host, channel)).run({})

        await nursery.start(listen_local, path, accept)
        with pytest.raises(ZeroDivisionError):
            async with PeerClient.connect(home=tmp_path / "h"):
                raise ZeroDivisionError
        nursery.cancel_scope.cancel()


async def test_a_client_goes_on_after_its_peer_has_started_again(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    overlay = Overlay()
    host = overlay.host()
    dialled = 0

    async def answer(connection: Connection, stream: Stream) -> None:
        await stream.send(BEGAN)
        await stream.send(encode(DONE))

    async def accept(channel: SecureChannel) -> None:
        nonlocal dialled
        dialled += 1
        await (await link(overlay, host, channel)).run({PROTOCOL: answer})

    async def peer(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async with trio.open_nursery() as inner:
            await inner.start(listen_local, home.control_path(), accept)
            task_status.started(inner.cancel_scope)

    async def ask(client: PeerClient) -> None:
        assert isinstance([event async for event in client.chat(CHAT)][-1], Finished)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(peer)
            async with PeerClient.connect(home=home.path) as client:
                await ask(client)
                first.cancel()
                await until(lambda: not home.control_path().exists())
                with pytest.raises(HomeError, match="no peer is running"):
                    await ask(client)
                second = await nursery.start(peer)
                async with trio.open_nursery() as asking:
                    for _ in range(5):
                        asking.start_soon(ask, client)
                assert dialled == 2, "one new connection for all of them"
            second.cancel()


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(1 << 16)])
async def test_a_server_that_is_no_peer_is_refused(tmp_path: Path, data: bytes) -> None:
    async def garbage(channel: SecureChannel) -> None:
        await channel.channel.send_all(data)

    async with trio.open_nursery() as nursery:
        await nursery.start(listen_local, Home.create(tmp_path / "h").control_path(), garbage)
        with pytest.raises(OverlayError), trio.fail_after(5):
            async with PeerClient.connect(home=tmp_path / "h"):
                raise AssertionError
        nursery.cancel_scope.cancel()


async def test_connecting_by_address_and_token_to_a_real_node(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    authority = found_overlay(home, ["default"], SystemClock(), SystemEntropy())
    found_overlay(Home.create(tmp_path / "other"), ["default"], SystemClock(), SystemEntropy())
    _, issued = authority.issue_token(
        authority.tenant_id("default"),
        "test",
        ttl_s=60,
        scopes=["infer"],
        secret=SystemEntropy().secret,
        now_unix_s=SystemClock().unix_s(),
    )
    token = issued.text
    config = PeerConfig(engine=EngineKind.TOY, mdns=False, toy_decode_s=0.001)
    identity = load_identity(home)
    engine = make_engine(config, lambda _what, _share: None, SystemEntropy())
    ports = make_ports(home, config, identity, [], engine)
    node_config = NodeConfig(
        identity=identity,
        epochs=tuple(home.read_epochs().values()),
        listen=(Address("127.0.0.1", 0),),
    )
    async with trio.open_nursery() as nursery:
        node = await nursery.start(run, node_config, ports)
        address = str(node.addresses[0])
        ca = home.path / "root.der"
        with trio.fail_after(20):
            async with PeerClient.connect(address, token=token, ca=ca) as client:
                assert await client.chat(CHAT, max_tokens=3).text()
            async with PeerClient.connect(address, token="no", ca=str(ca)) as client:
                with pytest.raises(RequestError) as caught:
                    await client.chat(CHAT).text()
                assert caught.value.status == 401
            with pytest.raises(SecurityError):
                async with PeerClient.connect(
                    address, token=token, ca=tmp_path / "other" / "root.der"
                ):
                    raise AssertionError
        nursery.cancel_scope.cancel()
    with pytest.raises(OSError):
        async with PeerClient.connect(address, token=token, ca=ca):
            raise AssertionError
