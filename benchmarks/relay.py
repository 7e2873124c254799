"""What the relay of the chaos harness adds on loopback, and how well it keeps a set delay.

    python -m benchmarks.relay [--quick] [--json]

A round trip is 100 bytes there and back over one TCP connection: bare, through a relay that does
nothing, and through one that delays one direction. "delay" is a round trip less the median of the
relay that does nothing. Everything runs in one process and on one core, as a live run's relays do.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.trips import SERVICES, Ways, report
from chaos.modes.live.relay import Relay
from chaos.modes.live.weather import LinkWeather

DIALER = "127.0.0.2"


@asynccontextmanager
async def ways() -> AsyncIterator[Ways]:
    """To the services on loopback, bare and through a relay in front of each."""
    weather = LinkWeather()
    async with trio.open_nursery() as nursery:
        bare, carried = {}, {}
        for name, serve in SERVICES.items():
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await nursery.start(trio.serve_listeners, serve, listeners)
            bare[name] = listeners[0].socket.getsockname()
            relay = Relay("b", bare[name], names={DIALER: "a"}, weather={("a", "b"): weather})
            carried[name] = await nursery.start(relay.run, "127.0.0.1")

        async def dial(address: tuple[str, int]) -> trio.SocketStream:
            return await trio.open_tcp_stream(*address, local_address=DIALER)

        yield Ways(
            bare=lambda name: dial(bare[name]),
            carried=lambda name: dial(carried[name]),
            weather=weather,
        )
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    report(ways, what="a relay", about=str(__doc__))
