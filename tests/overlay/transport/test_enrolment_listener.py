"""Joining over TLS: one bounded exchange, the ticket's root alone believed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from overlay.address import Address
from overlay.errors import Deadline, PeerGone, RequestError
from overlay.transport.enrolment import (
    MESSAGE_BYTES_MAX,
    EnrolmentLimits,
    Handle,
    enrol,
    serve_enrolment,
)
from overlay.transport.tls import JOIN_ALPN, TlsChannel, dialling_context
from security.errors import TicketUsed, UntrustedIssuer
from tests.overlay.transport.world import HERE, Overlay

OVERLAY = Overlay()
HOST = OVERLAY.host()


async def admit(request: bytes, address: Address) -> bytes:
    assert address.is_loopback
    return b"welcome " + request


@asynccontextmanager
async def issuer(
    handle: Handle = admit, limits: EnrolmentLimits | None = None
) -> AsyncIterator[Address]:
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
            await serve_enrolment(
                [HERE],
                handle,
                credentials=lambda: HOST,
                limits=limits,
                task_status=task_status,
            )

        with trio.fail_after(10):
            bound = await nursery.start(serve)
            yield bound[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def joiner(address: Address) -> AsyncIterator[TlsChannel]:
    stream = await trio.open_tcp_stream(address.host, address.port)
    context = dialling_context([OVERLAY.root.der], JOIN_ALPN, credentials=None, named=False)
    channel = TlsChannel(stream, context, server_side=False)
    await channel.handshake(JOIN_ALPN)
    yield channel
    await channel.aclose()


async def test_a_request_brings_an_answer() -> None:
    async with issuer() as address:
        answer = await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5)
        assert answer == b"welcome me"


@pytest.mark.parametrize("size", [0, MESSAGE_BYTES_MAX - 8])
async def test_messages_of_any_allowed_size_pass(size: int) -> None:
    async with issuer() as address:
        answer = await enrol(address, [OVERLAY.root.der], bytes(size), timeout_s=5)
        assert len(answer) == size + 8


async def test_an_issuer_under_another_root_is_not_believed() -> None:
    async with issuer() as address:
        with pytest.raises(UntrustedIssuer):
            await enrol(address, [Overlay(2).root.der], b"secret", timeout_s=5)


async def test_a_refusal_reaches_the_joiner_with_its_cause() -> None:
    async def refuse(request: bytes, address: Address) -> bytes:
        raise TicketUsed("somebody has joined with that ticket")

    async with issuer(refuse) as address:
        with pytest.raises(RequestError, match="somebody has joined") as caught:
            await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5)
        assert caught.value.code == "ticket_used"


async def test_a_fault_of_ours_says_nothing_to_the_joiner_and_ends_one_exchange_only() -> None:
    calls = 0

    async def fail(request: bytes, address: Address) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("secret path /etc")
        return b"ok"

    async with issuer(fail) as address:
        with pytest.raises(PeerGone) as caught:
            await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5)
        assert "secret" not in str(caught.value)
        assert await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5) == b"ok"


async def test_an_oversized_request_is_refused_by_its_length_alone() -> None:
    async with issuer() as address, joiner(address) as channel:
        await channel.send_all(b"\0" + (MESSAGE_BYTES_MAX + 1).to_bytes(4, "big"))
        with pytest.raises(trio.BrokenResourceError):
            await channel.receive_some()


async def test_a_request_has_the_status_of_a_request() -> None:
    async with issuer() as address, joiner(address) as channel:
        await channel.send_all(b"\1" + (2).to_bytes(4, "big") + b"me")
        with pytest.raises(trio.BrokenResourceError):
            await channel.receive_some()


async def test_one_address_holds_only_so_many_connections() -> None:
    async with issuer(limits=EnrolmentLimits(connections_per_address=1)) as address:
        stranger = await trio.open_tcp_stream(address.host, address.port)
        with pytest.raises(PeerGone):
            await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5)
        other = await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5, source="127.0.0.9")
        assert other == b"welcome me"
        await stranger.aclose()


async def test_silence_ends_at_the_deadline_and_holds_up_nobody() -> None:
    limits = EnrolmentLimits(exchange_s=1.0)
    async with issuer(limits=limits) as address:
        stranger = await trio.open_tcp_stream(address.host, address.port)
        async with joiner(address) as silent:
            assert await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5) == b"welcome me"
            with pytest.raises(trio.BrokenResourceError):
                await silent.receive_some()
        assert await stranger.receive_some() == b""
        await stranger.aclose()


async def test_connections_are_bounded() -> None:
    async with issuer(limits=EnrolmentLimits(connections=1)) as address:
        stranger = await trio.open_tcp_stream(address.host, address.port)
        with pytest.raises(PeerGone):
            await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5)
        await stranger.aclose()


async def test_a_silent_issuer_is_given_up_in_time() -> None:
    async def never(request: bytes, address: Address) -> bytes:
        await trio.sleep_forever()
        return b""

    async with issuer(never) as address:
        with pytest.raises(Deadline):
            await enrol(address, [OVERLAY.root.der], b"me", timeout_s=0.3)


async def test_nobody_there_is_told_as_that() -> None:
    async with issuer() as address:
        pass
    with pytest.raises(PeerGone):
        await enrol(address, [OVERLAY.root.der], b"me", timeout_s=5)


async def test_the_overlay_protocol_is_not_spoken_here() -> None:
    async with issuer() as address:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=OVERLAY.root.der)
        context.set_alpn_protocols(["rhizome-peer/1"])
        stream = await trio.open_tcp_stream(address.host, address.port)
        channel = TlsChannel(stream, context, server_side=False)
        with pytest.raises(trio.BrokenResourceError):
            await channel.handshake("rhizome-peer/1")
        await channel.aclose()
