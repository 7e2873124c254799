"""The contract of ``overlay.ports.Transport``: TLS on loopback, bare and through the relays of live
mode, TLS between the namespaces of live mode, and the simulated network.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Protocol

import pytest
import trio
import trio.testing

from chaos.faults.fault import Network as JoinedBy
from chaos.modes.live.namespaces import Namespaces, address_of, namespaces
from chaos.modes.live.relay import Relay
from chaos.modes.live.weather import LinkWeather
from chaos.network import Network, SimTransport
from chaos.scenario.scenario import Cluster
from chaos.trace import Trace
from overlay.address import Address
from overlay.ports import SecureChannel, Transport
from overlay.transport.tcp import TlsTransport
from overlay.transport.tls import Credentials, TlsChannel
from security.certificate import make_next_root, parse_leaf, renew_issuer
from security.errors import SecurityError
from security.peer_id import PeerId
from tests.chaos.live.namespaces import needs_namespaces
from tests.overlay.transport.world import Overlay


class Hosts(Protocol):
    """A place with hosts; each has credentials, a transport and an address to listen on."""

    overlay: Overlay
    credentials: list[Credentials]

    def transport(self, number: int) -> Transport: ...

    def of(self, credentials: Credentials) -> Transport:
        """The transport of one more host, which may have any credentials."""
        ...

    def renewed(self, credentials: Credentials) -> bytes:
        """A host's next leaf, always the same."""
        ...

    async def die(self, number: int, channel: SecureChannel) -> None:
        """A host that has ``channel`` open is gone, without a word of goodbye."""

    def address(self, number: int) -> Address: ...


class Loopback:
    """Real sockets and TLS."""

    def __init__(self) -> None:
        self.overlay = Overlay()
        self.credentials = [self.overlay.host() for _ in range(3)]

    def transport(self, number: int) -> Transport:
        return self._at(number, self.credentials[number])

    def of(self, credentials: Credentials) -> Transport:
        return self._at(2, credentials)

    def renewed(self, credentials: Credentials) -> bytes:
        return self.overlay.renewed(credentials)

    async def die(self, number: int, channel: SecureChannel) -> None:
        """What the system does to the connections of a process that is killed."""
        assert isinstance(channel.channel, TlsChannel)
        await trio.aclose_forcefully(channel.channel._stream)

    def _at(self, number: int, own: Credentials) -> Transport:
        return TlsTransport(own)

    def address(self, number: int) -> Address:
        return Address("127.0.0.1", 0)


class Relayed(Loopback):
    """Real sockets and TLS through relays, as in live mode: each host dials from its address."""

    def __init__(self) -> None:
        super().__init__()
        sources = [f"127.0.0.{number + 2}" for number in range(3)]
        self._names = {source: str(number) for number, source in enumerate(sources)}

    def _at(self, number: int, own: Credentials) -> Transport:
        inner = TlsTransport(own, source_address=f"127.0.0.{number + 2}")
        return RelayedTransport(inner, str(number), self._names)


