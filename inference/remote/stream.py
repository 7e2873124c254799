"""An answer on its way from a server to whoever reads it.

Between them are a few events: when the reader is slow, the writer waits, so that the server's own
connection holds the answer back. Nothing is joined or dropped, as each event may carry a chunk
that is handed on as it is.
"""

from __future__ import annotations

from collections import deque

import trio

from inference.errors import InferenceError
from inference.request import TokenEvent

EVENTS_MAX = 64
"""Some seconds of an answer: a reader that is behind for longer is slower than the model."""


class RemoteAnswer:
    """An answer under way. Cancelling a wait for the next event loses nothing."""

    def __init__(self) -> None:
        self._events: deque[TokenEvent] = deque()
        self._changed = trio.Event()
        self._ended = False
        self.failure: InferenceError | None = None

    def __aiter__(self) -> RemoteAnswer:
        return self

    async def __anext__(self) -> TokenEvent:
        """The next event.

        Raises:
            InferenceError: When the server failed, or the request was cancelled from elsewhere.
        """
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self.failure is not None:
                raise self.failure
            if self._ended:
                raise StopAsyncIteration
            await self._change()
        self._tell()
        return self._events.popleft()

    async def put(self, event: TokenEvent) -> None:
        """Hands an event over, waiting for room; one that comes after the end is lost."""
        while len(self._events) >= EVENTS_MAX and not self._ended:
            await self._change()
        if not self._ended:
            self._events.append(event)
            self._ended = event.finish_reason is not None
            self._tell()

    def fail(self, failure: InferenceError) -> None:
        """Ends the answer with an error, after the events that are already there."""
        if not self._ended:
            self._ended = True
            self.failure = failure
            self._tell()

    @property
    def came_to_nothing(self) -> bool:
        """Whether it failed before it gave anything."""
        return self.failure is not None and not self._events

    def _tell(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()
