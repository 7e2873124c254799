"""A layer-2 switch in the harness's process: frames between the ports of nodes, one link each pair.

A port is a descriptor that gives and takes one whole frame a call, as a TAP device does. The switch
knows who has which address, so that it learns nothing and floods only what is for a group. Broken
frames, frames of somebody else's address and frames for nobody are dropped and counted.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import trio

from chaos.modes.live.flows import Flows
from chaos.modes.live.frames import ADDRESS_BYTES, ETHERNET_BYTES, FRAME_BYTES_MAX, GROUP_BIT
from chaos.modes.live.weather import Link, LinkWeather
from chaos.modes.live.wire import Wire

FRAMES_A_TURN = 64
"""Read from one port before the others have their turn."""

NOT_TAKEN = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.EIO, errno.EINVAL, errno.EMSGSIZE})
"""Errors of writing to a port that is full or down, or of a frame that is none: it is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Where one node is plugged in. ``descriptor`` does not block; its owner closes it."""

    name: str
    address: bytes
    descriptor: int


class Switch:
    """Carries frames between ports.

    Args:
        ports: All of them.
        weather: Of each directed link; on links that it does not name it is always fair.
    """

    def __init__(self, ports: Sequence[Port], weather: Mapping[Link, LinkWeather]) -> None:
        self._ports = {port.name: port for port in ports}
        self._by_address = {port.address: port for port in ports}
        self._wires = {
            (a, b): Wire(weather.get((a, b)) or LinkWeather())
            for a in self._ports
            for b in self._ports
            if a != b
        }
        self._flows = Flows()
        self._due: list[tuple[float, int, Port, Wire, bytes]] = []
        self._numbers = count()
        self._earlier = trio.Event()
        self._releasing: set[Link] = set()
        self._nursery: trio.Nursery | None = None
        self.carried = 0
        self.refused = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carries frames until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for port in self._ports.values():
                self._nursery.start_soon(self._read, port)
            self._nursery.start_soon(self._deliver)
            task_status.started()

    def reset(self, a: str, b: str) -> int:
        """Breaks every TCP connection between two nodes by forged resets; how many there were."""
        broken = self._flows.reset(a, b)
        for forged in broken:
            for node, frame in forged:
                self._write(self._ports[node], frame)
        return len(broken)

    # -- in

    async def _read(self, port: Port) -> None:
        while True:
            await trio.lowlevel.wait_readable(port.descriptor)
            for _ in range(FRAMES_A_TURN):
                try:
                    frame = os.read(port.descriptor, FRAME_BYTES_MAX)
                except BlockingIOError:
                    break
                self._take(frame, port)

    def _take(self, frame: bytes, port: Port) -> None:
        target, source = frame[:ADDRESS_BYTES], frame[ADDRESS_BYTES : 2 * ADDRESS_BYTES]
        if len(frame) < ETHERNET_BYTES or source != port.address:
            self.refused += 1
            return
        if target[0] & GROUP_BIT:
            for other in self._ports.values():
                if other is not port:
                    self._send(frame, port, other)
            return
        other = self._by_address.get(target, port)
        if other is port:
            self.refused += 1
            return
        reset = self._flows.see(frame, port.name, other.name)
        if reset is None:
            self._send(frame, port, other)
        else:
            self._write(port, reset)

    def _send(self, frame: bytes, port: Port, other: Port) -> None:
        link = (port.name, other.name)
        wire, now_s = self._wires[link], trio.current_time()
        self._put(wire.carry(frame, now_s), other, wire, now_s)
        if wire.held and link not in self._releasing:
            assert self._nursery is not None
            self._releasing.add(link)
            self._nursery.start_soon(self._release, link, wire)

    async def _release(self, link: Link, wire: Wire) -> None:
        """Lets go what a link holds, when nothing holds it any more."""
        await wire.weather.let_go()
        self._releasing.discard(link)
        now_s = trio.current_time()
        self._put(wire.release(now_s), self._ports[link[1]], wire, now_s)

    # -- out

    def _put(
        self, frames: Sequence[tuple[float, bytes]], port: Port, wire: Wire, now_s: float
    ) -> None:
        if not frames:
            return
        self._deliver_due(now_s)  # what came before on this link goes first
        for due_s, frame in frames:
            if due_s <= now_s:
                self._arrive(port, wire, frame)
                continue
            if not self._due or due_s < self._due[0][0]:
                self._earlier.set()
            heapq.heappush(self._due, (due_s, next(self._numbers), port, wire, frame))

    async def _deliver(self) -> None:
        while True:
            next_s = self._due[0][0] if self._due else math.inf
            self._earlier = trio.Event()
            with trio.move_on_at(next_s):
                await self._earlier.wait()
            self._deliver_due(trio.current_time())

    def _deliver_due(self, now_s: float) -> None:
        while self._due and self._due[0][0] <= now_s:
            _, _, port, wire, frame = heapq.heappop(self._due)
            self._arrive(port, wire, frame)

    def _arrive(self, port: Port, wire: Wire, frame: bytes) -> None:
        wire.arrived()
        self.carried += 1
        self._write(port, frame)

    def _write(self, port: Port, frame: bytes) -> None:
        try:
            os.write(port.descriptor, frame)
        except OSError as error:
            if error.errno not in NOT_TAKEN:
                raise
            self.refused += 1
