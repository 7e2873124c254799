"""The contract of ``overlay.ports.Discovery``: multicast DNS on loopback, and the simulated one."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.network import Network, SimDiscovery
from chaos.trace import Trace
from overlay.address import Address
from overlay.discovery.interfaces import choose, list_interfaces
from overlay.discovery.mdns import MdnsDiscovery
from overlay.ports import Discovery, PeerHint
from overlay.system import SystemEntropy
from security.peer_id import PeerId, peer_id_of

FOUND_WITHIN_S = 10.0
REQUERY_S = 0.5


def peer(number: int) -> PeerId:
    return peer_id_of(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key())


class Lan(Protocol):
    """A place where peers can find each other; the number tells its peers apart."""

    def discovery(self, number: int) -> Discovery: ...

    def addresses(self, number: int) -> tuple[Address, ...]: ...


class Loopback:
    """Multicast DNS of this machine's loopback; a fresh overlay id keeps other runs out."""

    def __init__(self) -> None:
        self._overlay_id = SystemEntropy().secret(32).hex()

    def discovery(self, number: int) -> Discovery:
        return MdnsDiscovery(
            overlay_id=self._overlay_id,
            interfaces=choose(list_interfaces(), ["lo"]),
            entropy=SystemEntropy(),
            requery_s=REQUERY_S,
        )

    def addresses(self, number: int) -> tuple[Address, ...]:
        return (Address("127.0.0.1", 20_000 + number), Address("127.0.0.1", 30_000 + number))


class Simulated:
    def __init__(self) -> None:
        self._network = Network(Trace())

    def discovery(self, number: int) -> Discovery:
        return SimDiscovery(self._network, f"10.0.0.{number}", requery_s=REQUERY_S)

    def addresses(self, number: int) -> tuple[Address, ...]:
        return (Address(f"10.0.0.{number}", 7401), Address(f"10.0.0.{number}", 7402))


def loopback_multicast_works() -> bool:
    """Whether this machine passes multicast on loopback at all (some containers do not)."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        group = struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1"))
        try:
            one.bind(("", 0))
            one.settimeout(2)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            one.sendto(b"?", ("224.0.0.251", one.getsockname()[1]))
            return one.recv(10) == b"?"
        except OSError:
            return False


@pytest.fixture(params=["multicast DNS", "simulated"])
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    if request.param == "simulated":
        yield Simulated()
    elif loopback_multicast_works():
        yield Loopback()
    else:
        pytest.skip("multicast does not pass on this machine's loopback")


@contextlib.asynccontextmanager
async def running(
    lan: Lan, number: int, *, size: int = 100
) -> AsyncIterator[trio.MemoryReceiveChannel[PeerHint]]:
    """A peer that looks for others as long as the block lasts."""
    send, receive = trio.open_memory_channel[PeerHint](size)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(FOUND_WITHIN_S):
            await nursery.start(
                lan.discovery(number).run, peer(number), lan.addresses(number), send
            )
        yield receive
        nursery.cancel_scope.cancel()


async def finds(
    hints: trio.MemoryReceiveChannel[PeerHint], lan: Lan, numbers: Sequence[int]
) -> None:
    """Waits until a peer has heard of all these, with the right addresses."""
    known = {peer(number): lan.addresses(number) for number in range(1, 4)}
    missing = {peer(number): set(lan.addresses(number)) for number in numbers}
    with trio.fail_after(FOUND_WITHIN_S):
        while any(missing.values()):
            hint = await hints.receive()
            assert hint.peer_id is not None
            assert set(hint.addresses) <= set(known[hint.peer_id])
            missing.get(hint.peer_id, set()).difference_update(hint.addresses)


async def test_peers_started_in_any_order_find_each_other(lan: Lan) -> None:
    async with running(lan, 1) as first, running(lan, 2) as second, running(lan, 3) as third:
        await finds(first, lan, [2, 3])
        await finds(second, lan, [1, 3])
        await finds(third, lan, [1, 2])


async def test_a_peer_never_hears_of_itself(lan: Lan) -> None:
    async with running(lan, 1) as first, running(lan, 2) as second:
        await finds(second, lan, [1])
        await finds(first, lan, [2])
        with contextlib.suppress(trio.WouldBlock):
            while True:
                assert first.receive_nowait().peer_id != peer(1)


async def test_a_dropped_hint_is_given_again(lan: Lan) -> None:
    async with (
        running(lan, 1, size=1) as first,
        running(lan, 2) as second,
        running(lan, 3) as third,
    ):
        await finds(second, lan, [1, 3])
        await finds(third, lan, [1, 2])
        await finds(first, lan, [2, 3])


async def test_the_channel_is_closed_when_discovery_is_cancelled(lan: Lan) -> None:
    async with running(lan, 1) as first:
        pass
    with trio.fail_after(FOUND_WITHIN_S):
        assert [hint async for hint in first] == []


async def test_a_reader_that_went_away_hurts_nobody(lan: Lan) -> None:
    async with running(lan, 1) as first, running(lan, 2) as second:
        await finds(first, lan, [2])
        first.close()
        async with running(lan, 3) as third:
            await finds(second, lan, [3])
            await finds(third, lan, [1, 2])


async def test_a_peer_that_comes_back_is_found_again(lan: Lan) -> None:
    async with running(lan, 1) as first:
        for _ in range(2):
            async with running(lan, 2) as second:
                await finds(second, lan, [1])
                await finds(first, lan, [2])
