"""Deadlines of the calls under way on one connection. Sans-IO.

A cancel scope for every call would cost as much as the rest of the call; nearly all calls end long
before their deadline, so it is kept in a heap that one task looks at when the first is due.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container
from typing import Final

SLACK: Final = 64
"""Entries of ended calls that may stay before the heap is cleaned."""


class Expiry:
    """When each call is over, by the key of its stream."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._live = 0

    def add(self, key: int, deadline_s: float) -> None:
        """A call began."""
        self._live += 1
        heapq.heappush(self._heap, (deadline_s, key))

    def ended(self, alive: Container[int]) -> None:
        """A call ended; ``alive`` tells which others have not."""
        self._live -= 1
        if len(self._heap) > SLACK + 4 * self._live:
            self._heap = [entry for entry in self._heap if entry[1] in alive]
            heapq.heapify(self._heap)

    @property
    def next_s(self) -> float:
        """When ``due`` is to be asked."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now_s: float) -> list[int]:
        """Keys whose time is up, those of ended calls among them."""
        keys = []
        while self._heap and self._heap[0][0] <= now_s:
            keys.append(heapq.heappop(self._heap)[1])
        return keys
