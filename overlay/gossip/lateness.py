"""How old a head is when it comes, without trusting that two hosts' clocks agree.

What comes straight from its origin may still have waited: in the buffers of a host that was paused,
behind a link that held it. How long shows against the fastest of the heads before it, as NTP's
clock filter takes the sample of the least delay for the true one (RFC 5905, section 10).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HALF_WINDOW_S = 30.0
"""The fastest is remembered for one to two of these: clocks drift apart, and routes change."""


@dataclass(slots=True)
class Lateness:
    """Of one origin's heads.

    A difference is our clock, which only moves forwards, less the stamp of the origin's own; alone
    it says nothing. ``least_s`` and ``least_before_s`` are the least of this half window and of the
    one before it, infinite where there was none.
    """

    least_s: float = math.inf
    least_before_s: float = math.inf
    half_since_s: float = -math.inf
    stamp_ms: int = 0

    def of_direct(self, now_s: float, stamp_ms: int) -> float:
        """Seconds since a head was made that came from its origin itself; not below 0."""
        difference_s = now_s - stamp_ms / 1000
        if stamp_ms < self.stamp_ms:
            # The origin's clock was set back: what was learned before compares with it no more.
            self.least_s = self.least_before_s = math.inf
        self.stamp_ms = stamp_ms
        if now_s - self.half_since_s >= HALF_WINDOW_S or math.isinf(self.least_s):
            self.least_before_s, self.least_s = self.least_s, math.inf
            self.half_since_s = now_s
        self.least_s = min(self.least_s, difference_s)
        return difference_s - min(self.least_s, self.least_before_s)

    def of_relayed(self, now_s: float, now_unix_s: float, stamp_ms: int) -> float:
        """The same for one that somebody else passed on: by the wall clocks where none came before.

        Not below 0.
        """
        least_s = min(self.least_s, self.least_before_s)
        if math.isinf(least_s):
            return max(0.0, now_unix_s - stamp_ms / 1000)
        return max(0.0, now_s - stamp_ms / 1000 - least_s)
