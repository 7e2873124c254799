"""What a network does on one directed link: by fault, each taking back its own part.

A relay carries streams of bytes, and a switch packets. Both ask the same questions of the weather;
a stream loses nothing and keeps its order, so that some parts of a fault are of packets only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from chaos.scenario.scenario import Cluster

Link = tuple[str, str]
"""Names of the nodes: from, to."""

OnEffect = Callable[[], None]

BARE_MS = 0.2
"""What loopback and a relay, or namespaces and a switch, take by themselves."""


@dataclass(slots=True, kw_only=True)
class Shape:
    """One fault's part. Every draw is of one chunk or packet; 0 of a rate or size is none.

    Of both: ``delay_s`` draws a delay. ``holds`` keeps everything back while it lasts, and lets it
    go in the end. ``cuts`` is a network that loses every packet: TCP sends it again later, so that
    a relay holds it instead. ``swallows`` takes it as sent and throws it away.

    Of bytes: ``slice_bytes`` with ``slice_gap_s`` after each.

    Of packets: ``loses`` and ``doubles`` draw whether, ``late_s`` for how long later ones may
    overtake it, ``damages`` gives back what arrives instead, and above ``size_max`` none arrives.
    """

    on_effect: OnEffect
    delay_s: Callable[[], float] | None = None
    bytes_per_s: float = 0.0
    holds: bool = False
    cuts: bool = False
    swallows: bool = False
    slice_bytes: int = 0
    slice_gap_s: float = 0.0
    loses: Callable[[], bool] | None = None
    doubles: Callable[[], bool] | None = None
    late_s: Callable[[], float] | None = None
    damages: Callable[[bytes], bytes] | None = None
    size_max: int = 0


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

    # -- bytes and packets

    def delay_s(self) -> float:
        """Delay of the next chunk or packet."""
        total_s = 0.0
        for shape in self.shapes.values():
            if shape.delay_s is not None:
                total_s += shape.delay_s()
                shape.on_effect()
        return total_s

    def pace_s(self, size: int, now_s: float) -> float:
        """How long it takes from now until all that the link carries has been on the wire."""
        slowest = 0.0
        for shape in self.shapes.values():
            if shape.bytes_per_s:
                slowest = max(slowest, size / shape.bytes_per_s)
                shape.on_effect()
        if not slowest:
            return 0.0
        self._free_s = max(self._free_s, now_s) + slowest
        return self._free_s - now_s

    # -- bytes

    def swallows(self) -> bool:
        """Whether what comes is thrown away."""
        swallowing = [shape for shape in self.shapes.values() if shape.swallows]
        for shape in swallowing:
            shape.on_effect()
        return bool(swallowing)

    async def let_pass(self) -> None:
        """Waits while something holds everything back."""
        await self._wait_while(lambda shape: shape.holds or shape.cuts)

    async def let_through(self) -> None:
        """Waits while something holds everything back, or swallows it.

        For what a sender repeats until it gets an answer: opening and closing a connection.
        """
        await self._wait_while(lambda shape: shape.holds or shape.cuts or shape.swallows)

    async def _wait_while(self, stands_in_the_way: Callable[[Shape], bool]) -> None:
        told: set[str] = set()
        while keys := [key for key, each in self.shapes.items() if stands_in_the_way(each)]:
            for key in keys:
                if key not in told:
                    told.add(key)
                    self.shapes[key].on_effect()
            await self.changed.wait()

    def slices(self, data: bytes) -> list[tuple[bytes, float]]:
        """A chunk in the pieces in which it goes on, each with the pause after it."""
        cutting = [shape for shape in self.shapes.values() if shape.slice_bytes]
        if not cutting:
            return [(data, 0.0)]
        shape = min(cutting, key=lambda each: each.slice_bytes)
        shape.on_effect()
        size = shape.slice_bytes
        return [(data[at : at + size], shape.slice_gap_s) for at in range(0, len(data), size)]

    # -- packets

    def drops(self, size: int) -> bool:
        """Whether a packet of so many bytes never arrives. Every fault draws for every packet."""
        dropped = False
        for shape in self.shapes.values():
            gone = shape.cuts or shape.swallows or 0 < shape.size_max < size
            if shape.loses is not None and shape.loses():
                gone = True
            if gone:
                shape.on_effect()
                dropped = True
        return dropped

    def holds(self) -> bool:
        """Whether a packet is kept until the end of a fault."""
        holding = [shape for shape in self.shapes.values() if shape.holds]
        for shape in holding:
            shape.on_effect()
        return bool(holding)

    async def let_go(self) -> None:
        """Waits while something holds packets back; those that meet a cut link then are lost."""
        await self._wait_while(lambda shape: shape.holds)

    def is_cut(self) -> bool:
        """Whether nothing gets through at present."""
        return any(shape.cuts or shape.swallows for shape in self.shapes.values())

    def doubles(self) -> bool:
        """Whether a packet arrives twice."""
        drawn = [each for each in self.shapes.values() if each.doubles and each.doubles()]
        for shape in drawn:
            shape.on_effect()
        return bool(drawn)

    def late_s(self) -> float:
        """For how long later packets may overtake this one."""
        total_s = 0.0
        for shape in self.shapes.values():
            late_s = 0.0 if shape.late_s is None else shape.late_s()
            if late_s:
                shape.on_effect()
                total_s += late_s
        return total_s

    def damaged(self, packet: bytes) -> bytes:
        """What arrives of a packet."""
        for shape in self.shapes.values():
            if shape.damages is not None:
                after = shape.damages(packet)
                if after != packet:
                    shape.on_effect()
                    packet = after
        return packet


def usual_weather(plan: Cluster) -> dict[Link, LinkWeather]:
    """The weather of each link of a cluster without any fault."""
    return {(a, b): _usual(plan) for a in plan.names for b in plan.names if a != b}


def _usual(plan: Cluster) -> LinkWeather:
    if plan.delay_ms <= BARE_MS:
        return LinkWeather()
    delay_s = (plan.delay_ms - BARE_MS) / 1000
    return LinkWeather({"cluster": Shape(on_effect=lambda: None, delay_s=lambda: delay_s)})
