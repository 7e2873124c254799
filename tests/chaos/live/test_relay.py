"""The relay in front of a live node, over real sockets on loopback."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.lowlevel

from chaos.errors import ChaosError
from chaos.modes.live.relay import Relay
from chaos.modes.live.weather import Link, LinkWeather, Shape

DIALER, STRANGER = "127.0.0.2", "127.0.0.3"
THERE, BACK = ("a", "b"), ("b", "a")
DELAY_S = 0.05

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class Ground:
    """A relay in front of ``b``, which ``a`` dials, and what ``b`` does with what comes."""

    relay: Relay
    address: tuple[str, int]
    weather: dict[Link, LinkWeather]
    effects: list[str] = field(default_factory=list)

    async def dial(self, source: str = DIALER) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address, local_address=source)

    def shape(self, **what: object) -> Shape:
        return Shape(on_effect=lambda: self.effects.append("effect"), **what)


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            while data := await stream.receive_some():
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return


@asynccontextmanager
async def ground(serve: Serve = echo) -> AsyncIterator[Ground]:
    weather = {THERE: LinkWeather(), BACK: LinkWeather()}
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await nursery.start(trio.serve_listeners, serve, listeners)
            target = listeners[0].socket.getsockname()
            relay = Relay("b", target, names={DIALER: "a"}, weather=weather)
            address = await nursery.start(relay.run, "127.0.0.1")
            yield Ground(relay, address, weather)
            nursery.cancel_scope.cancel()


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        assert more
        data += more
    return data


async def round_trip_s(stream: trio.SocketStream) -> float:
    began_s = trio.current_time()
    await stream.send_all(b"x")
    assert await exactly(stream, 1) == b"x"
    return trio.current_time() - began_s


async def test_a_fair_link_carries_both_ways_and_passes_the_end_on() -> None:
    async with ground() as here, await here.dial() as stream:
        sent = random.Random(1).randbytes(1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            assert await exactly(stream, len(sent)) == sent
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_each_direction_has_a_delay_of_its_own() -> None:
    async with ground() as here, await here.dial() as stream:
        shape = here.shape(delay_s=lambda: DELAY_S)
        with here.weather[THERE].under("f", shape):
            assert await round_trip_s(stream) >= DELAY_S
            with here.weather[BACK].under("f", shape):
                assert await round_trip_s(stream) >= 2 * DELAY_S
        assert len(here.effects) == 3
        await round_trip_s(stream)
        assert len(here.effects) == 3


async def test_a_connection_over_a_slow_link_takes_a_round_trip_to_come_about() -> None:
    async with ground() as here:
        with here.weather[THERE].under("f", here.shape(delay_s=lambda: DELAY_S)):
            began_s = trio.current_time()
            async with await here.dial() as stream:
                await round_trip_s(stream)
                assert trio.current_time() - began_s >= 2 * DELAY_S


async def test_delays_that_fall_keep_the_order() -> None:
    delays_s = iter([0.2, 0.1, 0.0, 0.0])
    async with ground() as here, await here.dial() as stream:
        drawn = here.shape(delay_s=lambda: next(delays_s))
        with here.weather[THERE].under("f", drawn):
            for number in range(3):
                await stream.send_all(bytes([number]))
                while len(here.effects) <= number:  # until the relay has taken it in by itself
                    await trio.lowlevel.checkpoint()
            assert await exactly(stream, 3) == bytes(range(3))


async def test_what_is_held_comes_in_the_end_and_only_then() -> None:
    came: list[bytes] = []
    first = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            came.append(data)
            first.set()

    async with ground(serve) as here, await here.dial() as stream:
        await stream.send_all(b"0")
        await first.wait()
        first = trio.Event()
        with here.weather[THERE].under("f", here.shape(holds=True)):
            await stream.send_all(b"1")
            while not here.effects:
                await trio.lowlevel.checkpoint()
            assert came == [b"0"]
            with here.weather[THERE].under("g", here.shape(holds=True)):
                pass
            assert came == [b"0"]
        await first.wait()
        assert b"".join(came) == b"01"


async def test_a_connection_over_a_link_that_holds_does_not_come_about() -> None:
    accepted: list[trio.SocketStream] = []

    async def serve(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        await echo(stream)

    async with ground(serve) as here:
        with here.weather[BACK].under("f", here.shape(holds=True)):
            stream = await here.dial()
            await stream.send_all(b"x")
            while not here.effects:
                await trio.lowlevel.checkpoint()
            assert not accepted
        assert await exactly(stream, 1) == b"x"
        await stream.aclose()


@pytest.mark.parametrize("shape", [{"holds": True}, {"swallows": True}])
async def test_a_reset_reaches_what_is_held_too(shape: dict[str, object]) -> None:
    async with ground() as here:
        open_one = await here.dial()
        await round_trip_s(open_one)
        with here.weather[THERE].under("f", here.shape(**shape)):
            held = await here.dial()
            await open_one.send_all(b"x")
            while len(here.effects) < 2:  # one chunk, and one connection that waits
                await trio.lowlevel.checkpoint()
            assert here.relay.reset("a") == 2
            for stream in (open_one, held):
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
                await stream.aclose()
        assert here.relay.reset("a") == 0


async def test_what_is_swallowed_never_comes_nor_does_the_end() -> None:
    came: list[bytes] = []
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        try:
            while data := await stream.receive_some():
                came.append(data)
            came.append(b"the end")
        except trio.BrokenResourceError:
            came.append(b"a reset")
        ended.set()

    async with ground(serve) as here:
        stream = await here.dial()
        await stream.send_all(b"0")
        while not came:
            await trio.lowlevel.checkpoint()
        with here.weather[THERE].under("f", here.shape(swallows=True)):
            await stream.send_all(b"1")
            while not here.effects:
                await trio.lowlevel.checkpoint()
            await stream.aclose()
            while len(here.effects) < 2:  # the end, which waits to be told
                await trio.lowlevel.checkpoint()
            assert here.relay.reset("a") == 1
        await ended.wait()
        assert came == [b"0", b"a reset"]


async def test_slices_arrive_as_such() -> None:
    came: list[bytes] = []
    whole = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            came.append(data)
            if sum(map(len, came)) == 100:
                whole.set()

    async with ground(serve) as here, await here.dial() as stream:
        with here.weather[THERE].under("f", here.shape(slice_bytes=16, slice_gap_s=0.02)):
            await stream.send_all(bytes(range(100)))
            await whole.wait()
    assert b"".join(came) == bytes(range(100))
    assert len(came) > 1
    assert here.effects == ["effect"]


async def test_a_paced_link_takes_its_time_whatever_the_number_of_connections() -> None:
    async with ground() as here, await here.dial() as one, await here.dial() as other:
        await round_trip_s(one)
        await round_trip_s(other)
        with here.weather[THERE].under("f", here.shape(bytes_per_s=100_000.0)):
            began_s = trio.current_time()

            async def ask(stream: trio.SocketStream) -> None:
                for _ in range(2):
                    await stream.send_all(bytes(10_000))
                    await exactly(stream, 10_000)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, one)
                nursery.start_soon(ask, other)
            # 20 kB of 40 at least; the last chunks are not waited for.
            assert trio.current_time() - began_s >= 0.19


async def test_a_stranger_passes_as_on_a_fair_link() -> None:
    async with ground() as here:
        with here.weather[THERE].under("f", here.shape(holds=True)):
            async with await here.dial(STRANGER) as stream:
                await round_trip_s(stream)
        assert not here.effects
        assert here.relay.reset("a") == 0


async def test_the_node_sees_the_address_that_was_dialled_from() -> None:
    async def tell_source(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(stream.socket.getpeername()[0].encode())

    async with ground(tell_source) as here:
        for source in (DIALER, STRANGER):
            async with await here.dial(source) as stream:
                assert await exactly(stream, len(source)) == source.encode()


async def test_nobody_behind_the_relay_is_a_reset() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            taken = await trio.open_tcp_listeners(0, host="127.0.0.1")
            target = taken[0].socket.getsockname()
            await taken[0].aclose()
            relay = Relay("b", target, names={}, weather={})
            address = await nursery.start(relay.run, "127.0.0.1")
            async with await trio.open_tcp_stream(*address) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            nursery.cancel_scope.cancel()


async def test_only_loopback_is_a_target() -> None:
    with pytest.raises(ChaosError, match="no loopback"):
        Relay("b", ("192.0.2.1", 80), names={}, weather={})
    relay = Relay("b", ("127.0.0.1", 80), names={}, weather={})
    with pytest.raises(ChaosError, match="no loopback"):
        await relay.run("192.0.2.1")
