"""What joins the nodes of a live run: where each is, and where faults of links are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import trio

from chaos.modes.live.tag import PROC
from chaos.modes.live.weather import Link, LinkWeather

HTTP_PORT = 8080
LISTENS = "0A"
"""TCP_LISTEN, as ``/proc/net/tcp`` writes it."""


class LiveNetwork(Protocol):
    """Loopback with relays, or namespaces with a switch. Nodes are known by their names."""

    @property
    def weather(self) -> Mapping[Link, LinkWeather]:
        """Of each directed link."""
        ...

    @property
    def carried(self) -> int:
        """Chunks or packets so far."""
        ...

    def flags(self, name: str) -> Sequence[str]:
        """Options with which a node's peer keeps to this network."""
        ...

    def inside(self, name: str) -> AbstractContextManager[None]:
        """Processes that are started in the block are where the node is. No await in it."""
        ...

    def reset(self, a: str, b: str) -> int:
        """Breaks every connection between two nodes; how many there were."""
        ...

    async def dial(self, number: int, name: str) -> trio.SocketStream:
        """Connects to a node from one of a few addresses of nobody's, by number.

        Raises:
            OSError: Where it refuses, or is not there.
            ChaosError: For a target that is not of this run.
        """
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carries until cancelled.

        Raises:
            OSError: Where it cannot.
        """
        ...

    def listening(self) -> list[str]:
        """Sockets of nodes that listen, as ``address:port``."""
        ...

    def notes(self) -> list[str]:
        """What is worth telling when the run is over."""
        ...


def listening_here() -> list[tuple[str, int]]:
    """IPv4 sockets that listen in the network namespace that this thread is in."""
    found = []
    table = (PROC / "thread-self" / "net" / "tcp").read_text()
    for line in table.splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == LISTENS:
            address, port = local.split(":")
            shown = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
            found.append((shown, int(port, 16)))
    return found
