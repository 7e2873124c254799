"""Retries are bounded by recent requests: a sick overlay is not flooded by its own cures."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
SHARE = 0.1
ALWAYS = 3
"""Retries allowed in a window however few requests there were."""


class RetryBudget:
    """At most a tenth of the requests of the last ten seconds may be tried at another peer.

    Falling back to this host and leaving a peer that is known to be dead are free.
    """

    def __init__(self) -> None:
        self._requests: deque[float] = deque()
        self._retries: deque[float] = deque()

    def on_request(self, now_s: float) -> None:
        """Counts a request."""
        self._requests.append(now_s)
        self._forget(now_s)

    def take(self, now_s: float) -> bool:
        """Whether one more retry is allowed now; counts it if so."""
        self._forget(now_s)
        if len(self._retries) >= max(ALWAYS, SHARE * len(self._requests)):
            return False
        self._retries.append(now_s)
        return True

    def _forget(self, now_s: float) -> None:
        for times in (self._requests, self._retries):
            while times and times[0] <= now_s - WINDOW_S:
                times.popleft()
