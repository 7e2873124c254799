"""Who gets through the handshake and who does not: an adversary with keys tries each way in."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from overlay.address import Address
from overlay.ports import SecureChannel
from overlay.transport.dial import dial_client
from overlay.transport.sockets import connect
from overlay.transport.tcp import TlsLimits, TlsTransport
from overlay.transport.tls import (
    CLIENT_ALPN,
    PEER_ALPN,
    TlsChannel,
    accepting_context,
    dialling_context,
)
from security.certificate import IssuerKey, issue_leaf
from security.errors import (
    Expired,
    IdentityMismatch,
    NotYetValid,
    SecurityError,
    UntrustedIssuer,
)
from tests.overlay.transport.world import HERE, Overlay

DAY_S = 86_400.0

Accept = Callable[[SecureChannel], Awaitable[None]]


async def hang_up(channel: SecureChannel) -> None:
    await channel.channel.aclose()


@asynccontextmanager
async def listening(
    transport: TlsTransport, accept: Accept | None = None
) -> AsyncIterator[Address]:
    async def greet(channel: SecureChannel) -> None:
        await channel.channel.send_all(b"hello")
        await channel.channel.receive_some()

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            bound = await nursery.start(transport.listen, [HERE], accept or greet)
            yield bound[0]
        nursery.cancel_scope.cancel()


async def is_let_in(transport: TlsTransport, address: Address) -> bool:
    """In TLS 1.3 a refused dialler learns of it by its first read."""
    try:
        channel = await transport.dial(address, None)
        try:
            return await channel.channel.receive_some() == b"hello"
        finally:
            await channel.channel.aclose()
    except trio.BrokenResourceError:
        return False


async def test_members_of_one_overlay_meet() -> None:
    overlay = Overlay()
    server, client = overlay.host(), overlay.host()
    async with listening(TlsTransport(server)) as address:
        assert await is_let_in(TlsTransport(client), address)


async def test_a_host_of_another_overlay_gets_in_nowhere_and_lets_nobody_in() -> None:
    ours, theirs = Overlay(1), Overlay(2)
    async with listening(TlsTransport(ours.host())) as address:
        with pytest.raises(UntrustedIssuer):
            await TlsTransport(theirs.host()).dial(address, None)
        spy = replace(theirs.host(), roots=(ours.root.der,))
        assert not await is_let_in(TlsTransport(spy), address)


async def test_no_certificate_is_no_entry() -> None:
    overlay = Overlay()
    transport = TlsTransport(overlay.host())
    async with listening(transport) as address:
        stream = await trio.open_tcp_stream(address.host, address.port)
        context = dialling_context([overlay.root.der], PEER_ALPN, credentials=None, named=False)
        channel = TlsChannel(stream, context, server_side=False)
        await channel.handshake(PEER_ALPN)
        with pytest.raises(trio.BrokenResourceError, match="certificate required"):
            await channel.receive_some()
        await channel.aclose()


@pytest.mark.parametrize(
    ("issued_s", "lifetime_s", "error"),
    [(-2 * DAY_S, DAY_S, Expired), (DAY_S, DAY_S, NotYetValid)],
)
async def test_a_certificate_out_of_its_dates_is_refused_by_either_end(
    issued_s: float, lifetime_s: float, error: type[SecurityError]
) -> None:
    overlay = Overlay()
    good = overlay.host()
    bad = overlay.host(issued_unix_s=overlay.now_unix_s + issued_s, lifetime_s=lifetime_s)
    async with listening(TlsTransport(good)) as address:
        assert not await is_let_in(TlsTransport(bad), address)
    async with listening(TlsTransport(bad)) as address:
        with pytest.raises(error):
            await TlsTransport(good).dial(address, None)


async def test_a_member_cannot_pose_as_another() -> None:
    overlay = Overlay()
    server, client, other = overlay.host(), overlay.host(), overlay.host()
    async with listening(TlsTransport(server)) as address:
        with pytest.raises(IdentityMismatch):
            await TlsTransport(client).dial(address, other.keys.peer_id)


async def test_a_stolen_certificate_is_worth_nothing_without_its_key() -> None:
    overlay = Overlay()
    thief = replace(overlay.host(), leaf=overlay.host().leaf)
    with pytest.raises(ssl.SSLError):
        TlsTransport(thief)


async def test_a_leaf_cannot_issue_certificates() -> None:
    overlay = Overlay()
    member = overlay.host()
    rogue = IssuerKey(
        private=member.keys.identity,
        der=overlay.issuer.der,
        issuer_id=overlay.issuer.issuer_id,
        overlay_id=overlay.overlay_id,
    )
    victim = overlay.host()
    leaf = issue_leaf(rogue, victim.keys.peer_id, overlay.secret, overlay.now_unix_s)
    forged = replace(victim, leaf=leaf, issuer=member.leaf)
    async with listening(TlsTransport(overlay.host())) as address:
        assert not await is_let_in(TlsTransport(forged), address)


@asynccontextmanager
async def raw_tls(address: Address, context: ssl.SSLContext) -> AsyncIterator[trio.SSLStream]:
    stream = await trio.open_tcp_stream(address.host, address.port)
    async with trio.SSLStream(stream, context) as tls:
        yield tls


def plain_context(overlay: Overlay, alpn: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=overlay.root.der)
    context.set_alpn_protocols(alpn)
    return context


async def test_tls_1_2_is_refused() -> None:
    overlay = Overlay()
    context = plain_context(overlay, [CLIENT_ALPN])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(TlsTransport(overlay.host())) as address:
        with pytest.raises(trio.BrokenResourceError):
            async with raw_tls(address, context) as tls:
                await tls.do_handshake()


async def passes(channel: TlsChannel, alpn: str) -> bool:
    try:
        await channel.handshake(alpn)
        return bool(await channel.receive_some())
    except trio.BrokenResourceError:
        return False


@pytest.mark.parametrize("alpn", [[], ["h2"], [CLIENT_ALPN, PEER_ALPN], [PEER_ALPN, CLIENT_ALPN]])
async def test_only_the_client_protocol_and_nothing_else_opens_the_client_face(
    alpn: list[str],
) -> None:
    overlay = Overlay()
    accepted = []

    async def accept(channel: SecureChannel) -> None:
        accepted.append(channel)

    async with listening(TlsTransport(overlay.host()), accept) as address:
        stream = await trio.open_tcp_stream(address.host, address.port)
        channel = TlsChannel(stream, plain_context(overlay, alpn), server_side=False)
        assert not await passes(channel, alpn[0] if alpn else PEER_ALPN)
        await channel.aclose()
        assert accepted == []


async def test_a_client_without_a_certificate_is_let_in_as_nobody() -> None:
    overlay = Overlay()
    server = overlay.host()
    transport = TlsTransport(server)
    seen: list[SecureChannel] = []

    async def accept(channel: SecureChannel) -> None:
        seen.append(channel)
        await channel.channel.send_all(b"hello")
        await channel.channel.receive_some()

    async with listening(transport, accept) as address:
        channel = await dial_client(address, overlay.root.der)
        assert await channel.channel.receive_some() == b"hello"
        assert channel.leaf == server.leaf
        assert seen[0].leaf is None
        assert seen[0].issuer is None
        await channel.channel.aclose()
        with pytest.raises(UntrustedIssuer):
            await dial_client(address, Overlay(2).root.der)


async def test_no_session_is_ever_resumed() -> None:
    overlay = Overlay()
    context = dialling_context(
        [overlay.root.der], PEER_ALPN, credentials=overlay.host(), named=False
    )
    async with listening(TlsTransport(overlay.host())) as address:
        channel = TlsChannel(
            await trio.open_tcp_stream(address.host, address.port), context, server_side=False
        )
        await channel.handshake(PEER_ALPN)
        assert await channel.receive_some() == b"hello"
        session = channel._tls.session
        assert session is None or not session.has_ticket
        assert context.session_stats()["number"] == 0
        await channel.aclose()


async def test_a_cut_connection_is_broken_not_ended() -> None:
    overlay = Overlay()
    server, client = overlay.host(), overlay.host()
    left, right = trio.testing.memory_stream_pair()
    accepting = TlsChannel(
        right,
        accepting_context(server, PEER_ALPN, mutual=True),
        server_side=True,
    )
    dialling = TlsChannel(
        left,
        dialling_context([overlay.root.der], PEER_ALPN, credentials=client, named=True),
        server_side=False,
        peer_id=server.keys.peer_id,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accepting.handshake, PEER_ALPN)
        nursery.start_soon(dialling.handshake, PEER_ALPN)
    await left.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await accepting.receive_some()


async def test_altered_bytes_break_the_channel() -> None:
    overlay = Overlay()
    server, client = overlay.host(), overlay.host()
    left, right = trio.testing.memory_stream_pair()
    accepting = TlsChannel(
        right, accepting_context(server, PEER_ALPN, mutual=True), server_side=True
    )
    dialling = TlsChannel(
        left,
        dialling_context([overlay.root.der], PEER_ALPN, credentials=client, named=False),
        server_side=False,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accepting.handshake, PEER_ALPN)
        nursery.start_soon(dialling.handshake, PEER_ALPN)
    await dialling.send_all(b"first")
    assert await accepting.receive_some() == b"first"
    data = bytearray(bytes(50))
    data[:5] = b"\x17\x03\x03\x00\x2d"
    await left.send_all(data)
    with pytest.raises(trio.BrokenResourceError):
        await accepting.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await accepting.send_all(b"more")


@pytest.mark.parametrize("bytes_sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00"])
async def test_silence_and_garbage_end_at_the_deadline_and_hold_up_nobody(
    bytes_sent: bytes,
) -> None:
    overlay = Overlay()
    transport = TlsTransport(overlay.host(), limits=TlsLimits(handshake_s=1.0))
    async with listening(transport) as address:
        stranger = await trio.open_tcp_stream(address.host, address.port)
        if bytes_sent:
            await stranger.send_all(bytes_sent)
        assert await is_let_in(TlsTransport(overlay.host()), address)
        try:
            while await stranger.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        await stranger.aclose()


async def test_one_address_holds_only_so_many_handshakes() -> None:
    overlay = Overlay()
    limits = TlsLimits(handshakes_per_address=3)
    transport = TlsTransport(overlay.host(), limits=limits)
    async with listening(transport) as address:
        strangers = [await trio.open_tcp_stream(address.host, address.port) for _ in range(4)]
        assert not await strangers[3].receive_some()
        assert transport.counts() == {"peer": 0, "client": 0, "refused": 1, "failed": 0}
        await strangers[0].aclose()
        while transport.counters.failed == 0:
            await trio.lowlevel.checkpoint()
        assert await is_let_in(TlsTransport(overlay.host()), address)
        for stranger in strangers:
            await stranger.aclose()


async def test_clients_without_certificates_are_bounded() -> None:
    overlay = Overlay()
    transport = TlsTransport(overlay.host(), limits=TlsLimits(clients=1))
    async with listening(transport) as address:
        first = await dial_client(address, overlay.root.der)
        assert await first.channel.receive_some() == b"hello"
        second = await dial_client(address, overlay.root.der)
        assert await second.channel.receive_some() == b""
        assert await is_let_in(TlsTransport(overlay.host()), address)
        await first.channel.aclose()
        await second.channel.aclose()


async def test_one_address_holds_only_so_many_client_connections() -> None:
    overlay = Overlay()
    transport = TlsTransport(overlay.host(), limits=TlsLimits(clients_per_address=1))
    async with listening(transport) as address:
        first = await dial_client(address, overlay.root.der)
        assert await first.channel.receive_some() == b"hello"
        second = await dial_client(address, overlay.root.der)
        assert await second.channel.receive_some() == b""
        other = TlsChannel(
            await connect(address, "127.0.0.9"),
            dialling_context([overlay.root.der], CLIENT_ALPN, credentials=None, named=False),
            server_side=False,
        )
        await other.handshake(CLIENT_ALPN)
        assert await other.receive_some() == b"hello"
        await first.channel.aclose()
        while transport._clients_at[address.host]:
            await trio.lowlevel.checkpoint()
        third = await dial_client(address, overlay.root.der)
        assert await third.channel.receive_some() == b"hello"
        for channel in (second.channel, other, third.channel):
            await channel.aclose()


async def test_a_taken_port_is_named() -> None:
    transport = TlsTransport(Overlay().host())
    async with listening(transport) as address:
        with pytest.raises(OSError, match=f"{address}"):
            await transport.listen([address], hang_up)


async def test_connections_come_from_the_source_address() -> None:
    overlay = Overlay()
    seen = []

    async def accept(channel: SecureChannel) -> None:
        seen.append(channel.address.host)

    async with listening(TlsTransport(overlay.host()), accept) as address:
        transport = TlsTransport(overlay.host(), source_address="127.0.0.9")
        channel = await transport.dial(address, None)
        assert await channel.channel.receive_some() == b""
        assert seen == ["127.0.0.9"]
