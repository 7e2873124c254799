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
    """Collects events as they happen. Every chunk on the network counts, and is not kept."""

    events: list[TraceEvent] = field(default_factory=list)
    chunks: int = 0
    _state: hashlib.blake2b = field(
        default_factory=lambda: hashlib.blake2b(digest_size=16), repr=False
    )

    def add(self, peer: str, event: str, *detail: str | int) -> None:
        made = TraceEvent(trio.current_time(), peer, event, detail)
        self.events.append(made)
        self._state.update(made.line().encode() + b"\n")

    def add_chunk(self, source: str, target: str, size_bytes: int) -> None:
        """A piece of a byte stream is on its way."""
        self.chunks += 1
        line = f"{trio.current_time():.6f} {source} sends {target} {size_bytes}\n"
        self._state.update(line.encode())

    def digest(self) -> str:
        """32 hex digits that two runs share exactly when they did the same in the same order."""
        return self._state.hexdigest()