class RelayedTransport:
    """A transport that is reached through relays, one in front of each address."""

    def __init__(self, inner: Transport, node: str, names: Mapping[str, str]) -> None:
        self._inner = inner
        self._node = node
        self._names = names

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        return await self._inner.dial(address, peer_id)

    def show(self, leaf: bytes, issuer: bytes, roots: Sequence[bytes]) -> None:
        self._inner.show(leaf, issuer, roots)

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Callable[[SecureChannel], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(self._inner.listen, addresses, accept)
            relayed = []
            for each in bound:
                target = (each.host, each.port)
                fair = {(other, self._node): LinkWeather() for other in self._names.values()}
                relay = Relay(self._node, target, names=self._names, weather=fair)
                relayed.append(Address(*await nursery.start(relay.run, "127.0.0.1")))
            task_status.started(tuple(relayed))


Place = Callable[[], AbstractContextManager[None]]

PLACE: ContextVar[Place] = ContextVar("PLACE", default=nullcontext)
"""Where a task's sockets are made."""


class SocketsInPlace(trio.abc.SocketFactory):
    """Makes each socket in the network namespace of whoever asks for it."""

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> trio.socket.SocketType:
        with PLACE.get()():
            return trio.socket.from_stdlib_socket(socket.socket(family, kind, proto))


class Switched(Loopback):
    """Real sockets and TLS between network namespaces, over packets, as in live mode."""

    def __init__(self, network: Namespaces) -> None:
        super().__init__()
        self._network = network

    def _at(self, number: int, own: Credentials) -> Transport:
        return PlacedTransport(TlsTransport(own), partial(self._network.inside, f"n{number + 1}"))

    def address(self, number: int) -> Address:
        return Address(address_of(number + 1), 0)


class PlacedTransport:
    """A transport whose sockets are in a place."""

    def __init__(self, inner: Transport, place: Place) -> None:
        self._inner = inner
        self._place = place

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        before = PLACE.set(self._place)
        try:
            return await self._inner.dial(address, peer_id)
        finally:
            PLACE.reset(before)

    def show(self, leaf: bytes, issuer: bytes, roots: Sequence[bytes]) -> None:
        self._inner.show(leaf, issuer, roots)

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Callable[[SecureChannel], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        PLACE.set(self._place)  # the task is this transport's own
        await self._inner.listen(addresses, accept, task_status=task_status)


class Simulated:
    """The simulation's network."""

    def __init__(self) -> None:
        self.overlay = Overlay()
        self.credentials = [self.overlay.host() for _ in range(3)]
        self._network = Network(Trace())

    def transport(self, number: int) -> Transport:
        return self._at(self.address(number).host, self.credentials[number])

    def of(self, credentials: Credentials) -> Transport:
        return self._at("10.0.1.1", credentials)

    def renewed(self, credentials: Credentials) -> bytes:
        return self.overlay.renewed(credentials)

    async def die(self, number: int, channel: SecureChannel) -> None:
        self._network.kill(self.address(number).host)

    def _at(self, host: str, own: Credentials) -> Transport:
        return SimTransport(self._network, host, own.leaf, own.issuer, own.roots)

    def address(self, number: int) -> Address:
        return Address(f"10.0.0.{number + 1}", 0)


@pytest.fixture(
    params=[Loopback, Relayed, Simulated, pytest.param(Switched, marks=needs_namespaces)]
)
async def hosts(request: pytest.FixtureRequest) -> AsyncIterator[Hosts]:
    if request.param is not Switched:
        yield request.param()
        return
    trio.socket.set_custom_socket_factory(SocketsInPlace())
    with namespaces(Cluster(nodes=3, network=JoinedBy.NAMESPACES)) as network:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            yield Switched(network)
            nursery.cancel_scope.cancel()


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


async def send_for_ever(channel: SecureChannel) -> None:
    while True:
        await channel.channel.send_all(bytes(100_000))


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


async def test_another_certificate_is_shown_from_then_on_and_open_channels_stay(
    hosts: Hosts,
) -> None:
    seen: list[SecureChannel] = []

    async def accept(channel: SecureChannel) -> None:
        seen.append(channel)
        await answer(channel)

    own = hosts.credentials[0]
    # The same host as another one: what is compared is which certificate is shown.
    new = hosts.credentials[2]
    listener, dialler = hosts.of(own), hosts.of(new)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            bound = await nursery.start(listener.listen, [hosts.address(2)], accept)
            before = await dialler.dial(bound[0], own.keys.peer_id)
            listener.show(hosts.renewed(own), own.issuer, own.roots)
            dialler.show(hosts.renewed(new), new.issuer, new.roots)
            after = await dialler.dial(bound[0], own.keys.peer_id)
            for channel in (before, after):
                await channel.channel.send_all(b"x")
                assert await receive_exactly(channel, 1) == b"x"
            assert [before.leaf, after.leaf] == [own.leaf, hosts.renewed(own)]
            assert [each.leaf for each in seen] == [new.leaf, hosts.renewed(new)]
            await before.channel.aclose()
            await after.channel.aclose()
        nursery.cancel_scope.cancel()


async def test_roots_are_believed_while_they_are_in_force_and_open_channels_stay(
    hosts: Hosts,
) -> None:
    """The dialler's issuer has two certificates: by the old root, and by the next one."""
    overlay, own, far = hosts.overlay, hosts.credentials[1], hosts.credentials[0]
    old = overlay.root
    new = make_next_root(overlay.overlay_id, 2, overlay.secret, overlay.now_unix_s)
    again = renew_issuer(new, overlay.issuer, overlay.secret, overlay.now_unix_s).der
    listener, dialler = hosts.of(far), hosts.of(own)
    both = (old.der, new.der)

    async def is_let_in() -> bool:
        try:
            channel = await dialler.dial(bound[0], far.keys.peer_id)
            try:
                await channel.channel.send_all(b"x")
                return await channel.channel.receive_some() == b"x"
            finally:
                await channel.channel.aclose()
        except (SecurityError, trio.BrokenResourceError):
            return False

    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            bound = await nursery.start(listener.listen, [hosts.address(2)], answer)
            before = await dialler.dial(bound[0], far.keys.peer_id)
            dialler.show(own.leaf, again, both)
            assert not await is_let_in(), "by a root that is not known at the far end"
            listener.show(far.leaf, far.issuer, both)
            assert await is_let_in()
            listener.show(far.leaf, again, [new.der])
            assert await is_let_in()
            dialler.show(own.leaf, own.issuer, both)
            assert not await is_let_in(), "by a root that was let go"
            await before.channel.send_all(b"y")
            assert await receive_exactly(before, 1) == b"y"
            await before.channel.aclose()
        nursery.cancel_scope.cancel()


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


async def test_a_host_of_another_overlay_refuses_and_is_refused(hosts: Hosts) -> None:
    accepted: list[SecureChannel] = []

    async def accept(channel: SecureChannel) -> None:
        accepted.append(channel)

    foreign = Overlay(2).host()
    async with listening(hosts, 0, accept) as (address, _):
        with pytest.raises(SecurityError):
            await hosts.of(foreign).dial(address, None)
        # One that would take us: it hears of its refusal now or by its first read.
        willing = replace(foreign, roots=hosts.credentials[0].roots)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
            await first_bytes(hosts.of(willing), address)
    assert accepted == []


async def first_bytes(transport: Transport, address: Address) -> bytes:
    channel = await transport.dial(address, None)
    return await channel.channel.receive_some()


async def test_a_far_end_that_dies_breaks_the_channel(hosts: Hosts) -> None:
    accepted: list[SecureChannel] = []

    async def accept(channel: SecureChannel) -> None:
        accepted.append(channel)
        await channel.channel.send_all(b"x")
        await trio.sleep_forever()

    async with listening(hosts, 0, accept) as (address, _):
        channel = await hosts.transport(1).dial(address, None)
        assert await receive_exactly(channel, 1) == b"x"
        await hosts.die(0, accepted[0])
        with trio.fail_after(10):
            with pytest.raises(trio.BrokenResourceError):
                await channel.channel.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await send_for_ever(channel)
        await channel.channel.aclose()


async def test_a_send_that_was_cancelled_has_broken_the_channel(hosts: Hosts) -> None:
    async def accept(channel: SecureChannel) -> None:
        await trio.sleep_forever()

    async with listening(hosts, 0, accept) as (address, _):
        channel = await hosts.transport(1).dial(address, None)
        with trio.move_on_after(0.5) as scope:
            await send_for_ever(channel)
        assert scope.cancelled_caught
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await channel.channel.send_all(b"x")
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
