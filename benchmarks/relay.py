"""What the relay of the chaos harness adds on loopback, and how well it keeps a set delay.

    python -m benchmarks.relay [--quick] [--json]

A round trip is 100 bytes there and back over one TCP connection: bare, through a relay that does
nothing, and through one that delays one direction. "delay" is a round trip less the median of the
relay that does nothing. Everything runs in one process and on one core, as a live run's relays do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos.modes.live.relay import Relay
from chaos.modes.live.weather import LinkWeather, Shape

DIALER = "127.0.0.2"
BODY = b"x" * 100
SETTINGS_MS = (1, 10, 50)
BULK_BYTES = 64 << 20


@dataclass(frozen=True)
class Report:
    """All figures. ``delay_ms`` holds p50 and p99 by setting."""

    bare_rtt_us: float
    relayed_rtt_us: float
    added_rtt_us: float
    bare_mb_per_s: float
    relayed_mb_per_s: float
    delay_ms: dict[int, tuple[float, float]]


def quantile(values: list[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def echo(stream: trio.SocketStream) -> None:
    """Sends everything back."""
    async with stream:
        while data := await stream.receive_some(65_536):
            await stream.send_all(data)


async def sink(stream: trio.SocketStream) -> None:
    """Takes everything in, and says so in the end."""
    async with stream:
        while await stream.receive_some(65_536):
            pass
        await stream.send_all(b".")


async def round_trip_s(stream: trio.SocketStream) -> float:
    """One, in seconds."""
    began_s = trio.current_time()
    await stream.send_all(BODY)
    left = len(BODY)
    while left:
        left -= len(await stream.receive_some(left))
    return trio.current_time() - began_s


async def round_trips_s(address: tuple[str, int], count: int) -> list[float]:
    """Many over one connection, without the first tenth."""
    async with await trio.open_tcp_stream(*address, local_address=DIALER) as stream:
        return [await round_trip_s(stream) for _ in range(count)][count // 10 :]


async def mb_per_s(address: tuple[str, int]) -> float:
    """How fast a large transfer goes, one way."""
    async with await trio.open_tcp_stream(*address, local_address=DIALER) as stream:
        began_s = trio.current_time()
        await stream.send_all(bytes(BULK_BYTES))
        await stream.send_eof()
        await stream.receive_some(1)
        return BULK_BYTES / 1e6 / (trio.current_time() - began_s)


@asynccontextmanager
async def places(
    weather: LinkWeather,
) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """Addresses: of the echo and the sink, and of relays in front of both."""
    async with trio.open_nursery() as nursery:
        found = {}
        for name, serve in (("echo", echo), ("sink", sink)):
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await nursery.start(trio.serve_listeners, serve, listeners)
            found[name] = listeners[0].socket.getsockname()
            relay = Relay("b", found[name], names={DIALER: "a"}, weather={("a", "b"): weather})
            found[f"relayed {name}"] = await nursery.start(relay.run, "127.0.0.1")
        yield found
        nursery.cancel_scope.cancel()


async def measure(*, quick: bool) -> Report:
    """Everything."""
    trips, delayed = (2_000, 100) if quick else (20_000, 400)
    weather = LinkWeather()
    async with places(weather) as at:
        bare = quantile(await round_trips_s(at["echo"], trips), 0.5)
        relayed = quantile(await round_trips_s(at["relayed echo"], trips), 0.5)
        bulk = await mb_per_s(at["sink"]), await mb_per_s(at["relayed sink"])
        delays: dict[int, tuple[float, float]] = {}
        for setting_ms in SETTINGS_MS:
            shape = Shape(on_effect=lambda: None, delay_s=lambda: setting_ms / 1000)  # noqa: B023
            with weather.under("benchmark", shape):
                taken_s = await round_trips_s(at["relayed echo"], delayed)
            added_ms = [(each - relayed) * 1000 for each in taken_s]
            delays[setting_ms] = (quantile(added_ms, 0.5), quantile(added_ms, 0.99))
    return Report(
        bare_rtt_us=bare * 1e6,
        relayed_rtt_us=relayed * 1e6,
        added_rtt_us=(relayed - bare) * 1e6,
        bare_mb_per_s=bulk[0],
        relayed_mb_per_s=bulk[1],
        delay_ms=delays,
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer round trips")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    report = trio.run(lambda: measure(quick=options.quick))
    if options.json:
        print(json.dumps(asdict(report), indent=2))
        return
    print(
        f"round trip, p50: bare {report.bare_rtt_us:.0f} us, through a relay "
        f"{report.relayed_rtt_us:.0f} us: {report.added_rtt_us:.0f} us more"
    )
    print(
        f"one way in bulk: bare {report.bare_mb_per_s:.0f} MB/s, through a relay "
        f"{report.relayed_mb_per_s:.0f} MB/s"
    )
    for setting_ms, (p50, p99) in report.delay_ms.items():
        print(f"delay set to {setting_ms} ms: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    main()
