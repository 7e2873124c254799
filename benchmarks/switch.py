"""What namespaces and the switch of the chaos harness add, and how well it keeps a set delay.

    python -m benchmarks.switch [--quick] [--json]

As ``benchmarks.relay``, whose bare round trips on loopback are the measure here too; the others go
from one network namespace to another, over a TAP device each and the switch between them. Where no
namespaces can be made, it says why and measures nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.trips import SERVICES, Ways, report
from chaos.faults.fault import Network
from chaos.modes.live.namespace import refusal
from chaos.modes.live.namespaces import Namespaces, address_of, namespaces
from chaos.scenario.scenario import Cluster

PLAN = Cluster(nodes=2, network=Network.NAMESPACES)


async def listener_in(network: Namespaces, name: str, host: str) -> trio.SocketListener:
    """Listens at a port that is free where the node is."""
    with network.inside(name):
        listening = trio.socket.socket()
    await listening.bind((host, 0))
    listening.listen()
    return trio.SocketListener(listening)


@asynccontextmanager
async def ways() -> AsyncIterator[Ways]:
    """To the services at ``n2``: bare from where they are, and from ``n1`` through the switch."""
    bare: dict[str, tuple[str, int]] = {}
    carried: dict[str, tuple[str, int]] = {}
    with namespaces(PLAN) as network:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            for name, serve in SERVICES.items():
                for found, host in ((bare, "127.0.0.1"), (carried, address_of(2))):
                    listener = await listener_in(network, "n2", host)
                    await nursery.start(trio.serve_listeners, serve, [listener])
                    found[name] = listener.socket.getsockname()

            async def dial(node: str, address: tuple[str, int]) -> trio.SocketStream:
                with network.inside(node):
                    dialling = trio.socket.socket()
                await dialling.connect(address)
                return trio.SocketStream(dialling)

            yield Ways(
                bare=lambda name: dial("n2", bare[name]),
                carried=lambda name: dial("n1", carried[name]),
                weather=network.weather["n1", "n2"],
            )
            nursery.cancel_scope.cancel()


def main() -> None:
    """Measures and prints."""
    why_not = refusal()
    if why_not is not None:
        print(f"not measured: {why_not}")
        return
    report(ways, what="the switch", about=str(__doc__))


if __name__ == "__main__":
    main()
