"""When a host's certificate is renewed, and what its owner is told. Sans-IO.

At half of its life, a little earlier or later so that hosts that joined together do not ask
together. Until that succeeds it is tried again after growing pauses, and the owner is told: from
half life on a failure is an alarm, as there is half a life left to mend it. Once the certificate
has ended the pauses are a minute at most: the host is cut off until its issuer is back.
"""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from overlay.units import show_duration

LOOK_AGAIN_S = 60.0
"""The wall clock can be set, and a laptop can sleep: dates are compared again after so long."""

JITTER = 0.1
"""Of a life: the width of the span about its middle in which hosts ask."""

RETRY_FIRST_S, RETRY_MAX_S, RETRY_ENDED_MAX_S = 60.0, 900.0, 60.0
RETRY_FIRST_SHARE, RETRY_MAX_SHARE = 1 / 200, 1 / 20
"""Pauses are these, or these shares of a life where that is less."""

ELSEWHERE_FIRST_S, ELSEWHERE_MAX_S, ELSEWHERE_OVER_MAX_S = 5.0, 600.0, 60.0
"""Between two rounds of asking the other issuers: a host that is revoked itself asks in vain. The
third is the most while the host's own issuer is known to be over."""

ELSEWHERE_SPREAD_S = 5.0
"""All hosts of an issuer hear at once that it is revoked: they ask spread over so long."""


class Dated(Protocol):
    """A certificate, as far as it matters here."""

    @property
    def issued_unix_s(self) -> int: ...

    @property
    def lifetime_s(self) -> int: ...

    @property
    def not_after_unix_s(self) -> int: ...


D = TypeVar("D", bound=Dated)


class RenewalPlan(Generic[D]):
    """For one certificate after the other. ``leaf`` is the present one."""

    def __init__(self, leaf: D, rng: random.Random) -> None:
        self._rng = rng
        self._begin(leaf)
        self.renewals = 0
        self.failures = 0

    def _begin(self, leaf: D) -> None:
        self.leaf = leaf
        share = 0.5 + JITTER * (self._rng.random() - 0.5)
        self.due_unix_s = leaf.issued_unix_s + share * leaf.lifetime_s
        self._pause_s = self._first_pause_s()
        self._not_before_s = float("-inf")
        self._trouble: str | None = None
        self._failed_since_unix_s: float | None = None

    # -- when

    def wait_s(self, now_s: float, now_unix_s: float) -> float:
        """How long to wait before asking ``is_due`` again; both clocks are needed."""
        until_due_s = max(self.due_unix_s - now_unix_s, self._not_before_s - now_s, 0.0)
        return min(LOOK_AGAIN_S, until_due_s)

    def is_due(self, now_s: float, now_unix_s: float) -> bool:
        """Whether it is time to ask the issuer."""
        return now_unix_s >= self.due_unix_s and now_s >= self._not_before_s

    def hurry(self) -> None:
        """The issuer can be reached again: no pause is waited for."""
        if self._trouble is not None:
            self._not_before_s = float("-inf")
            self._pause_s = self._first_pause_s()

    def hurry_for_root(self, now_unix_s: float) -> None:
        """No root in force vouches for the certificate's issuer: it is due, and no pause counts."""
        self.due_unix_s = min(self.due_unix_s, now_unix_s)
        self._not_before_s = float("-inf")

    # -- what came of it

    def renewed(self, leaf: D, now_s: float) -> None:
        """There is another certificate.

        The next one is not asked for at once, even where our clock is so wrong that it looks old.
        """
        self.renewals += 1
        self._begin(leaf)
        self._not_before_s = now_s + leaf.lifetime_s / 4

    def failed(self, words: str, now_s: float, now_unix_s: float) -> bool:
        """It could not be renewed; ``words`` say why. True the first time for this certificate."""
        self.failures += 1
        first = self._trouble is None
        self._trouble = words
        if self._failed_since_unix_s is None:
            self._failed_since_unix_s = now_unix_s
        self._not_before_s = now_s + self._pause_s * (0.75 + self._rng.random() / 2)
        most_s = min(RETRY_MAX_S, self.leaf.lifetime_s * RETRY_MAX_SHARE)
        if self.has_ended(now_unix_s):
            most_s = min(most_s, RETRY_ENDED_MAX_S)
        self._pause_s = min(self._pause_s * 2, most_s)
        return first

    def _first_pause_s(self) -> float:
        return min(RETRY_FIRST_S, self.leaf.lifetime_s * RETRY_FIRST_SHARE)

    # -- what is told

    def has_ended(self, now_unix_s: float) -> bool:
        """Whether the present certificate is past its end."""
        return now_unix_s > self.leaf.not_after_unix_s

    def left_s(self, now_unix_s: float) -> float:
        """Seconds to its end; negative past it."""
        return self.leaf.not_after_unix_s - now_unix_s

    @property
    def alarmed(self) -> bool:
        """Whether the certificate should have been renewed and was not."""
        return self._trouble is not None

    def posture(self, now_unix_s: float) -> list[tuple[str, str]]:
        """Lines for the host's owner: none while all is well."""
        ends = f"{datetime.fromtimestamp(self.leaf.not_after_unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
        if self.has_ended(now_unix_s):
            words = (
                f"this host's certificate ended {ends}: no links to other peers until it is "
                "renewed, local clients are served from this host's engine"
            )
        elif self._trouble is not None:
            left = show_duration(max(1, round(self.left_s(now_unix_s))))
            words = f"not renewed since its half life, ends in {left} ({ends})"
        else:
            return []
        return [("certificate", f"{words}; last try: {self._trouble or 'none yet'}")]


class Elsewhere:
    """When other issuers are asked: soon at first, then after growing pauses."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._wanted = False
        self._pause_s = ELSEWHERE_FIRST_S
        self._not_before_s = -math.inf

    def want(self, now_s: float, *, lasting: bool) -> None:
        """There is a reason to ask; a ``lasting`` one ends a long pause."""
        if self._not_before_s == -math.inf:
            self._not_before_s = now_s + self._rng.random() * ELSEWHERE_SPREAD_S
        elif lasting:
            most_s = self._jittered(ELSEWHERE_OVER_MAX_S)
            self._not_before_s = min(self._not_before_s, now_s + most_s)
        self._wanted = True

    def is_due(self, now_s: float) -> bool:
        """Whether they are to be asked now."""
        return self._wanted and now_s >= self._not_before_s

    def wait_s(self, now_s: float) -> float:
        """How long until they are to be asked; without end where there is no reason to."""
        return max(0.0, self._not_before_s - now_s) if self._wanted else math.inf

    def begin(self, now_s: float, *, lasting: bool) -> None:
        """They are asked; again only for another reason, but where this one is ``lasting``."""
        self._wanted = lasting
        most_s = ELSEWHERE_OVER_MAX_S if lasting else ELSEWHERE_MAX_S
        self._pause_s = min(self._pause_s, most_s)
        self._not_before_s = now_s + self._jittered(self._pause_s)
        self._pause_s = min(self._pause_s * 2, most_s)

    def _jittered(self, pause_s: float) -> float:
        return pause_s * (0.75 + self._rng.random() / 2)
