"""The control socket: its owner alone, bounded strangers, and what it tells."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest
import trio

from chaos.world import World, world_of
from inference.toy import ToyConfig
from overlay.address import Address
from overlay.client import PeerClient
from overlay.config import PeerConfig
from overlay.control.client import call
from overlay.control.handler import NOT_A_COMMAND, NOT_AN_ISSUER, ControlHandler
from overlay.control.messages import (
    PROTOCOL,
    Command,
    ControlRefusal,
    CreateToken,
    Explain,
    ExplainReply,
    GetStatus,
    Invite,
    InviteReply,
    Leave,
    LeaveReply,
    StatusReply,
    TokenReply,
    decode_command,
    decode_reply,
    encode,
)
from overlay.discovery.interfaces import Interface
from overlay.errors import (
    ConfigError,
    HomeError,
    OverlayError,
    ProtocolError,
    RequestError,
    StorageFull,
)
from overlay.faces import Faces
from overlay.forward import PROTOCOL as FORWARD_PROTOCOL
from overlay.home import Home
from overlay.issuer import IssuerDesk
from overlay.transport.connection import Connection
from overlay.transport.dial import dial_socket
from overlay.transport.frame import FIN, HEADER, OPEN, OPENER, encode_opening
from overlay.transport.frame import encode as encode_frame
from overlay.transport.hello import client_hello, encode_hello
from overlay.transport.limits import Limits
from overlay.transport.stream import Stream
from security.ticket import Ticket
from tests.overlay.peers_world import FAST, everybody_ready, simulate

CONFIG = PeerConfig(interfaces=("lo",), enrol_port=0, http=Address("127.0.0.1", 0))
LOOPBACK = Interface(name="lo", hosts=("127.0.0.1",))
MARKER = "zanzibar-marker"
THREE_SLOTS = ToyConfig(slots=3, prefill_tokens_per_s=5000, decode_s_per_token=0.1, end_every=0)


@asynccontextmanager
async def facing(world: World, home: Home) -> AsyncIterator[Home]:
    """The first host's node with the faces of a real peer on a home folder."""
    async with trio.open_nursery() as nursery:
        faces = Faces(home, CONFIG, [LOOPBACK], trio.Event())
        await nursery.start(faces.serve, world.hosts[0].running)
        yield home
        nursery.cancel_scope.cancel()


def scenario(
    tmp_path: Path,
    body: Callable[[World, Home], Awaitable[None]],
    hosts: int = 1,
    engine: ToyConfig = FAST,
) -> None:
    async def main() -> None:
        tenants = ("default", "other")
        async with world_of(41, [engine] * hosts, tenants=tenants) as world:
            await everybody_ready(world)
            async with facing(world, Home.create(tmp_path / "h")) as home:
                await body(world, home)

    simulate(41, main)


async def works(home: Home) -> None:
    with trio.fail_after(1):
        assert (await call(home, GetStatus(), StatusReply)).models == ["toy"]


def test_the_socket_is_its_owners_alone_and_goes_with_the_peer(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        assert stat.S_IMODE(home.control_path().stat().st_mode) == 0o600
        await works(home)

    scenario(tmp_path, body)
    assert not Home(tmp_path / "h").control_path().exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * (1 << 20),
        bytes(1 << 20),
        HEADER.pack(1 << 31, 0, 1, 0),
    ],
)
def test_garbage_ends_its_connection_and_disturbs_nobody(tmp_path: Path, data: bytes) -> None:
    async def body(world: World, home: Home) -> None:
        stream = await trio.open_unix_socket(home.control_path())
        with trio.move_on_after(20):
            try:
                await stream.send_all(data)
                while await stream.receive_some(1 << 16):
                    await works(home)
            except trio.BrokenResourceError:
                pass
            await works(home)
            await stream.aclose()
            return
        raise AssertionError("the connection of a stranger that spoke garbage stands")

    scenario(tmp_path, body)


