"""What each impairment of a link does to bytes, connections and handshakes."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
import trio

from chaos.impairments import (
    Corrupt,
    Delay,
    Hold,
    Jitter,
    LateEnd,
    Quota,
    SerialDelay,
    Slice,
    Swallow,
    Throttle,
    TooBig,
)
from chaos.network import Network, SimTransport
from chaos.pipe import IN_FLIGHT_BYTES_MAX, Impairment, Link, SimChannel
from chaos.simulation import run_simulation
from chaos.trace import Trace
from overlay.address import Address

A, B = "10.0.0.1", "10.0.0.2"
THERE, BACK = (A, B), (B, A)
DELAY_S = 0.01
BREAKS = (trio.BrokenResourceError, trio.ClosedResourceError)


def simulated(main: Callable[[], Awaitable[None]]) -> None:
    run_simulation(1, main, limit_s=1000)


def pair() -> tuple[Network, SimChannel, SimChannel]:
    network = Network(Trace(), Link(delay_s=DELAY_S))
    ours, theirs = network.connect(A, B)
    return network, ours, theirs


def rng(a: str, b: str) -> Random:
    return Random(f"{a}{b}")


@contextmanager
def impaired(
    network: Network, impairment: Impairment, link: tuple[str, str] = THERE
) -> Iterator[None]:
    network.impair("fault", [link], impairment)
    try:
        yield
    finally:
        network.relieve("fault")


async def arrival_s(ours: SimChannel, theirs: SimChannel, data: bytes = b"x") -> float:
    """How long it takes for all of some bytes to arrive."""
    began_s = trio.current_time()
    await ours.send_all(data)
    got = b""
    while len(got) < len(data):
        got += await theirs.receive_some()
    assert got == data
    return trio.current_time() - began_s


def test_latency_adds_to_one_direction_and_ends_with_the_fault() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        effects = [0]

        def count() -> None:
            effects[0] += 1

        with impaired(network, Delay(0.5, count)):
            assert await arrival_s(ours, theirs) == pytest.approx(0.51)
            assert await arrival_s(theirs, ours) == pytest.approx(DELAY_S)
        assert effects == [1]
        assert await arrival_s(ours, theirs) == pytest.approx(DELAY_S)

    simulated(main)


def test_jitter_keeps_the_order_and_follows_its_correlation() -> None:
    async def main(correlation: float) -> float:
        network, ours, theirs = pair()
        late = Jitter(0.05, 0.01, correlation, rng)
        drawn = []
        network.impair("fault", [THERE], late)
        for number in range(400):
            await ours.send_all(bytes([number % 256]))
            began_s = trio.current_time()
            assert await theirs.receive_some() == bytes([number % 256])
            drawn.append(trio.current_time() - began_s - DELAY_S - 0.05)
        mean = sum(drawn) / len(drawn)
        spread = sum((x - mean) ** 2 for x in drawn)
        assert abs(mean) < 0.01
        assert (spread / len(drawn)) ** 0.5 == pytest.approx(0.01, rel=0.3)
        pairs = itertools.pairwise(drawn)
        return sum((x - mean) * (y - mean) for x, y in pairs) / spread

    assert run_simulation(1, lambda: main(0.0)) == pytest.approx(0.0, abs=0.15)
    assert run_simulation(1, lambda: main(0.9)) > 0.7


def test_a_damaged_chunk_breaks_the_connection_at_both_ends() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, Corrupt(1.0, rng)):
            await ours.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await ours.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await ours.send_all(b"y")

    simulated(main)


def test_bandwidth_is_shared_by_the_connections_of_a_link() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        more, more_there = network.connect(A, B)
        with impaired(network, Throttle(1000.0)):
            began_s = trio.current_time()
            await ours.send_all(bytes(1000))
            await more.send_all(bytes(500))
            await theirs.receive_some()
            assert trio.current_time() - began_s == pytest.approx(1.0 + DELAY_S)
            await more_there.receive_some()
            assert trio.current_time() - began_s == pytest.approx(1.5 + DELAY_S)

    simulated(main)


def test_a_chunk_that_is_too_big_stalls_what_follows_until_the_fault_is_over() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, TooBig(100)):
            assert await arrival_s(ours, theirs, bytes(100)) == pytest.approx(DELAY_S)
            await ours.send_all(bytes(101))
            await ours.send_all(b"after")
            with trio.move_on_after(60) as waiting:
                await theirs.receive_some()
            assert waiting.cancelled_caught
        assert await theirs.receive_some() == bytes(101)
        assert await theirs.receive_some() == b"after"

    simulated(main)


def test_slices_come_with_a_gap_after_each() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, Slice(3, 0.1)):
            began_s = trio.current_time()
            await ours.send_all(b"abcdefgh")
            got = []
            for _ in range(3):
                data = await theirs.receive_some()
                got.append((data, round(trio.current_time() - began_s - DELAY_S, 6)))
            assert got == [(b"abc", 0.0), (b"def", 0.1), (b"gh", 0.2)]

    simulated(main)


def test_what_a_link_holds_arrives_in_the_end_and_a_sender_waits_when_it_is_much() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, Hold()):
            await ours.send_all(b"first")
            await ours.send_all(bytes(IN_FLIGHT_BYTES_MAX))
            with trio.move_on_after(5) as waiting:
                await ours.send_all(b"no room")
            assert waiting.cancelled_caught
            with trio.move_on_after(5) as waiting:
                await theirs.receive_some()
            assert waiting.cancelled_caught
        assert await theirs.receive_some() == b"first"

    simulated(main)


def test_a_black_hole_breaks_its_connections_when_it_ends_and_not_before() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, Swallow()):
            await ours.send_all(b"gone")
            await ours.aclose()
            with trio.move_on_after(60) as waiting:
                await theirs.receive_some()
            assert waiting.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()

    simulated(main)


def test_an_end_is_told_late() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, LateEnd(3.0)):
            assert await arrival_s(ours, theirs) == pytest.approx(DELAY_S)
            closed_s = trio.current_time()
            await ours.aclose()
            assert await theirs.receive_some() == b""
            assert trio.current_time() - closed_s == pytest.approx(3.0 + DELAY_S)

    simulated(main)


def test_a_quota_is_of_one_connection_from_the_faults_begin_on() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        assert await arrival_s(ours, theirs, bytes(500)) == pytest.approx(DELAY_S)
        with impaired(network, Quota(100)):
            await arrival_s(ours, theirs, bytes(60))
            await arrival_s(ours, theirs, bytes(40))
            await ours.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
            fresh, fresh_there = network.connect(A, B)
            await arrival_s(fresh, fresh_there, bytes(100))

    simulated(main)


def test_a_slow_reader_takes_one_chunk_after_the_other() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        with impaired(network, SerialDelay(0.1)):
            began_s = trio.current_time()
            for _ in range(3):
                await ours.send_all(b"x")
            for number in range(1, 4):
                await theirs.receive_some()
                assert trio.current_time() - began_s == pytest.approx(DELAY_S + number * 0.1)

    simulated(main)


def test_impairments_add_up_and_are_taken_off_one_by_one() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        network.impair("one", [THERE], Delay(1.0))
        network.impair("two", [THERE], Delay(2.0))
        assert await arrival_s(ours, theirs) == pytest.approx(3.0 + DELAY_S)
        network.relieve("one")
        assert await arrival_s(ours, theirs) == pytest.approx(2.0 + DELAY_S)
        network.relieve("two")
        network.relieve("two")
        assert await arrival_s(ours, theirs) == pytest.approx(DELAY_S)

    simulated(main)


def test_the_death_of_a_host_is_not_told_through_a_cut_link() -> None:
    async def main() -> None:
        network, ours, _ = pair()
        with impaired(network, Hold(), BACK):
            network.kill(B)
            with trio.move_on_after(60) as waiting:
                await ours.receive_some()
            assert waiting.cancelled_caught
            await ours.send_all(b"into the void")
        for use in (ours.receive_some(), ours.send_all(b"x")):
            with pytest.raises(trio.BrokenResourceError):
                await use

    simulated(main)


def test_a_reset_breaks_the_connections_of_a_link_once() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        assert network.reset([THERE]) == 1
        for channel in (ours, theirs):
            with pytest.raises(trio.BrokenResourceError):
                await channel.receive_some()
        fresh, fresh_there = network.connect(A, B)
        await arrival_s(fresh, fresh_there)

    simulated(main)


def test_a_host_that_moved_has_dead_connections_without_a_word() -> None:
    async def main() -> None:
        network, ours, theirs = pair()
        assert network.move(A, "10.77.0.1") == 1
        await ours.send_all(b"lost")
        await theirs.send_all(b"lost too")
        await ours.aclose()
        with trio.move_on_after(60) as waiting:
            await theirs.receive_some()
        assert waiting.cancelled_caught
        assert network.seen_as(A) == "10.77.0.1"

    simulated(main)


def test_a_waiting_reader_is_told_that_its_own_side_has_closed() -> None:
    async def main() -> None:
        _, ours, _ = pair()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(BREAKS):
                    await ours.receive_some()

            nursery.start_soon(read)
            await trio.sleep(1)
            await ours.aclose()

    simulated(main)


@pytest.mark.parametrize("link", [THERE, BACK])
def test_a_handshake_hangs_when_either_direction_is_cut(link: tuple[str, str]) -> None:
    async def main() -> None:
        network = Network(Trace(), Link(delay_s=DELAY_S))
        effects = [0]

        def count() -> None:
            effects[0] += 1

        with impaired(network, Hold(count), link):
            with trio.move_on_after(60) as dialling:
                await SimTransport(network, A, b"", b"", None).dial(Address(B, 1), None)
            assert dialling.cancelled_caught
        assert effects == [1]
        began_s = trio.current_time()
        with pytest.raises(ConnectionRefusedError):
            await SimTransport(network, A, b"", b"", None).dial(Address(B, 1), None)
        assert trio.current_time() - began_s == pytest.approx(4 * DELAY_S)

    simulated(main)


def test_a_host_without_file_descriptors_neither_dials_nor_accepts() -> None:
    async def main() -> None:
        network = Network(Trace(), Link(delay_s=DELAY_S))
        network.host(A).no_files["fault"] = lambda: None
        with pytest.raises(OSError, match="too many open files"):
            await SimTransport(network, A, b"", b"", None).dial(Address(B, 1), None)
        with trio.move_on_after(60) as dialling:
            await SimTransport(network, B, b"", b"", None).dial(Address(A, 1), None)
        assert dialling.cancelled_caught

    simulated(main)


def test_connections_that_are_over_are_forgotten() -> None:
    async def main() -> None:
        network = Network(Trace())
        for _ in range(2000):
            ours, theirs = network.connect(A, B)
            await ours.aclose()
            await theirs.aclose()
        assert len(network._pipes) <= 1024

    simulated(main)
