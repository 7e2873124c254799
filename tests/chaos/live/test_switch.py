"""The switch between ports that are ends of socket pairs: no root, no device, no real time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from chaos.modes.live.frames import ACK, FRAME_BYTES_MAX, RST, SYN, segment_of
from chaos.modes.live.switch import FRAMES_A_TURN, Port, Switch
from chaos.modes.live.weather import Link, LinkWeather, Shape
from tests.chaos.live.frames import ADDRESSES, EVERYBODY, MULTICAST, frame, segment


@dataclass
class Ground:
    """A switch with ports ``a``, ``b`` and ``c``, and the other ends of their cables."""

    switch: Switch
    weather: dict[Link, LinkWeather]
    cables: dict[str, socket.socket]
    effects: list[str] = field(default_factory=list)

    def send(self, name: str, data: bytes) -> None:
        self.cables[name].send(data)

    async def receive(self, name: str) -> bytes:
        cable = self.cables[name]
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(cable)
        return cable.recv(FRAME_BYTES_MAX)

    def nothing_for(self, name: str) -> bool:
        try:
            self.cables[name].recv(FRAME_BYTES_MAX)
        except BlockingIOError:
            return True
        return False

    def shape(self, **what: object) -> Shape:
        return Shape(on_effect=lambda: self.effects.append("effect"), **what)


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    weather = {(a, b): LinkWeather() for a in "abc" for b in "abc" if a != b}
    cables, inner, ports = {}, [], []
    for name in "abc":
        cables[name], other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (cables[name], other):
            each.setblocking(False)
        inner.append(other)
        ports.append(Port(name=name, address=ADDRESSES[name], descriptor=other.fileno()))
    switch = Switch(ports, weather)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(switch.run)
            yield Ground(switch, weather, cables)
            nursery.cancel_scope.cancel()
    finally:
        for each in (*cables.values(), *inner):
            each.close()


async def test_a_frame_goes_to_its_node_and_one_for_a_group_to_all_others() -> None:
    async with ground() as here:
        here.send("a", frame("a", "b"))
        assert await here.receive("b") == frame("a", "b")
        for group in (EVERYBODY, MULTICAST):
            here.send("b", frame("b", group))
            assert await here.receive("a") == frame("b", group)
            assert await here.receive("c") == frame("b", group)
        assert here.nothing_for("b")
        assert here.switch.carried == 5


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        bytes(5),
        bytes(13),
        bytes(14),
        bytes(1500),
        b"\xff" * 13,
        frame("b", "c"),  # a speaks for b
        frame("a", "a"),
        frame("a", bytes([2, 9, 9, 9, 9, 9])),
        EVERYBODY + ADDRESSES["a"],
    ],
)
async def test_what_is_broken_false_or_for_nobody_is_dropped_and_counted(data: bytes) -> None:
    async with ground() as here:
        here.send("a", data)
        here.send("a", frame("a", "b"))
        assert await here.receive("b") == frame("a", "b")
        assert here.nothing_for("b")
        assert here.nothing_for("c")
        assert (here.switch.refused, here.switch.carried) == (1, 1)


async def test_garbage_after_the_addresses_is_carried_as_it_is() -> None:
    async with ground() as here:
        for body in (b"", b"\x45", b"\xff" * 1500, segment("a", "b")[14:40]):
            here.send("a", frame("a", "b", body))
            assert await here.receive("b") == frame("a", "b", body)


async def test_a_port_that_takes_nothing_loses_frames_and_stops_nobody() -> None:
    async with ground() as here:
        sent = 0
        while not here.switch.refused:
            here.send("a", frame("a", "b", bytes(1400)))
            sent += 1
            await trio.testing.wait_all_tasks_blocked()
        assert sent > 1
        here.send("a", frame("a", "c"))
        assert await here.receive("c") == frame("a", "c")


async def test_one_port_does_not_keep_the_others_waiting() -> None:
    async with ground() as here:
        for _ in range(2 * FRAMES_A_TURN):
            here.send("a", frame("a", "c"))
        here.send("b", frame("b", "c"))
        came = [await here.receive("c") for _ in range(2 * FRAMES_A_TURN + 1)]
        assert frame("b", "c") in came[: FRAMES_A_TURN + 1]


async def test_each_direction_has_its_own_delay_and_keeps_its_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    delays_s = iter([3.0, 1.0, 2.0])
    async with ground() as here:
        shape = here.shape(delay_s=lambda: next(delays_s))
        with here.weather["a", "b"].under("f", shape):
            for number in range(3):
                here.send("a", frame("a", "b", bytes([number])))
            here.send("b", frame("b", "a"))
            assert await here.receive("a") == frame("b", "a")
            assert trio.current_time() == pytest.approx(0)
            came = [await here.receive("b") for _ in range(3)]
        assert came == [frame("a", "b", bytes([number])) for number in range(3)]
        assert trio.current_time() == pytest.approx(3)
        assert len(here.effects) == 3


async def test_what_becomes_due_earlier_is_not_kept_behind_what_is_due_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with ground() as here:
        with (
            here.weather["a", "c"].under("f", here.shape(delay_s=lambda: 50.0)),
            here.weather["b", "c"].under("f", here.shape(delay_s=lambda: 1.0)),
        ):
            here.send("a", frame("a", "c"))
            await trio.testing.wait_all_tasks_blocked()
            here.send("b", frame("b", "c"))
            assert await here.receive("c") == frame("b", "c")
            assert trio.current_time() == pytest.approx(1)
            assert await here.receive("c") == frame("a", "c")


async def test_the_end_of_a_delay_lets_nothing_overtake(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with ground() as here:
        with here.weather["a", "b"].under("f", here.shape(delay_s=lambda: 1.0)):
            here.send("a", frame("a", "b", b"first"))
            await trio.testing.wait_all_tasks_blocked()
        here.send("a", frame("a", "b", b"second"))
        assert await here.receive("b") == frame("a", "b", b"first")
        assert await here.receive("b") == frame("a", "b", b"second")


async def test_a_jammed_link_lets_all_go_in_the_end() -> None:
    async with ground() as here:
        weather = here.weather["a", "b"]
        with weather.under("f", here.shape(holds=True)):
            for number in range(3):
                here.send("a", frame("a", "b", bytes([number])))
            here.send("a", frame("a", "c"))
            assert await here.receive("c") == frame("a", "c")
            assert here.nothing_for("b")
        for number in range(3):
            assert await here.receive("b") == frame("a", "b", bytes([number]))


async def test_a_cut_is_of_one_direction_of_one_pair_and_of_multicast_too() -> None:
    async with ground() as here:
        with here.weather["a", "b"].under("f", here.shape(cuts=True)):
            here.send("a", frame("a", "b"))
            here.send("a", frame("a", MULTICAST))
            assert await here.receive("c") == frame("a", MULTICAST)
            assert here.nothing_for("b")
            here.send("b", frame("b", "a"))
            assert await here.receive("a") == frame("b", "a")
        assert len(here.effects) == 2
        here.send("a", frame("a", "b"))
        assert await here.receive("b") == frame("a", "b")


async def test_a_reset_goes_to_both_ends_and_the_connection_is_carried_no_more() -> None:
    async with ground() as here:
        here.send("a", segment("a", "b", flags=SYN))
        await here.receive("b")
        here.send("b", segment("b", "a", flags=SYN | ACK))
        await here.receive("a")
        assert here.switch.reset("a", "b") == 1
        for name in ("a", "b"):
            told = segment_of(await here.receive(name))
            assert told is not None
            assert told.flags == RST | ACK
        here.send("a", segment("a", "b", data=b"x"))
        again = segment_of(await here.receive("a"))
        assert again is not None
        assert again.flags == RST | ACK
        assert here.nothing_for("b")
        assert here.switch.reset("a", "b") == 0


async def send_to_a_cable_that_is_gone() -> None:
    async with ground() as here:
        here.cables["b"].close()
        here.send("a", frame("a", "b"))
        with trio.fail_after(10):
            await trio.sleep_forever()


async def test_a_cable_that_is_gone_is_an_error_of_the_harness() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await send_to_a_cable_that_is_gone()
    assert caught.group_contains(OSError)