def test_a_caller_that_never_reads_is_left_and_holds_up_nobody(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        stream = await trio.open_unix_socket(home.control_path())
        hello = client_hello(overlay_id="", windows=Limits().windows, unix_s=0)
        await stream.send_all(encode_hello(hello))
        opening = encode_opening(PROTOCOL, 10_000) + encode(GetStatus())
        left = False
        with trio.fail_after(20):
            for number in range(1, 100_000):
                try:
                    await stream.send_all(encode_frame(OPEN, OPENER | FIN, number, opening))
                except trio.BrokenResourceError:
                    left = True
                    break
                if number % 500 == 0:
                    await works(home)
        assert left
        await works(home)
        await stream.aclose()

    scenario(tmp_path, body)


def test_silence_ends_after_the_deadline_and_disturbs_nobody(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        silent = [await trio.open_unix_socket(home.control_path()) for _ in range(16)]
        await works(home)
        began_s = trio.current_time()
        for stream in silent:
            with trio.fail_after(Limits().hello_s + 2):
                while await stream.receive_some(1 << 16):
                    pass
        assert trio.current_time() - began_s < Limits().hello_s + 2
        for stream in silent:
            await stream.aclose()

    scenario(tmp_path, body)


@pytest.mark.parametrize(
    "body_bytes", [b"", b"\xc1", b"\x80", b"x" * 100_000, msgspec.msgpack.encode({"type": "x"})]
)
def test_a_malformed_command_is_refused_in_words(tmp_path: Path, body_bytes: bytes) -> None:
    async def body(world: World, home: Home) -> None:
        connection = await dial_socket(home)
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run, {})
            reply = decode_reply(await connection.call(PROTOCOL, body_bytes, timeout_s=5))
            assert getattr(reply, "message", None) == NOT_A_COMMAND
            again = await connection.call(PROTOCOL, encode(GetStatus()), timeout_s=5)
            assert isinstance(decode_reply(again), StatusReply)
            await connection.aclose(0, "done")
        await works(home)

    scenario(tmp_path, body)


def test_only_the_owners_protocols_are_served(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        connection = await dial_socket(home)
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run, {})
            for protocol in (FORWARD_PROTOCOL, "/rhizome/gossip/1", "/nothing"):
                with pytest.raises(OverlayError):
                    await connection.call(protocol, b"", timeout_s=5)
            await connection.aclose(0, "done")

    scenario(tmp_path, body)


def test_a_host_that_is_no_issuer_says_where_the_issuer_is(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        with pytest.raises(ConfigError, match=NOT_AN_ISSUER):
            await call(home, Invite(tenants=[], expires_s=60), InviteReply)
        with pytest.raises(ConfigError, match=NOT_AN_ISSUER):
            await call(home, CreateToken(tenant="default", name="a", expires_s=60), TokenReply)

    scenario(tmp_path, body)


class FullDesk:
    """An issuer's desk on a host whose disk is full."""

    issuer_id = "00" * 16

    def invite(self, *_: object, **__: object) -> Ticket:
        raise StorageFull("no space is left")


class OneCommand:
    """The stream of one call."""

    def __init__(self, command: Command) -> None:
        self.body = encode(command)
        self.replies: list[bytes] = []

    async def send(self, message: bytes) -> None:
        self.replies.append(message)

    async def finish(self) -> None:
        """Nothing follows."""


def test_what_cannot_be_done_now_is_not_blamed_on_the_command(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        desk = cast("IssuerDesk", FullDesk())
        handler = ControlHandler(world.hosts[0].running, desk=desk, enrolment=(), http=tuple)
        stream = OneCommand(Invite(tenants=[], expires_s=60))
        await handler(cast("Connection", None), cast("Stream", stream))
        refusal = decode_reply(stream.replies[0])
        assert refusal == ControlRefusal(message="no space is left", usage=False)

    scenario(tmp_path, body)


def test_a_reply_of_another_kind_is_told_as_another_version(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        with pytest.raises(HomeError, match="another version"):
            await call(home, GetStatus(), LeaveReply)

    scenario(tmp_path, body)


def test_leave_is_answered_before_the_peer_ends(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        node = world.hosts[0].running
        assert isinstance(await call(home, Leave(), LeaveReply), LeaveReply)
        assert node.leaving.is_set()

    scenario(tmp_path, body)


def test_status_tells_of_the_other_peer(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        other = world.hosts[1]
        await trio.sleep(10)
        status = await call(home, GetStatus(), StatusReply)
        (known,) = status.peers
        assert known.peer_id == other.identity.peer_id
        assert known.address.startswith(other.name)
        assert known.rtt_ms is not None
        assert 0 < known.rtt_ms < 1
        assert known.knowledge_age_s is not None
        assert known.knowledge_age_s < 5
        assert (known.slots, known.running, known.queued) == (FAST.slots, 0, 0)
        assert not known.suspected
        assert (known.dtypes, status.dtypes) == (["none"], {"toy": "none"})
        assert status.sent_bytes > 0
        assert status.tenants == ["default", "other"]
        of_one = await call(home, GetStatus(tenant="other"), StatusReply)
        assert (of_one.tenants, [each.peer_id for each in of_one.peers]) == (
            ["other"],
            [other.identity.peer_id],
        )
        with pytest.raises(ConfigError, match="it serves: default, other"):
            await call(home, GetStatus(tenant="none"), StatusReply)

    scenario(tmp_path, body, hosts=2)


def test_the_view_of_one_tenant_hides_what_others_have_and_rounds_how_busy_this_host_is(
    tmp_path: Path,
) -> None:
    async def body(world: World, home: Home) -> None:
        async def asks(tenant: str) -> None:
            async with PeerClient.connect(home=home.path, tenant=tenant) as client:
                await client.chat([{"role": "user", "content": "hi"}], max_tokens=3000).text()

        async with trio.open_nursery() as nursery:
            for tenant in ("other",) * 3 + ("default",):
                nursery.start_soon(asks, tenant)
            await trio.sleep(5)
            whole = await call(home, GetStatus(), StatusReply)
            seen = await call(home, GetStatus(tenant="default"), StatusReply)
            shown = await call(home, Explain(tenant="default"), ExplainReply)
            nursery.cancel_scope.cancel()
        assert (whole.running, whole.open_requests) == (3, 4)
        assert (seen.running, seen.open_requests) == (4, 1)
        assert (seen.used_blocks, seen.total_blocks, seen.sent_bytes, seen.posture) == (0, 0, 0, [])
        assert whole.total_blocks > 0
        (candidate,) = shown.routes[0].candidates
        for value in (candidate.queue_ms, candidate.total_ms, candidate.score_ms):
            assert value == 0 or (value.is_integer() and int(value).bit_count() == 1)

    scenario(tmp_path, body, engine=THREE_SLOTS)


def test_explain_shows_every_candidate_and_no_prompt(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        with pytest.raises(RequestError, match="taken in no request yet"):
            await call(home, Explain(), ExplainReply)
        async with PeerClient.connect(home=home.path, tenant="other") as client:
            answer = client.chat([{"role": "user", "content": f"{MARKER} " * 40}], max_tokens=3)
            await answer.text()
        reply = await call(home, Explain(request_id=str(answer.request_id)), ExplainReply)
        assert reply == msgspec.structs.replace(
            await call(home, Explain(), ExplainReply), age_s=reply.age_s
        )
        of_it = Explain(request_id=str(answer.request_id), tenant="other")
        seen = await call(home, of_it, ExplainReply)
        assert [route.chosen for route in seen.routes] == [route.chosen for route in reply.routes]
        with pytest.raises(RequestError, match="last 1,000"):
            await call(home, msgspec.structs.replace(of_it, tenant="default"), ExplainReply)
        with pytest.raises(RequestError, match="taken in no request yet"):
            await call(home, Explain(tenant="default"), ExplainReply)
        with pytest.raises(ConfigError, match="it serves: default, other"):
            await call(home, Explain(tenant="none"), ExplainReply)
        (route,) = reply.routes
        assert {each.peer_id for each in route.candidates} == {
            host.identity.peer_id for host in world.hosts
        }
        assert {each.dtype for each in route.candidates} == {"none"}
        chosen = next(each for each in route.candidates if each.peer_id == route.chosen)
        parts_ms = chosen.queue_ms + chosen.rtt_ms + chosen.prefill_ms + chosen.decode_ms
        assert chosen.total_ms == pytest.approx(parts_ms, rel=0.01)
        assert reply.outcome is not None
        assert reply.outcome.completion_tokens == 3
        assert MARKER.encode() not in encode(reply)

    scenario(tmp_path, body, hosts=2)


def test_the_owner_names_a_tenant_where_there_are_several(tmp_path: Path) -> None:
    async def body(world: World, home: Home) -> None:
        async with PeerClient.connect(home=home.path) as client:
            assert await client.chat([{"role": "user", "content": "hi"}], max_tokens=1).text()
        async with PeerClient.connect(home=home.path, tenant="none") as client:
            with pytest.raises(OverlayError, match="it serves: default, other"):
                await client.chat([{"role": "user", "content": "hi"}]).text()

    scenario(tmp_path, body)


def test_messages_survive_their_bytes_and_refuse_others() -> None:
    for command in (
        GetStatus(),
        Explain(request_id="a"),
        Invite(tenants=["a"], expires_s=1.0),
        CreateToken(tenant="a", name="b", expires_s=1.0),
        Leave(),
    ):
        assert decode_command(encode(command)) == command
        for size in range(len(encode(command))):
            with pytest.raises(ProtocolError):
                decode_command(encode(command)[:size])
    for bad in (
        encode(Invite(tenants=["a"] * 65, expires_s=1.0)),
        encode(Invite(tenants=[], expires_s=0.0)),
        encode(Explain(request_id="x" * 257)),
        encode(LeaveReply()) + b"\x00",
        msgspec.msgpack.encode({"type": "leave", "more": 1}),
    ):
        with pytest.raises(ProtocolError) as caught:
            decode_command(bad)
        assert "x" * 10 not in str(caught.value)
