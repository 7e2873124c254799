"""The contract of ``overlay.ports.Transport``: TLS on loopback, and the simulated network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
import trio
import trio.testing

from chaos.network import Network, SimTransport
from chaos.trace import Trace
from overlay.address import Address
from overlay.ports import SecureChannel, Transport
from overlay.transport.tcp import TlsTransport
from overlay.transport.tls import Credentials
from security.certificate import parse_leaf
from security.errors import SecurityError
from tests.overlay.transport.world import Overlay


class Hosts(Protocol):
    """A place with hosts; each has credentials, a transport and an address to listen on."""

    credentials: list[Credentials]

    def transport(self, number: int) -> Transport: ...

    def address(self, number: int) -> Address: ...


class Loopback:
    """Real sockets and TLS."""

    def __init__(self) -> None:
        overlay = Overlay()
        self.credentials = [overlay.host() for _ in range(3)]

    def transport(self, number: int) -> Transport:
        return TlsTransport(self.credentials[number])

    def address(self, number: int) -> Address:
        return Address("127.0.0.1", 0)


class Simulated:
    """The simulation's network."""

    def __init__(self) -> None:
        overlay = Overlay()
        self.credentials = [overlay.host() for _ in range(3)]
        self._network = Network(Trace())

    def transport(self, number: int) -> Transport:
        credentials = self.credentials[number]
        return SimTransport(
            self._network, self.address(number).host, credentials.leaf, credentials.issuer
        )

    def address(self, number: int) -> Address:
        return Address(f"10.0.0.{number + 1}", 0)


@pytest.fixture(params=[Loopback, Simulated])
def hosts(request: pytest.FixtureRequest) -> Hosts:
    made: Hosts = request.param()
    return made


@asynccontextmanager
async def listening(
    hosts: Hosts, number: int, accept: object
) -> AsyncIterator[tuple[Address, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        listen = hosts.transport(number).listen
        with trio.fail_after(10):
            bound = await nursery.start(listen, [hosts.address(number)], accept)
            assert bound[0].port != 0
            yield bound[0], nursery
        nursery.cancel_scope.cancel()


async def receive_exactly(channel: SecureChannel, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await channel.channel.receive_some()
        assert more
        data += more
    return data


async def answer(channel: SecureChannel) -> None:
    """Sends everything back until the end."""
    while data := await channel.channel.receive_some():
        await channel.channel.send_all(data)


async def test_each_end_sees_the_certificate_of_the_other(hosts: Hosts) -> None:
    seen: list[SecureChannel] = []

    async def accept(channel: SecureChannel) -> None:
        seen.append(channel)
        await answer(channel)

    async with listening(hosts, 0, accept) as (address, _):
        peer_id = hosts.credentials[0].keys.peer_id
        channel = await hosts.transport(1).dial(address, peer_id)
        await channel.channel.send_all(b"x")
        assert await receive_exactly(channel, 1) == b"x"
        assert channel.leaf == hosts.credentials[0].leaf
        assert channel.issuer == hosts.credentials[0].issuer
        assert channel.address == address
        assert seen[0].leaf == hosts.credentials[1].leaf
        assert seen[0].issuer == hosts.credentials[1].issuer
        assert parse_leaf(seen[0].leaf).peer_id == hosts.credentials[1].keys.peer_id
        await channel.channel.aclose()


async def test_bytes_arrive_whole_and_in_order_both_ways(hosts: Hosts) -> None:
    sent = bytes(range(256)) * 8000

    async with listening(hosts, 0, answer) as (address, _):
        channel = await hosts.transport(1).dial(address, hosts.credentials[0].keys.peer_id)
        received = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.channel.send_all, sent)
            received = await receive_exactly(channel, len(sent))
        assert received == sent
        await channel.channel.aclose()


async def test_a_close_is_the_end_of_the_bytes(hosts: Hosts) -> None:
    ended = trio.Event()

    async def accept(channel: SecureChannel) -> None:
        assert await receive_exactly(channel, 4) == b"last"
        assert await channel.channel.receive_some() == b""
        assert await channel.channel.receive_some() == b""
        ended.set()

    async with listening(hosts, 0, accept) as (address, _):
        channel = await hosts.transport(1).dial(address, hosts.credentials[0].keys.peer_id)
        await channel.channel.send_all(b"last")
        await channel.channel.aclose()
        await ended.wait()


async def test_a_channel_closed_here_raises_here(hosts: Hosts) -> None:
    async with listening(hosts, 0, answer) as (address, _):
        channel = await hosts.transport(1).dial(address, None)
        await channel.channel.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await channel.channel.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await channel.channel.receive_some()
        await channel.channel.aclose()


async def test_a_dial_that_meets_another_peer_is_refused(hosts: Hosts) -> None:
    async with listening(hosts, 0, answer) as (address, _):
        with pytest.raises(SecurityError):
            await hosts.transport(1).dial(address, hosts.credentials[2].keys.peer_id)


async def test_a_dial_that_names_nobody_meets_whoever_listens(hosts: Hosts) -> None:
    async with listening(hosts, 0, answer) as (address, _):
        channel = await hosts.transport(1).dial(address, None)
        assert channel.leaf == hosts.credentials[0].leaf
        await channel.channel.aclose()


async def test_an_accept_that_raises_ends_its_channel_only(hosts: Hosts) -> None:
    calls = 0

    async def accept(channel: SecureChannel) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("bug")
        await answer(channel)

    async with listening(hosts, 0, accept) as (address, _):
        first = await hosts.transport(1).dial(address, None)
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            await receive_exactly(first, 1)
        second = await hosts.transport(1).dial(address, None)
        await second.channel.send_all(b"x")
        assert await receive_exactly(second, 1) == b"x"
        await first.channel.aclose()
        await second.channel.aclose()


async def test_nobody_listening_is_an_os_error(hosts: Hosts) -> None:
    async with listening(hosts, 0, answer) as (address, nursery):
        nursery.cancel_scope.cancel()
    with trio.fail_after(10), pytest.raises(OSError):
        await hosts.transport(1).dial(address, None)


async def test_several_addresses_are_listened_on_at_once(hosts: Hosts) -> None:
    async with trio.open_nursery() as nursery:
        addresses = [hosts.address(0), hosts.address(0)]
        bound = await nursery.start(hosts.transport(0).listen, addresses, answer)
        assert len(set(bound)) == 2
        for address in bound:
            channel = await hosts.transport(1).dial(address, None)
            await channel.channel.send_all(b"x")
            assert await receive_exactly(channel, 1) == b"x"
            await channel.channel.aclose()
        nursery.cancel_scope.cancel()
