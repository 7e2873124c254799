"""What happened in a simulation, in order: (virtual time, peer, event, ids, sizes).

Never content: two runs of one seed must give the same trace, and a trace may be published.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import trio


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One line of a trace; ``detail`` holds ids, counts and sizes only."""

    at_s: float
    peer: str
    event: str
    detail: tuple[str | int, ...]

    def line(self) -> str:
        return f"{self.at_s:.6f} {self.peer} {self.event} {' '.join(map(str, self.detail))}"


@dataclass(slots=True)
class Trace:
    """Collects events as they happen."""

    events: list[TraceEvent] = field(default_factory=list)

    def add(self, peer: str, event: str, *detail: str | int) -> None:
        self.events.append(TraceEvent(trio.current_time(), peer, event, detail))

    def digest(self) -> str:
        """32 hex digits that two runs share exactly when they did the same in the same order."""
        state = hashlib.blake2b(digest_size=16)
        for event in self.events:
            state.update(event.line().encode() + b"\n")
        return state.hexdigest()
