"""One task for each peer that is up, for as long as it is: what exchanges something with all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from overlay.peers import Peers
from overlay.transport.connection import Connection
from security.peer_id import PeerId


class Companions:
    """``accompany`` is called with each connection that comes up, and ends with it."""

    def __init__(self, accompany: Callable[..., Awaitable[None]]) -> None:
        self._accompany = accompany
        self._nursery: trio.Nursery | None = None
        self._with: set[Connection] = set()

    async def run(
        self,
        peers: Peers,
        on_up: Callable[[Connection], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs the tasks until cancelled; ``on_up`` is what peers tell of each connection."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            # A peer that was faster than this task was passed over when it came up.
            for peer_id in peers.up():
                connection = peers.connection(peer_id)
                if connection is not None and connection.runs:
                    on_up(connection)
            task_status.started()
            await trio.sleep_forever()

    def begin(self, connection: Connection, *known: object) -> None:
        """A peer is up; ``known``: what holds at this moment, for its task."""
        peer_id = connection.remote.peer_id
        if peer_id is None or self._nursery is None or connection in self._with:
            return
        self._with.add(connection)
        self._nursery.start_soon(self._until_the_end, connection, peer_id, known)

    async def _until_the_end(
        self, connection: Connection, peer_id: PeerId, known: tuple[object, ...]
    ) -> None:
        try:
            await self._accompany(connection, peer_id, *known)
        finally:
            self._with.discard(connection)
