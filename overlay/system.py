"""The real clock and the real randomness: the only place that reads either."""

from __future__ import annotations

import random
import secrets
import time

import trio

SEED_BYTES = 32


class SystemClock:
    """``overlay.ports.Clock`` of the operating system; durations follow trio's own clock."""

    def now_s(self) -> float:
        return trio.current_time()

    def unix_s(self) -> float:
        return time.time()


class SystemEntropy:
    """``overlay.ports.Entropy`` of the operating system; ``rng`` is seeded from it once."""

    def __init__(self) -> None:
        self._rng = random.Random(secrets.token_bytes(SEED_BYTES))

    def secret(self, size_bytes: int) -> bytes:
        return secrets.token_bytes(size_bytes)

    @property
    def rng(self) -> random.Random:
        return self._rng
