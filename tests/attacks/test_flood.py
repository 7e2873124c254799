"""Too much, too long, too slow or too often: each has a bound, and honest hosts go on."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest
import trio

from chaos.adversary import forgeries
from chaos.world import until
from overlay.errors import OverlayError
from overlay.forward import PROTOCOL as FORWARD
from overlay.gossip.messages import Repair
from overlay.gossip.messages import encode as encode_gossip
from overlay.knowledge import PROTOCOL as GOSSIP
from overlay.ports import ByteChannel
from overlay.transport import frame
from overlay.transport.connection import Connection
from overlay.transport.frame import FIN, MORE, OPENER, FrameReader
from overlay.transport.hello import encode_hello
from overlay.transport.limits import Limits
from overlay.transport.tcp import TlsLimits
from overlay.transport.tls import CLIENT_ALPN
from tests.attacks.adversary import KeyHolder, Stranger, host_of, member_of_beta, repair
from tests.attacks.test_forward import forward
from tests.attacks.victim import ALPHA, BETA, Victim
from tests.attacks.worlds import honest_overlay, real_overlay, simulated

ENDED = (OverlayError, trio.BrokenResourceError, trio.ClosedResourceError)
ELSEWHERE = "127.0.0.66"


async def hear(channel: ByteChannel, frames: list[frame.Frame]) -> None:
    """Adds what a peer says until it hangs up."""
    reader = FrameReader(1 << 20)
    with suppress(*ENDED):
        while data := await channel.receive_some():
            frames += reader.feed(data)


async def all_frames(channel: ByteChannel) -> list[frame.Frame]:
    frames: list[frame.Frame] = []
    await hear(channel, frames)
    return frames


def opening(stream: int, protocol: str, body: bytes, flags: int = OPENER) -> bytes:
    return frame.encode(frame.OPEN, flags, stream, frame.encode_opening(protocol, 0) + body)


def ended_by_rule(frames: list[frame.Frame]) -> bool:
    """Whether the last word was that a rule was broken."""
    codes = [frame.decode_goaway(each.payload).code for each in frames if each.kind == frame.GOAWAY]
    return codes == [frame.GoawayCode.PROTOCOL]


BROKEN = {
    "a frame of 4 GiB": b"\xff\xff\xff\xff\x00\x00\x00\x01\x03\x00",
    "a frame of one byte too much": frame.HEADER.pack((64 << 10) + 1, 1, frame.DATA, OPENER),
    "a message of one part too much": opening(1, GOSSIP, b"")
    + frame.encode(frame.DATA, OPENER | MORE, 1, bytes(32_000)) * 34,
    "more than the window": opening(1, GOSSIP, b"", OPENER | MORE)
    + frame.encode(frame.DATA, OPENER | MORE, 1, b"") * 140_000,
    "credit that was never taken": opening(1, GOSSIP, b"")
    + frame.encode_u32(frame.WINDOW, OPENER, 1, 1 << 31) * 2,
    "a stream that never was": frame.encode(frame.DATA, OPENER, 77, b"x"),
    "the same stream twice": opening(1, GOSSIP, b"") * 2,
    "a protocol id that is longer than it says": frame.encode(
        frame.OPEN, OPENER, 1, b"\x00\x00\x00\x00\xff/short"
    ),
    "an unknown kind": frame.encode(99, 0, 0, b""),
}


@pytest.mark.parametrize("name", BROKEN)
@simulated
async def test_oversize_and_length_bombs_in_frames(name: str) -> None:
    async with honest_overlay() as victim:
        own, host = host_of(victim), victim.honest[0]
        async with victim.unharmed(by=own.peer_id), own.raw(host) as channel:
            with suppress(*ENDED):
                await channel.send_all(BROKEN[name])
            with trio.fail_after(5):
                assert ended_by_rule(await all_frames(channel))
            await until(lambda: own.peer_id not in host.running.peers.up())


@simulated
async def test_a_hello_that_is_too_large_or_drips_in() -> None:
    async with honest_overlay() as victim:
        own, host = host_of(victim), victim.honest[0]
        good = encode_hello(own.hello())
        async with victim.unharmed(by=own.peer_id):
            large = frame.HEADER.pack(2049, 0, frame.HELLO, 0) + bytes(2049)
            for parts in ([large], [bytes([byte]) for byte in good]):
                channel = (await own.dial(host)).channel
                with trio.fail_after(8), suppress(*ENDED):
                    for part in parts:
                        await channel.send_all(part)
                        await trio.sleep(0.1)
                    await all_frames(channel)
                assert own.peer_id not in host.running.peers.up()
                await channel.aclose()


@simulated
async def test_stream_exhaustion() -> None:
    """Streams that begin and never go on: so many and no more, and only of their own connection."""
    async with honest_overlay() as victim:
        own, host = member_of_beta(victim), victim.honest[0]
        most = Limits().windows.streams
        async with victim.unharmed(by=own.peer_id), own.raw(host) as channel:
            for number in range(1, most + 101):
                await channel.send_all(opening(number, FORWARD, b"x", OPENER | MORE))
            answers: list[frame.Frame] = []
            with trio.move_on_after(1):
                await hear(channel, answers)
            refused = [each.stream for each in answers if each.kind == frame.RESET]
            connection = host.running.peers.connection(own.peer_id)
            assert connection is not None
            now = connection.statistics()
            assert now.streams_open - now.streams_opened <= most  # the victim's own are beside them
            assert refused == list(range(most + 1, most + 101))


@simulated
async def test_opening_messages_that_are_never_whole() -> None:
    """The bytes of unfinished openings are bounded; what goes beyond is reset."""
    async with honest_overlay() as victim:
        own, host = member_of_beta(victim), victim.honest[0]
        part = bytes(32_000)
        async with victim.unharmed(by=own.peer_id), own.raw(host) as channel:
            for number in range(1, 400):
                with suppress(*ENDED):
                    await channel.send_all(opening(number, FORWARD, part, OPENER | MORE))
            with trio.fail_after(5):
                answers = await all_frames(channel)
            # Over the connection's window, as no credit comes back for what is unfinished.
            assert ended_by_rule(answers)


@simulated
async def test_rapid_reset() -> None:
    """Opened and reset at once, 2,000 times: a slot is free when its handler has ended."""
    async with honest_overlay() as victim:
        own, host = member_of_beta(victim), victim.honest[0]
        node = host.running
        model = node.ports.engine.capabilities().models[0].name
        body = b'{"messages": [{"role": "user", "content": "%d"}], "max_tokens": 1000}'
        async with own.raw(host) as channel:
            most = 0
            for number in range(1, 2001):
                message = forward(victim, BETA, model=model, body=body % number)
                reset = frame.encode_u32(frame.RESET, OPENER, number, frame.ResetCode.CANCELLED)
                with suppress(*ENDED):
                    await channel.send_all(opening(number, FORWARD, message, OPENER | FIN) + reset)
                if number % 100 == 0:
                    load = node.ports.engine.load()
                    most = max(most, load.running + load.queued)
                    await victim.ask(victim.honest[number // 100 % 2])
            assert most <= Limits().windows.streams
            await trio.sleep(1)
            load = node.ports.engine.load()
            assert (load.running, load.queued) == (0, 0)
        await victim.settle()


UNREAD = "the far side asks and does not read the answers"
ENDS = {"ping": UNREAD, "refused stream": UNREAD, "end of nothing": "an END frame inside a message"}
"""Why the connection ends, by what is asked; the last breaks a rule at once."""


@pytest.mark.parametrize("kind", ENDS)
@simulated
async def test_questions_whose_answers_are_not_read(kind: str) -> None:
    """Answers that nobody takes are bounded; then the connection ends."""
    async with honest_overlay() as victim:
        own, host = host_of(victim), victim.honest[0]
        async with victim.unharmed(by=own.peer_id), own.raw(host) as channel:
            await until(lambda: own.peer_id in host.running.peers.up())
            connection = host.running.peers.connection(own.peer_id)
            assert connection is not None
            with suppress(*ENDED), trio.move_on_after(30):
                for number in range(1, 200_000, 1000):
                    many = range(number, number + 1000)
                    if kind == "ping":
                        data = b"".join(frame.encode_ping(frame.PING, each) for each in many)
                    elif kind == "refused stream":
                        data = b"".join(opening(each, "/nothing", b"") for each in many)
                    else:
                        data = frame.encode(frame.END, 0, 1) * 1000
                    await channel.send_all(data)
            await until(lambda: own.peer_id not in host.running.peers.up())
            assert connection.closed == ENDS[kind]


@simulated
async def test_a_flood_of_gossip() -> None:
    """Forged, repeated and padded: counted and dropped, and the honest hosts' own goes on."""
    async with honest_overlay() as victim:
        own, rng = host_of(victim), Random(1)
        async with victim.unharmed(by=own.peer_id), own.gossiping(victim.honest[0]) as say:
            await say(repair(records=[own.record()], heads=[own.head()]))
            mine = Repair(epochs=[], records=[own.record()], heads=[own.head()], frames=[])
            for _ in range(300):
                made = forgeries(encode_gossip(mine), rng)
                assert made is not None
                await say(made)
            junk = Repair(epochs=[bytes(400)] * 50, records=[b""] * 500, heads=[], frames=[])
            for _ in range(20):
                await say(encode_gossip(junk))
            await trio.sleep(5)


