"""Fails streams on which something was to come by now: one task for all of a connection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import trio

from overlay.errors import Deadline
from overlay.transport.expiry import Expiry
from overlay.transport.stream import Stream


class Watch:
    """Looks after the streams of one connection.

    A stream's entry stays where it is when its reader waits anew, and moves on when it is due.
    """

    def __init__(self, streams: Mapping[int, Stream]) -> None:
        self._streams = streams
        self._expiry = Expiry()
        self._timer = trio.CancelScope()
        self._next_s = math.inf

    def expect(self, stream: Stream) -> None:
        """The stream fails as Deadline at its ``due_s``, unless that is changed until then."""
        due_s = stream.due_s
        if due_s >= stream.watched_s:
            return
        stream.watched_s = due_s
        self._expiry.add(stream.key, due_s)
        if due_s < self._next_s:
            self._next_s = self._timer.deadline = due_s

    def ended(self) -> None:
        """A stream has ended."""
        self._expiry.ended(self._streams)

    async def run(self) -> None:
        """Until cancelled. A stream that is due sooner moves the timer's deadline."""
        while True:
            self._next_s = self._expiry.next_s
            self._timer = trio.CancelScope(deadline=self._next_s)
            with self._timer:
                await trio.sleep_forever()
            now_s = trio.current_time()
            for key in self._expiry.due(now_s, self._streams):
                stream = self._streams[key]
                stream.watched_s = math.inf
                if stream.due_s <= now_s:
                    stream.fail(partial(Deadline, f"nothing came in time on {stream.protocol}"))
                else:
                    self.expect(stream)
