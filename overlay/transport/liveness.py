"""Is the far side alive: pings, round trips, and silence that lasts too long. Sans-IO.

Anything heard counts as life; a ping makes sure that something would be heard. The timer forgives
itself: when it fires late, this process was stopped or starved, and what the far side has sent in
the meantime is still unread, so the far side gets its time again (Lifeguard's local health).

The number of a ping cannot be guessed: an answer that was sent before its question would show a
round trip of nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.errors import PeerGone

NUMBER_BYTES: Final = 8

LATE_S = 0.5
"""A timer this late says that we were the ones who slept."""

SMOOTHING = 0.25
"""Weight of a new round trip (TCP uses 1/8; here a sample comes every few seconds only)."""


class Liveness:
    """Watches one connection. All times are seconds of the same clock.

    ``secret`` draws random bytes (``Entropy.secret``): the numbers of the pings.
    """

    def __init__(
        self,
        *,
        ping_every_s: float,
        ping_timeout_s: float,
        now_s: float,
        secret: Callable[[int], bytes],
    ) -> None:
        self._every_s = ping_every_s
        self._timeout_s = ping_timeout_s
        self._secret = secret
        self._number: int | None = None
        self._sent_s: float | None = None
        self._next_s = now_s
        self.last_heard_s = now_s
        self.rtt_s: float | None = None

    def next_deadline_s(self) -> float:
        """When ``on_timer`` is to be called next."""
        if self._sent_s is None:
            return self._next_s
        return max(self._sent_s, self.last_heard_s) + self._timeout_s

    def on_timer(self, now_s: float) -> int | None:
        """Gives the number of a ping to send now, or None.

        Raises:
            PeerGone: When the far side has been silent for too long.
        """
        due_s = self.next_deadline_s()
        if now_s < due_s:
            return None
        if self._sent_s is not None and now_s - due_s <= LATE_S:
            raise PeerGone(f"silent for {now_s - self.last_heard_s:.1f} s")
        self._number = int.from_bytes(self._secret(NUMBER_BYTES), "big")
        self._sent_s = now_s
        return self._number

    def on_heard(self, now_s: float) -> None:
        """Something came."""
        self.last_heard_s = now_s

    def on_pong(self, number: int, now_s: float) -> None:
        """A PONG came; one that answers an older ping, or none of ours, says nothing."""
        if self._sent_s is None or number != self._number:
            return
        sample_s = now_s - self._sent_s
        if self.rtt_s is None:
            self.rtt_s = sample_s
        else:
            self.rtt_s += SMOOTHING * (sample_s - self.rtt_s)
        self._next_s = self._sent_s + self._every_s
        self._sent_s = None


class Idleness:
    """Has a connection served nothing for too long? Told from time to time; exact to that."""

    def __init__(self, *, idle_s: float, now_s: float) -> None:
        self._idle_s = idle_s
        self._busy_s = now_s
        self._begun = 0

    def is_over(self, now_s: float, *, begun: int, under_way: bool) -> bool:
        """Whether ``idle_s`` have gone by without a stream.

        Args:
            now_s: The time.
            begun: Streams begun so far.
            under_way: Whether one is served now.
        """
        if under_way or begun != self._begun:
            self._busy_s, self._begun = now_s, begun
        return now_s - self._busy_s >= self._idle_s
