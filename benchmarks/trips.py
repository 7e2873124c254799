"""Round trips and bulk over one TCP connection, bare and through what the harness carries with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass

import trio

from chaos.modes.live.weather import LinkWeather, Shape

BODY = b"x" * 100
SETTINGS_MS = (1, 10, 50)
BULK_BYTES = 64 << 20
BULK_QUICK_BYTES = 8 << 20
CHUNK_BYTES = 65_536

Dial = Callable[[str], Awaitable[trio.SocketStream]]
"""Connects to a service by its name in :data:`SERVICES`."""


@dataclass(frozen=True)
class Ways:
    """Two ways to the same services; ``weather`` is of the direction there of the second."""

    bare: Dial
    carried: Dial
    weather: LinkWeather


@dataclass(frozen=True)
class Report:
    """All figures. ``delay_ms`` holds p50 and p99 by setting."""

    bare_rtt_us: float
    carried_rtt_us: float
    added_rtt_us: float
    bare_mb_per_s: float
    carried_mb_per_s: float
    delay_ms: dict[int, tuple[float, float]]


async def echo(stream: trio.SocketStream) -> None:
    """Sends everything back."""
    async with stream:
        while data := await stream.receive_some(CHUNK_BYTES):
            await stream.send_all(data)


async def sink(stream: trio.SocketStream) -> None:
    """Takes everything in, and says so in the end."""
    async with stream:
        while await stream.receive_some(CHUNK_BYTES):
            pass
        await stream.send_all(b".")


SERVICES: Mapping[str, Callable[[trio.SocketStream], Awaitable[None]]] = {
    "echo": echo,
    "sink": sink,
}


def quantile(values: list[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def round_trip_s(stream: trio.SocketStream) -> float:
    """One, in seconds."""
    began_s = trio.current_time()
    await stream.send_all(BODY)
    left = len(BODY)
    while left:
        left -= len(await stream.receive_some(left))
    return trio.current_time() - began_s


async def round_trips_s(dial: Dial, count: int) -> list[float]:
    """Many over one connection, without the first tenth."""
    async with await dial("echo") as stream:
        return [await round_trip_s(stream) for _ in range(count)][count // 10 :]


async def mb_per_s(dial: Dial, size: int) -> float:
    """How fast a large transfer goes, one way."""
    async with await dial("sink") as stream:
        began_s = trio.current_time()
        await stream.send_all(bytes(size))
        await stream.send_eof()
        await stream.receive_some(1)
        return size / 1e6 / (trio.current_time() - began_s)


async def measure(ways: Ways, *, quick: bool) -> Report:
    """Everything."""
    trips, delayed = (2_000, 100) if quick else (20_000, 400)
    size = BULK_QUICK_BYTES if quick else BULK_BYTES
    bare = quantile(await round_trips_s(ways.bare, trips), 0.5)
    carried = quantile(await round_trips_s(ways.carried, trips), 0.5)
    bulk = await mb_per_s(ways.bare, size), await mb_per_s(ways.carried, size)
    delays: dict[int, tuple[float, float]] = {}
    for setting_ms in SETTINGS_MS:
        shape = Shape(on_effect=lambda: None, delay_s=lambda: setting_ms / 1000)  # noqa: B023
        with ways.weather.under("benchmark", shape):
            taken_s = await round_trips_s(ways.carried, delayed)
        added_ms = [(each - carried) * 1000 for each in taken_s]
        delays[setting_ms] = (quantile(added_ms, 0.5), quantile(added_ms, 0.99))
    return Report(
        bare_rtt_us=bare * 1e6,
        carried_rtt_us=carried * 1e6,
        added_rtt_us=(carried - bare) * 1e6,
        bare_mb_per_s=bulk[0],
        carried_mb_per_s=bulk[1],
        delay_ms=delays,
    )


def report(
    open_ways: Callable[[], AbstractAsyncContextManager[Ways]], *, what: str, about: str
) -> None:
    """Measures by what the command line says, and prints; ``what`` carries the second way."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="fewer round trips")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()

    async def measured() -> Report:
        async with open_ways() as ways:
            return await measure(ways, quick=options.quick)

    found = trio.run(measured)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(
        f"round trip, p50: bare {found.bare_rtt_us:.0f} us, through {what} "
        f"{found.carried_rtt_us:.0f} us: {found.added_rtt_us:.0f} us more"
    )
    print(
        f"one way in bulk: bare {found.bare_mb_per_s:.0f} MB/s, through {what} "
        f"{found.carried_mb_per_s:.0f} MB/s"
    )
    for setting_ms, (p50, p99) in found.delay_ms.items():
        print(f"delay set to {setting_ms} ms: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
