"""One directed link of the switch: what becomes of each frame, as the link's weather says.

No clock, no socket, no task: frames come with the time, and go with the time when they are due.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from chaos.modes.live.frames import ETHERNET_BYTES
from chaos.modes.live.weather import LinkWeather

UNDER_WAY_MAX = 1000
"""Frames on a link at a time; what comes then is dropped. Linux's own default (txqueuelen)."""


@dataclass(eq=False, slots=True)
class Wire:
    """Frames from one port to another. They keep their order, but for those that are held back."""

    weather: LinkWeather
    under_way: int = 0
    held: deque[bytes] = field(default_factory=deque)
    _last_due_s: float = 0.0

    def carry(self, frame: bytes, now_s: float) -> list[tuple[float, bytes]]:
        """Takes a frame in.

        Returns:
            When each copy of it is due, and what arrives then: none that is lost, or held until
            :meth:`release`. :meth:`arrived` is to be told of each.
        """
        weather = self.weather
        if weather.drops(len(frame) - ETHERNET_BYTES):
            return []
        copies = [weather.damaged(frame)] * (2 if weather.doubles() else 1)
        copies = copies[: max(0, UNDER_WAY_MAX - self.under_way)]
        if not copies:
            return []
        self.under_way += len(copies)
        if weather.holds() or self.held:
            self.held.extend(copies)
            return []
        return self._due(copies, now_s)

    def release(self, now_s: float) -> list[tuple[float, bytes]]:
        """What was held, when nothing holds it any more; none where the link has been cut since."""
        copies = list(self.held)
        self.held.clear()
        if self.weather.is_cut():
            self.under_way -= len(copies)
            return []
        return [due for copy in copies for due in self._due([copy], now_s)]

    def arrived(self) -> None:
        """A frame has left the link at its far end."""
        self.under_way -= 1

    def _due(self, copies: list[bytes], now_s: float) -> list[tuple[float, bytes]]:
        weather, late_s = self.weather, self.weather.late_s()
        due_s = now_s + weather.delay_s() + weather.pace_s(len(copies[0]), now_s)
        if late_s:
            return [(due_s + late_s, copy) for copy in copies]
        self._last_due_s = max(self._last_due_s, due_s)
        return [(self._last_due_s, copy) for copy in copies]
