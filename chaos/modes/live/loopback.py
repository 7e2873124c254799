"""Live nodes on loopback: an address of its own for each, and a relay in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import trio

from chaos.modes.live.network import HTTP_PORT, listening_here
from chaos.modes.live.relay import Relay
from chaos.modes.live.tag import PORT, Block, check_target
from chaos.modes.live.weather import Link, LinkWeather, usual_weather
from chaos.scenario.scenario import Cluster


class Loopback:
    """``LiveNetwork`` of relays; nothing of it is there before :meth:`run` and after it.

    Args:
        plan: The cluster.
        block: The addresses that it takes.
    """

    def __init__(self, plan: Cluster, block: Block) -> None:
        self._block = block
        self._numbers = {name: number for number, name in enumerate(plan.names, start=1)}
        self._weather = usual_weather(plan)
        by_address = {block.address(number): name for name, number in self._numbers.items()}
        self._relays = {
            name: Relay(
                name, (block.address(number), PORT), names=by_address, weather=self._weather
            )
            for name, number in self._numbers.items()
        }

    @property
    def weather(self) -> Mapping[Link, LinkWeather]:
        return self._weather

    @property
    def carried(self) -> int:
        return sum(relay.carried_chunks for relay in self._relays.values())

    def flags(self, name: str) -> Sequence[str]:
        number = self._numbers[name]
        address, relay = self._block.address(number), self._block.relay(number)
        for each in (address, relay):
            check_target(each)
        return [
            *("--interface", "lo"),
            *("--listen", f"{address}:{PORT}"),
            *("--advertise", f"{relay}:{PORT}"),
            *("--source-address", address),
            *("--http", f"{address}:{HTTP_PORT}"),
        ]

    def inside(self, name: str) -> AbstractContextManager[None]:
        del name
        return nullcontext()

    def reset(self, a: str, b: str) -> int:
        return self._relays[a].reset(b) + self._relays[b].reset(a)

    async def dial(self, number: int, name: str) -> trio.SocketStream:
        address = self._block.address(self._numbers[name])
        check_target(address)
        source = self._block.stranger(number)
        return await trio.open_tcp_stream(address, PORT, local_address=source)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for name, relay in self._relays.items():
                await nursery.start(relay.run, self._block.relay(self._numbers[name]), PORT)
            task_status.started()

    def listening(self) -> list[str]:
        mine = f"{self._block.prefix}."
        return [f"{host}:{port}" for host, port in listening_here() if host.startswith(mine)]

    def notes(self) -> list[str]:
        return []
