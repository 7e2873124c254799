"""A TCP relay in front of what a live node advertises: where faults of links are done.

Who dials is known by its source address, which live nodes bind to their own loopback address. Each
connection has a task for each direction, which delays, holds, paces, slices or swallows what comes
as the weather of that directed link says. Bytes are never changed and never overtake each other.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from chaos.modes.live.tag import check_target
from chaos.modes.live.weather import Link, LinkWeather

CHUNK_BYTES = 65_536
UNDER_WAY_MAX = 256
"""Chunks that are delayed at a time; then the sender waits, as for a full window."""

LINGER_NONE = struct.pack("ii", 1, 0)
"""SO_LINGER by which closing sends a reset."""


@dataclass(eq=False)
class _Through:
    """One relayed connection; ``far`` is None while it has not come about.

    ``source`` is the address that it was dialled from, ``dialer`` the node with that address.
    """

    source: str
    dialer: str
    acceptor: str
    near: trio.SocketStream
    far: trio.SocketStream | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def reset(self) -> None:
        for stream in (self.near, self.far):
            if stream is not None:
                with suppress(OSError):  # it has broken by itself
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.scope.cancel()


class Relay:
    """In front of one node.

    Args:
        node: Whose it is.
        target: Where the node listens.
        names: Node names by the source address that they dial from.
        weather: Of each directed link; what comes from strangers passes as it is.

    Raises:
        ChaosError: For a target that is not of this host's loopback.
    """

    def __init__(
        self,
        node: str,
        target: tuple[str, int],
        *,
        names: Mapping[str, str],
        weather: Mapping[Link, LinkWeather],
    ) -> None:
        check_target(target[0])
        self._node = node
        self._target = target
        self._names = names
        self._weather = weather
        self._through: dict[_Through, None] = {}
        self.carried_chunks = 0

    async def run(
        self,
        host: str,
        port: int = 0,
        *,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Relays until cancelled; started with the address that it listens on.

        Raises:
            ChaosError: For an address that is not of this host's loopback.
            OSError: When it cannot listen there.
        """
        check_target(host)
        listeners = await trio.open_tcp_listeners(port, host=host)
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._relay, listeners)
            task_status.started(listeners[0].socket.getsockname()[:2])

    def reset(self, other: str) -> int:
        """Breaks every connection with another node by a reset; how many there were."""
        found = [each for each in self._through if other in (each.dialer, each.acceptor)]
        for each in found:
            each.reset()
        return len(found)

    async def _relay(self, near: trio.SocketStream) -> None:
        async with near:
            try:
                source = str(near.socket.getpeername()[0])
            except OSError:
                return  # it has gone again
            through = _Through(source, self._names.get(source, ""), self._node, near)
            self._through[through] = None
            try:
                with through.scope:
                    await self._carry(through)
            finally:
                del self._through[through]

    async def _carry(self, through: _Through) -> None:
        onward, back = self._links(through.dialer)
        # A connection over a link that carries nothing does not come about either.
        for each in (onward, back):
            await each.let_through()
        # The handshake with the dialer is done already: what it sends now is so much later.
        handshake_s = onward.delay_s() + back.delay_s()
        if handshake_s:
            await trio.sleep(handshake_s)
        try:
            # From the dialer's own address, by which a node may count its guests.
            far = await trio.open_tcp_stream(*self._target, local_address=through.source)
        except OSError:
            through.reset()
            return
        async with far:
            through.far = far
            try:
                await self._both_ways(through, far, onward, back)
            finally:
                through.far = None

    def _links(self, dialer: str) -> tuple[LinkWeather, LinkWeather]:
        fair = LinkWeather()
        return (
            self._weather.get((dialer, self._node), fair),
            self._weather.get((self._node, dialer), fair),
        )

    async def _both_ways(
        self, through: _Through, far: trio.SocketStream, onward: LinkWeather, back: LinkWeather
    ) -> None:
        near = through.near
        for stream in (near, far):
            with suppress(OSError):  # it has broken already, and reading will tell
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._one_way, through, near, far, onward)
            nursery.start_soon(self._one_way, through, far, near, back)

    async def _one_way(
        self,
        through: _Through,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        weather: LinkWeather,
    ) -> None:
        """Carries one direction; a broken end breaks the whole connection."""
        under_way = _UnderWay()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(under_way.deliver, sink, weather)
                while data := await source.receive_some(CHUNK_BYTES):
                    self.carried_chunks += 1
                    if not weather.shapes and under_way.is_idle:
                        await sink.send_all(data)
                    elif not weather.swallows():
                        await under_way.put(data, trio.current_time() + weather.delay_s())
                await weather.let_through()
                await under_way.put(b"", trio.current_time() + weather.delay_s())
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            through.reset()


class _UnderWay:
    """Chunks on a link, in order, each due at a time of its own or when the one before has gone."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._came = trio.Event()
        self._went = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing is being handed on."""
        return not self._chunks

    async def put(self, data: bytes, due_s: float) -> None:
        while len(self._chunks) >= UNDER_WAY_MAX:
            self._went = trio.Event()
            await self._went.wait()
        self._chunks.append((due_s, data))
        self._came.set()

    async def deliver(self, sink: trio.SocketStream, weather: LinkWeather) -> None:
        """Hands chunks on when they are due; an empty one is the end of the stream."""
        while True:
            while not self._chunks:
                self._came = trio.Event()
                await self._came.wait()
            due_s, data = self._chunks[0]
            if due_s > trio.current_time():
                await trio.sleep_until(due_s)
            await weather.let_pass()
            if not data:
                await sink.send_eof()
                return
            for part, gap_s in weather.slices(data):
                pause_s = gap_s + weather.pace_s(len(part), trio.current_time())
                await sink.send_all(part)
                if pause_s:
                    await trio.sleep(pause_s)
            self._chunks.popleft()
            self._went.set()
