"""Live nodes in network namespaces: one each with one TAP device, and a switch that joins them.

What a node does goes to the others as packets, multicast too, and there is no way from these
namespaces to any other network. The harness has a port of its own, from which strangers come. As
nothing has a name outside, every run has the same addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import trio

from chaos.modes.live.namespace import Namespace, check_can_make
from chaos.modes.live.network import HTTP_PORT, listening_here
from chaos.modes.live.switch import Port, Switch
from chaos.modes.live.tag import NODES_MAX, PORT, STRANGERS, check_target
from chaos.modes.live.weather import Link, LinkWeather, usual_weather
from chaos.scenario.scenario import Cluster

SUBNET = ipaddress.IPv4Network("10.77.0.0/24")
LOCAL_ADMINISTERED = bytes([0x02, 0x72, 0x68, 0x7A, 0])
"""The first bytes of every Ethernet address here (IEEE 802: one that nobody has bought)."""

HARNESS = "harness"
HARNESS_PART = NODES_MAX + 1
STRANGER_PART = 200
"""Last bytes of addresses; those of nodes are their numbers."""


def interface_of(name: str) -> str:
    """The TAP device of a node."""
    return f"rhz-{name}"


def address_of(part: int) -> str:
    """The address with this last byte."""
    return str(SUBNET[part])


class Namespaces:
    """``LiveNetwork`` of a switch. Made by :func:`namespaces`, which closes it."""

    def __init__(self, plan: Cluster) -> None:
        self._numbers = {name: number for number, name in enumerate(plan.names, start=1)}
        self._weather = usual_weather(plan)
        self._places: dict[str, Namespace] = {}
        self._ports: list[Port] = []
        strangers = [address_of(STRANGER_PART + number) for number in range(STRANGERS)]
        try:
            for name, number in self._numbers.items():
                self._plug_in(name, number, [address_of(number)])
            self._plug_in(HARNESS, HARNESS_PART, [address_of(HARNESS_PART), *strangers])
        except BaseException:
            self.close()
            raise
        self._switch = Switch(self._ports, self._weather)

    def _plug_in(self, name: str, part: int, addresses: Sequence[str]) -> None:
        place = self._places[name] = Namespace()
        hardware = LOCAL_ADMINISTERED + bytes([part])
        tap = place.add_tap(interface_of(name), hardware, addresses)
        self._ports.append(Port(name=name, address=hardware, descriptor=tap))

    def close(self) -> None:
        """Lets go of every namespace; those of processes that still run stay until they end."""
        for place in self._places.values():
            place.close()

    @property
    def weather(self) -> Mapping[Link, LinkWeather]:
        return self._weather

    @property
    def carried(self) -> int:
        return self._switch.carried

    def flags(self, name: str) -> Sequence[str]:
        address = address_of(self._numbers[name])
        check_target(address, SUBNET)
        return [
            *("--interface", interface_of(name)),
            *("--listen", f"{address}:{PORT}"),
            *("--http", f"127.0.0.1:{HTTP_PORT}"),
        ]

    def inside(self, name: str) -> AbstractContextManager[None]:
        return self._places[name].inside()

    def reset(self, a: str, b: str) -> int:
        return self._switch.reset(a, b)

    async def dial(self, number: int, name: str) -> trio.SocketStream:
        address = address_of(self._numbers[name])
        check_target(address, SUBNET)
        with self.inside(HARNESS):
            socket = trio.socket.socket()
        try:
            await socket.bind((address_of(STRANGER_PART + number % STRANGERS), 0))
            await socket.connect((address, PORT))
        except BaseException:
            socket.close()
            raise
        return trio.SocketStream(socket)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._switch.run(task_status=task_status)

    def listening(self) -> list[str]:
        found = []
        for name in self._numbers:
            with self.inside(name):
                found += [f"{name} {host}:{port}" for host, port in listening_here()]
        return found

    def notes(self) -> list[str]:
        refused = self._switch.refused
        if not refused:
            return []
        return [f"the switch dropped {refused} frames that were broken, false or for nobody"]


@contextmanager
def namespaces(plan: Cluster) -> Iterator[Namespaces]:
    """The namespaces of a cluster for as long as the block lasts.

    Raises:
        Unsupported: Where this machine cannot make them; says what is missing.
    """
    check_can_make()
    made = Namespaces(plan)
    try:
        yield made
    finally:
        made.close()