@simulated
async def test_a_member_that_fills_every_queue() -> None:
    """With requests of its own tenant, at both hosts and without end: alpha's are answered."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        body = b'{"messages": [{"role": "user", "content": "%d"}], "max_tokens": 30}'

        async def flood(connection: Connection, number: int) -> None:
            while True:
                name = f"{number:032x}"
                message = forward(victim, BETA, body=body % number, request_id=name)
                async with connection.open(FORWARD, message) as stream:
                    while await stream.receive() is not None:
                        pass
                await trio.sleep(1)

        first, second = victim.honest
        async with (
            own.connected(first) as one,
            own.connected(second) as other,
            trio.open_nursery() as nursery,
        ):
            for number in range(70):
                nursery.start_soon(flood, one, number)
                nursery.start_soon(flood, other, number)
            await until(lambda: all(n.ports.engine.load().queued >= 64 for n in victim.nodes))
            for host in victim.honest:
                await victim.ask(host, ALPHA)
            nursery.cancel_scope.cancel()
        await victim.settle()


@simulated
async def test_clients_that_ask_for_nothing_are_let_go() -> None:
    async with honest_overlay() as victim:
        stranger, host = Stranger(victim), victim.honest[0]
        async with victim.unharmed(), stranger.connected(host) as connection:
            await until(lambda: connection.closed is not None, timeout_s=200)
            assert "too long" in str(connection.closed)


# -- before anything is proved, over real sockets


@asynccontextmanager
async def strangers(victim: Victim, count: int) -> AsyncIterator[list[trio.SocketStream]]:
    """So many connections from another address of this host."""
    address = victim.nodes[0].addresses[0]
    streams = []
    for _ in range(count):
        stream = await trio.open_tcp_stream(address.host, address.port, local_address=ELSEWHERE)
        streams.append(stream)
    try:
        yield streams
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def admitted(victim: Victim, own: KeyHolder) -> bool:
    host = victim.honest[0]
    async with own.connected(host):
        await until(lambda: own.peer_id in host.running.peers.up(), step_s=0.01)
        return True


async def test_a_flood_of_handshakes() -> None:
    """One address has a share of the handshakes under way; who comes from another one gets in."""
    async with real_overlay(TlsLimits(handshakes_per_address=8)) as victim:
        own = host_of(victim)
        transport = victim.nodes[0].ports.transport
        async with victim.unharmed(by=own.peer_id), strangers(victim, 100) as streams:
            await until(lambda: transport.counts()["refused"] >= 92, step_s=0.01)
            assert await admitted(victim, own)
            closed: list[trio.SocketStream] = []

            async def until_closed(stream: trio.SocketStream) -> None:
                with suppress(*ENDED):
                    assert await stream.receive_some() == b""
                closed.append(stream)

            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(until_closed, stream)
                await until(lambda: len(closed) >= 92, step_s=0.01)
                nursery.cancel_scope.cancel()


async def test_slowloris_in_the_handshake() -> None:
    """A ClientHello that drips in has the time of a handshake, from accept on."""
    async with real_overlay() as victim:
        own = host_of(victim)
        async with victim.unharmed(by=own.peer_id), strangers(victim, 8) as streams:
            whole = b"\x16\x03\x01\x02\x00\x01\x00" + bytes(510)
            unsaid: list[int] = []

            async def drip(stream: trio.SocketStream) -> None:
                left = len(whole)
                with suppress(*ENDED):
                    for byte in whole:
                        await stream.send_all(bytes([byte]))
                        left -= 1
                        await trio.sleep(0.05)
                unsaid.append(left)

            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(drip, stream)
                assert await admitted(victim, own)
            assert len(unsaid) == 8
            assert min(unsaid) > 0, "ended before it was whole"


async def test_a_flood_of_clients_from_one_address() -> None:
    """Handshakes that are complete, and no token: one address has so many and no more."""
    async with real_overlay(TlsLimits(clients_per_address=4)) as victim:
        own, node = host_of(victim), victim.nodes[0]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=own.identity.trust.roots.newest)
        context.set_alpn_protocols([CLIENT_ALPN])
        async with victim.unharmed(by=own.peer_id), strangers(victim, 12) as streams:
            open_now = 0
            for stream in streams:
                tls = trio.SSLStream(stream, context)
                with suppress(*ENDED):
                    await tls.do_handshake()
                    open_now += bool(await tls.receive_some())
            assert open_now == 4
            assert node.ports.transport.counts()["refused"] == 8
            assert await admitted(victim, own)
