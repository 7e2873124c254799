"""An event heap: the only loop and the only clock of core mode."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.errors import ChaosError

AT_ONCE_MAX = 200_000
"""Events at one moment of virtual time, after which it is taken for a spin."""

LEAST_S = 1e-6
"""What was due a rounding error after now would otherwise be looked at without end."""

Call = Callable[[], None]


class Heap:
    """Calls in the order of their times; those of one moment in the order they were asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._entries: list[tuple[float, int, Call]] = []
        self._asked = 0

    def at(self, when_s: float, call: Call) -> None:
        """Calls at a time; one that is past means now."""
        self._asked += 1
        heapq.heappush(self._entries, (max(when_s, self.now_s), self._asked, call))

    def after(self, delay_s: float, call: Call) -> None:
        """Calls after so many seconds; a wait so short that no time would pass is made longer."""
        self.at(self.now_s + (max(LEAST_S, delay_s) if delay_s > 0 else 0.0), call)

    def run_until(self, end_s: float) -> None:
        """Calls everything that is due until then.

        Raises:
            ChaosError: When virtual time stands still for :data:`AT_ONCE_MAX` events.
        """
        entries, at_once = self._entries, 0
        while entries and entries[0][0] <= end_s:
            when_s, _, call = heapq.heappop(entries)
            if when_s != self.now_s:
                self.now_s, at_once = when_s, 0
            elif at_once < AT_ONCE_MAX:
                at_once += 1
            else:
                raise ChaosError(f"a spin: {at_once + 1} events at {when_s:.3f} s of virtual time")
            call()
        self.now_s = max(self.now_s, end_s)


class HeapClock:
    """``overlay.ports.Clock`` of one host."""

    def __init__(self, heap: Heap, offset_s: float = 0.0) -> None:
        self._heap = heap
        self.offset_s = offset_s

    def now_s(self) -> float:
        return self._heap.now_s

    def unix_s(self) -> float:
        return SIMULATION_EPOCH_UNIX_S + self._heap.now_s + self.offset_s
