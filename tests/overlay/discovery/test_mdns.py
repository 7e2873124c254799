"""What is particular to multicast DNS: its questions, its goodbye, and what the LAN may send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zeroconf import (  # type: ignore[attr-defined]
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSService,
    DNSText,
    RecordUpdate,
    Zeroconf,
)

from overlay.address import Address
from overlay.discovery import mdns
from overlay.discovery.announcement import SERVICE_TYPE, Reader, announcements
from overlay.discovery.interfaces import Interface
from overlay.discovery.mdns import MdnsDiscovery
from overlay.ports import PeerHint
from overlay.system import SystemEntropy
from security.peer_id import PeerId, peer_id_of

GROUP, PORT = "224.0.0.251", 5353
LO = Interface(name="lo", hosts=("127.0.0.1", "::1"))
OURS = [Address("127.0.0.1", 20_001)]
WITHIN_S = 10.0


def peer(number: int) -> PeerId:
    return peer_id_of(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key())


class Wire:
    """A multicast socket on loopback that sees and sends DNS packets as any host could."""

    def __init__(self) -> None:
        self._socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    async def open(self) -> None:
        here = socket.inet_aton("127.0.0.1")
        await self._socket.bind((GROUP, PORT))
        group = struct.pack("4s4s", socket.inet_aton(GROUP), here)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)

    def close(self) -> None:
        self._socket.close()

    async def next_packet(self) -> DNSIncoming:
        return DNSIncoming(await self._socket.recv(9000))

    async def questions(self, count: int) -> None:
        """Waits for so many questions after our service."""
        while count:
            packet = await self.next_packet()
            count -= packet.is_query() and packet.questions[0].name == SERVICE_TYPE

    async def send(self, out: DNSOutgoing) -> None:
        for packet in out.packets():
            await self._socket.sendto(packet, (GROUP, PORT))


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    opened = Wire()
    try:
        await opened.open()
    except OSError as error:
        pytest.skip(f"no multicast on loopback here: {error}")
    yield opened
    opened.close()


OVERLAY = SystemEntropy().secret(32).hex()


def discovery(overlay_id: str = OVERLAY) -> MdnsDiscovery:
    return MdnsDiscovery(
        overlay_id=overlay_id, interfaces=[LO], entropy=SystemEntropy(), requery_s=0.4
    )


@contextlib.asynccontextmanager
async def running(source: MdnsDiscovery) -> AsyncIterator[trio.MemoryReceiveChannel[PeerHint]]:
    send, receive = trio.open_memory_channel[PeerHint](100)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(WITHIN_S):
            await nursery.start(source.run, peer(1), OURS, send)
            yield receive
        nursery.cancel_scope.cancel()


def answer(number: int, overlay_id: str, *, txt: bytes | None = None) -> DNSOutgoing:
    """The records of a peer, as it would multicast them, and never again."""
    (said,) = announcements(peer(number), overlay_id, [Address("127.0.0.1", 20_000 + number)])
    entries = [key + b"=" + value for key, value in said.txt.items()]
    raw = b"".join(bytes([len(entry)]) + entry for entry in entries) if txt is None else txt
    name, host = f"made-up-{number}.{SERVICE_TYPE}", f"made-up-{number}.local."
    out = DNSOutgoing(0x8400)
    out.add_answer_at_time(DNSPointer(SERVICE_TYPE, 12, 1, 4500, name), 0)
    out.add_answer_at_time(DNSService(name, 33, 1, 4500, 0, 0, said.port, host), 0)
    out.add_answer_at_time(DNSText(name, 16, 1, 4500, raw), 0)
    out.add_answer_at_time(DNSAddress(host, 1, 1, 4500, socket.inet_aton("127.0.0.1")), 0)
    return out


async def test_it_asks_for_ever(wire: Wire) -> None:
    async with running(discovery()):
        await wire.questions(6)


async def test_a_peer_that_was_out_of_reach_before_is_found_by_asking_again(wire: Wire) -> None:
    async with running(discovery()) as hints:
        await wire.questions(5)
        await wire.send(answer(2, OVERLAY))
        assert (await hints.receive()).peer_id == peer(2)


async def test_a_peer_that_fell_silent_is_not_given_again(wire: Wire) -> None:
    async with running(discovery()) as hints:
        await wire.send(answer(2, OVERLAY))
        assert (await hints.receive()).addresses == (Address("127.0.0.1", 20_002),)
        await wire.questions(5)
        with pytest.raises(trio.WouldBlock):
            hints.receive_nowait()


async def test_foreign_and_malformed_records_are_passed_over(wire: Wire) -> None:
    async with running(discovery()) as hints:
        await wire.send(answer(3, "ff" * 32))
        await wire.send(answer(4, OVERLAY, txt=b""))
        await wire.send(answer(5, OVERLAY, txt=b"\xff\xfe"))
        await wire._socket.sendto(b"\x00\x00\x84\x00garbage", (GROUP, PORT))
        await wire.send(answer(2, OVERLAY))
        assert (await hints.receive()).peer_id == peer(2)
        with pytest.raises(trio.WouldBlock):
            hints.receive_nowait()


async def test_leaving_says_goodbye_and_ends_the_thread(wire: Wire) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    async with running(discovery()):
        await wire.questions(1)
    with trio.fail_after(WITHIN_S):
        while True:
            packet = await wire.next_packet()
            gone = [r for r in packet.answers() if r.name == SERVICE_TYPE and r.ttl == 0]
            if gone:
                break
    left = [thread for thread in threading.enumerate() if thread.ident not in before]
    assert [thread.name for thread in left if "Trio" not in thread.name] == []


async def test_nothing_on_the_wire_names_more_than_peer_and_overlay(wire: Wire) -> None:
    async with running(discovery()):
        with trio.fail_after(WITHIN_S):
            texts: list[DNSText] = []
            while not texts:
                packet = await wire.next_packet()
                texts = [
                    record
                    for record in packet.answers()
                    if isinstance(record, DNSText) and OVERLAY[:16].encode() in record.text
                ]
    label = texts[0].name.removesuffix("." + SERVICE_TYPE)
    assert len(label) == 32
    assert set(label) <= set("0123456789abcdef")
    rest = texts[0].text
    for known in (b"v=1", b"id=" + peer(1).encode(), b"o=" + OVERLAY[:16].encode()):
        rest = rest.replace(bytes([len(known)]) + known, b"")
    assert rest == b""


@pytest.mark.parametrize(
    "interface",
    [
        Interface(name="lo", hosts=("::1",)),
        Interface(name="gone", hosts=("127.0.0.1", "fd00::dead")),
    ],
    ids=["no multicast", "address of nobody"],
)
async def test_where_multicast_is_not_to_be_had_the_peer_goes_on(
    interface: Interface, caplog: pytest.LogCaptureFixture
) -> None:
    source = MdnsDiscovery(overlay_id=OVERLAY, interfaces=[interface], entropy=SystemEntropy())
    with caplog.at_level(logging.WARNING):
        async with running(source) as hints:
            assert "multicast DNS is not to be had" in caplog.text
            with pytest.raises(trio.WouldBlock):
                hints.receive_nowait()


class Deaf(Zeroconf):
    """A zeroconf that opens nothing: lookups find no records."""

    def __init__(self) -> None:
        """Does nothing on purpose."""


def test_a_flood_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "INSTANCES_MAX", 50)

    async def flood() -> None:
        lan = mdns._Lan(
            Deaf(),
            Reader(peer(1), OVERLAY, OURS),
            labels=[],
            give=lambda hint: pytest.fail(str(hint)),
            rng=random.Random(1),
            requery_s=8.0,
        )

        async def never(name: str) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(lan, "_look_up", never)
        for i in range(1000):
            record = DNSPointer(SERVICE_TYPE, 12, 1, 4500, f"name{i}.{SERVICE_TYPE}", created=1.0)
            lan.async_update_records(Deaf(), 2.0, [RecordUpdate(record, None)])
        assert list(lan._heard_s) == [f"name{i}.{SERVICE_TYPE}" for i in range(950, 1000)]
        assert len(lan._lookups) == mdns.LOOKUPS_MAX
        for lookup in list(lan._lookups.values()):
            lookup.cancel()

    asyncio.run(flood())


@pytest.mark.parametrize(("ages_s", "skips"), [([], False), ([1, 3], True), ([1, 5], False)])
def test_a_question_is_left_out_only_where_everybody_has_just_answered_another(
    ages_s: list[float], *, skips: bool
) -> None:
    async def judge() -> bool:
        lan = mdns._Lan(
            Deaf(),
            Reader(peer(1), OVERLAY, OURS),
            labels=[],
            give=[].append,
            rng=random.Random(1),
            requery_s=8.0,
        )
        now_s = asyncio.get_running_loop().time()
        lan._heard_s = {str(age_s): now_s - age_s for age_s in ages_s}
        return lan._all_heard_within(4.0)

    assert asyncio.run(judge()) is skips
