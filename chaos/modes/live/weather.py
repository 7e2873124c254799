"""What a relay does to the bytes of one directed link: by fault, each taking back its own part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

Link = tuple[str, str]
"""Names of the nodes: from, to."""

OnEffect = Callable[[], None]


@dataclass(slots=True, kw_only=True)
class Shape:
    """One fault's part. ``delay_s`` draws each chunk's delay; 0 of a rate or size is none.

    ``holds`` keeps everything back while it lasts, as a network does that loses every packet:
    TCP sends it again later. ``swallows`` takes it as sent and throws it away.
    """

    on_effect: OnEffect
    delay_s: Callable[[], float] | None = None
    bytes_per_s: float = 0.0
    slice_bytes: int = 0
    slice_gap_s: float = 0.0
    holds: bool = False
    swallows: bool = False


@dataclass(eq=False)
class LinkWeather:
    """All that ails one directed link now."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)
    _free_s: float = 0.0
    """When the wire will have carried what was sent so far."""

    @contextmanager
    def under(self, key: str, shape: Shape) -> Iterator[None]:
        """Adds a part for as long as the block is entered."""
        try:
            self.shapes[key] = shape
            self._tell()
            yield
        finally:
            self.shapes.pop(key, None)
            self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def delay_s(self) -> float:
        """Delay of the next chunk."""
        total_s = 0.0
        for shape in self.shapes.values():
            if shape.delay_s is not None:
                total_s += shape.delay_s()
                shape.on_effect()
        return total_s

    def swallows(self) -> bool:
        """Whether what comes is thrown away."""
        swallowing = [shape for shape in self.shapes.values() if shape.swallows]
        for shape in swallowing:
            shape.on_effect()
        return bool(swallowing)

    async def let_pass(self) -> None:
        """Waits while something holds everything back."""
        await self._wait_while(lambda shape: shape.holds)

    async def let_through(self) -> None:
        """Waits while something holds everything back, or swallows it.

        For what a sender repeats until it gets an answer: opening and closing a connection.
        """
        await self._wait_while(lambda shape: shape.holds or shape.swallows)

    async def _wait_while(self, stands_in_the_way: Callable[[Shape], bool]) -> None:
        told: set[str] = set()
        while keys := [key for key, each in self.shapes.items() if stands_in_the_way(each)]:
            for key in keys:
                if key not in told:
                    told.add(key)
                    self.shapes[key].on_effect()
            await self.changed.wait()

    def pace_s(self, size: int) -> float:
        """How long to wait after a chunk, until all that the link carries has been on the wire."""
        slowest = 0.0
        for shape in self.shapes.values():
            if shape.bytes_per_s:
                slowest = max(slowest, size / shape.bytes_per_s)
                shape.on_effect()
        if not slowest:
            return 0.0
        now_s = trio.current_time()
        self._free_s = max(self._free_s, now_s) + slowest
        return self._free_s - now_s

    def slices(self, data: bytes) -> list[tuple[bytes, float]]:
        """A chunk in the pieces in which it goes on, each with the pause after it."""
        cutting = [shape for shape in self.shapes.values() if shape.slice_bytes]
        if not cutting:
            return [(data, 0.0)]
        shape = min(cutting, key=lambda each: each.slice_bytes)
        shape.on_effect()
        size = shape.slice_bytes
        return [(data[at : at + size], shape.slice_gap_s) for at in range(0, len(data), size)]
