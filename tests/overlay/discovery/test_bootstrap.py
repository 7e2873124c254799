from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from chaos.entropy import SeededEntropy
from overlay.address import Address
from overlay.config import PeerConfig
from overlay.discovery.bootstrap import BootstrapDiscovery
from overlay.discovery.combined import CombinedDiscovery, make_discovery
from overlay.ports import Discovery, PeerHint
from security.peer_id import PeerId

US = PeerId("12D3KooWus")
A, B, OURS = (Address("127.0.0.1", port) for port in (1, 2, 3))


def bootstrap(*addresses: Address) -> BootstrapDiscovery:
    return BootstrapDiscovery(addresses, SeededEntropy(1, "x"))


async def heard(
    source: Discovery, seconds: float, size: int = 1000
) -> list[tuple[float, PeerHint]]:
    """What a source says in the first seconds, with the time of each hint."""
    send, receive = trio.open_memory_channel[PeerHint](size)
    hints: list[tuple[float, PeerHint]] = []
    start_s = trio.current_time()

    async def listen() -> None:
        async for hint in receive:
            hints.append((trio.current_time() - start_s, hint))  # noqa: PERF401 - is cancelled

    async with trio.open_nursery() as nursery:
        if size == 1000:
            nursery.start_soon(listen)
        await nursery.start(source.run, US, [OURS], send)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return hints


async def test_addresses_are_given_at_once_and_ours_never(autojump_clock: MockClock) -> None:
    hints = await heard(bootstrap(A, OURS, B, A), 0.5)
    assert hints == [
        (0, PeerHint(peer_id=None, addresses=(A,))),
        (0, PeerHint(peer_id=None, addresses=(B,))),
    ]


async def test_they_are_given_again_for_ever_at_growing_bounded_intervals(
    autojump_clock: MockClock,
) -> None:
    times = [time for time, _ in await heard(bootstrap(A), 300)]
    gaps = [after - before for before, after in pairwise(times)]
    assert 0.8 <= gaps[0] <= 1.2
    assert all(5 <= gap <= 10 for gap in gaps[4:])
    assert len(times) > 30


async def test_hints_that_find_the_channel_full_are_dropped_and_counted(
    autojump_clock: MockClock,
) -> None:
    source = bootstrap(A, B)
    await heard(source, 0.5, size=1)
    assert source.dropped == 1


async def test_combined_runs_all_and_closes_the_channel_once(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[PeerHint](100)
    async with trio.open_nursery() as nursery:
        both = CombinedDiscovery([bootstrap(A), bootstrap(B)])
        await nursery.start(both.run, US, [OURS], send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    found = [hint.addresses async for hint in receive]
    assert sorted(found) == [(A,), (B,)]


async def test_combined_of_nothing_finds_nobody(autojump_clock: MockClock) -> None:
    assert await heard(CombinedDiscovery([]), 100) == []


async def test_a_broken_source_is_not_hidden(autojump_clock: MockClock) -> None:
    class Broken:
        async def run(
            self,
            peer_id: PeerId,
            addresses: Sequence[Address],
            hints: trio.MemorySendChannel[PeerHint],
            *,
            task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            async with hints:
                task_status.started()
                await trio.sleep(1)
                raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await heard(CombinedDiscovery([Broken(), bootstrap(A)]), 10)


async def test_the_settings_say_which_ways_are_used(autojump_clock: MockClock) -> None:
    config = PeerConfig(mdns=False, bootstrap=(A,))
    made = make_discovery(config, overlay_id="ab", interfaces=(), entropy=SeededEntropy(1, "x"))
    assert await heard(made, 0.5) == [(0, PeerHint(peer_id=None, addresses=(A,)))]
