"""Whose addresses are kept where they are more than fit: made-up names never drive out a peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from chaos.clock import VirtualClock
from chaos.entropy import SeededEntropy
from chaos.simulation import run_simulation
from overlay.address import Address
from overlay.peers import FORGET_S, Peers, first_addresses
from overlay.ports import PeerHint, SecureChannel
from overlay.transport.connection import Connection
from security.keys import HostKeys
from security.peer_id import PeerId

KNOWN_MAX = 4


class NobodyThere:
    """A transport whose every dial fails; notes who was dialled."""

    def __init__(self) -> None:
        self.dialled: list[PeerId | None] = []

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Callable[[SecureChannel], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        del accept
        task_status.started(tuple(addresses))
        await trio.sleep_forever()

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        self.dialled.append(peer_id)
        await trio.sleep(1.0)
        raise ConnectionRefusedError(f"nobody listens on {address}")


async def never(channel: SecureChannel, expected: PeerId | None) -> Connection:
    raise AssertionError((channel, expected))


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Peers, NobodyThere]]:
    monkeypatch.setattr("overlay.peers.KNOWN_MAX", KNOWN_MAX)
    transport = NobodyThere()
    peers = Peers(
        me=HostKeys.generate(SeededEntropy(1, "me").secret).peer_id,
        transport=transport,
        clock=VirtualClock(),
        entropy=SeededEntropy(1, "peers"),
        establish=never,
        admit=lambda _: None,
        handlers={},
        client_handlers={},
        on_up=lambda _: None,
        on_down=lambda _: None,
        on_self=lambda _: None,
        newer_of=lambda _: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(peers.run, ())
        yield peers, transport
        nursery.cancel_scope.cancel()


def names(count: int, purpose: str = "names") -> list[PeerId]:
    entropy = SeededEntropy(2, purpose)
    return [HostKeys.generate(entropy.secret).peer_id for _ in range(count)]


def told(peer_id: PeerId) -> PeerHint:
    return PeerHint(peer_id=peer_id, addresses=(Address("192.0.2.1", 7401),))


def test_a_signed_record_finds_room_among_made_up_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(monkeypatch) as (peers, transport):
            for name in names(2 * KNOWN_MAX):
                peers.hint(told(name))
            await trio.sleep(0.5)
            transport.dialled.clear()
            signed = names(KNOWN_MAX + 1, "signed")
            for name in signed[:KNOWN_MAX]:
                peers.hint(told(name), vouched=True)
            assert set(peers._known) == set(signed[:KNOWN_MAX])
            await trio.sleep(0.1)
            # What was dialled before is let go at once; one task listens.
            assert peers._nursery is not None
            listening = 1
            assert len(peers._nursery.child_tasks) == KNOWN_MAX + listening
            await trio.sleep(5.0)
            assert set(transport.dialled) == set(signed[:KNOWN_MAX])
            # Those that somebody vouches for make room for each other alone.
            for name in names(2 * KNOWN_MAX):
                peers.hint(told(name))
            assert set(peers._known) == set(signed[:KNOWN_MAX])
            peers.hint(told(signed[KNOWN_MAX]), vouched=True)
            assert len(peers._known) == KNOWN_MAX
            assert signed[KNOWN_MAX] in peers._known

    run_simulation(1, main)


def test_a_made_up_name_gives_way_to_the_next_one_once_it_was_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with running(monkeypatch) as (peers, transport):
            first = names(KNOWN_MAX)
            honest, *_ = names(1, "honest")
            for name in first:
                peers.hint(told(name))
            peers.hint(told(honest))
            assert set(peers._known) == set(first)
            await trio.sleep(5.0)
            peers.hint(told(honest))
            assert honest in peers._known
            assert len(peers._known) == KNOWN_MAX
            await trio.sleep(5.0)
            assert honest in transport.dialled
            gone = next(name for name in first if name not in peers._known)
            count = transport.dialled.count(gone)
            await trio.sleep(FORGET_S / 2)
            assert transport.dialled.count(gone) == count
            await trio.sleep(FORGET_S)
            assert peers._known == {}

    run_simulation(1, main)


def test_of_many_addresses_those_that_are_few_are_told_first() -> None:
    loopback, local = Address("127.0.0.1", 1), Address("10.0.0.1", 1)
    many = [Address(f"2001:db8::{number}", 1) for number in range(1, 6)]
    assert first_addresses([*many, loopback, local], 3) == (local, *many[:2])
    assert first_addresses([*many, loopback], 6) == (*many, loopback)
