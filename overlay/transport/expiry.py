"""Times by which something must have come on a connection's streams. Sans-IO.

A cancel scope for every wait would cost as much as the rest of a call; nearly all waits end long
before their time, so it is kept in a heap that one task looks at when the first is due.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from typing import Final

SLACK: Final = 64
"""Entries of ended streams that may stay before the heap is cleaned."""


class Expiry:
    """When each stream is to be looked at, by its key."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def add(self, key: int, due_s: float) -> None:
        """The stream is to be looked at then."""
        heapq.heappush(self._heap, (due_s, key))

    def ended(self, alive: Collection[int]) -> None:
        """A stream ended; ``alive`` are the others."""
        if len(self._heap) > SLACK + 4 * len(alive):
            self._heap = [entry for entry in self._heap if entry[1] in alive]
            heapq.heapify(self._heap)

    @property
    def next_s(self) -> float:
        """When ``due`` is to be asked."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now_s: float, alive: Collection[int]) -> list[int]:
        """Keys whose time has come; ended streams are left out, those that come next too."""
        keys = []
        while self._heap and (self._heap[0][0] <= now_s or self._heap[0][1] not in alive):
            key = heapq.heappop(self._heap)[1]
            if key in alive:
                keys.append(key)
        return keys
