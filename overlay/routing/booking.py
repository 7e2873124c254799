"""Requests that we have just sent to a peer and that its load hint cannot show yet.

A hint is a picture of the peer at one moment. Ours that began after it are added to it; ours that
it still counts and that have ended since are taken off. A booking is dropped when it is ended, or
at its expiry should that never be told (SMG and Dynamo do the same).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

from security.peer_id import PeerId

BookingId = NewType("BookingId", int)

LIFETIME_S = 600.0
"""Longest life of a booking; longer than the deadline of nearly every request."""

ENDED_KEPT_MAX = 256
"""Ended bookings remembered for each peer until its next hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """What to add to a peer's load hint (may be below 0), and all that we have there."""

    requests: int = 0
    queued_tokens: float = 0.0
    in_flight: int = 0


@dataclass(slots=True)
class _Booking:
    peer_id: PeerId
    began_s: float
    uncached_tokens: float
    prefilled_s: float | None = None
    ended_s: float | None = None

    def added_requests(self, hint_s: float) -> int:
        """1 when the hint is too old to know of it, -1 when it counts it and it is over."""
        known = self.began_s <= hint_s
        if self.ended_s is None:
            return 0 if known else 1
        return -1 if known and self.ended_s > hint_s else 0

    def added_tokens(self, hint_s: float) -> float:
        """The same for its prefill work."""
        known = self.began_s <= hint_s
        if self.prefilled_s is None:
            return 0.0 if known else self.uncached_tokens
        return -self.uncached_tokens if known and self.prefilled_s > hint_s else 0.0


class Bookings:
    """All requests that this router has under way elsewhere or here."""

    def __init__(self, lifetime_s: float = LIFETIME_S) -> None:
        self._lifetime_s = lifetime_s
        self._next = 0
        self._by_peer: dict[PeerId, dict[BookingId, _Booking]] = {}
        self._peer_of: dict[BookingId, PeerId] = {}
        self._hint_s: dict[PeerId, float] = {}

    def begin(self, peer_id: PeerId, *, uncached_tokens: float, now_s: float) -> BookingId:
        """Books a request that is being sent now.

        Args:
            peer_id: Where it goes.
            uncached_tokens: Prompt tokens that are expected to be computed there.
            now_s: The router's clock.
        """
        booking_id = BookingId(self._next)
        self._next += 1
        booking = _Booking(peer_id, now_s, uncached_tokens)
        self._by_peer.setdefault(peer_id, {})[booking_id] = booking
        self._peer_of[booking_id] = peer_id
        return booking_id

    def first_token(self, booking_id: BookingId, now_s: float) -> None:
        """Its prefill is done. Unknown (expired) bookings are passed over."""
        booking = self._find(booking_id)
        if booking is not None and booking.prefilled_s is None:
            booking.prefilled_s = now_s

    def end(self, booking_id: BookingId, now_s: float) -> None:
        """It is over, whatever became of it. Unknown (expired) bookings are passed over."""
        booking = self._find(booking_id)
        if booking is None or booking.ended_s is not None:
            return
        self.first_token(booking_id, now_s)
        booking.ended_s = now_s
        of_peer = self._by_peer[booking.peer_id]
        ended = [each for each, kept in of_peer.items() if kept.ended_s is not None]
        for each in ended[: max(0, len(ended) - ENDED_KEPT_MAX)]:
            self._drop(each)

    def on_hint(self, peer_id: PeerId, taken_s: float) -> None:
        """A load hint of that peer came in, a picture of ``taken_s`` by the router's clock."""
        self._hint_s[peer_id] = max(taken_s, self._hint_s.get(peer_id, taken_s))
        for booking_id, booking in list(self._by_peer.get(peer_id, {}).items()):
            if booking.ended_s is not None and booking.ended_s <= self._hint_s[peer_id]:
                self._drop(booking_id)

    def booked(self, peer_id: PeerId, now_s: float) -> Booked:
        """What to add to that peer's last hint, and how much we have there."""
        hint_s = self._hint_s.get(peer_id, float("-inf"))
        requests, tokens, in_flight = 0, 0.0, 0
        for booking in self._alive(peer_id, now_s):
            requests += booking.added_requests(hint_s)
            tokens += booking.added_tokens(hint_s)
            in_flight += booking.ended_s is None
        return Booked(requests=requests, queued_tokens=tokens, in_flight=in_flight)

    def forget(self, peer_id: PeerId) -> None:
        """The peer is gone, and with it its hint; requests under way are still to be ended."""
        self._hint_s.pop(peer_id, None)

    def _alive(self, peer_id: PeerId, now_s: float) -> Iterator[_Booking]:
        for booking_id, booking in list(self._by_peer.get(peer_id, {}).items()):
            if now_s - booking.began_s > self._lifetime_s:
                self._drop(booking_id)
            else:
                yield booking

    def _find(self, booking_id: BookingId) -> _Booking | None:
        peer_id = self._peer_of.get(booking_id)
        return None if peer_id is None else self._by_peer[peer_id][booking_id]

    def _drop(self, booking_id: BookingId) -> None:
        peer_id = self._peer_of.pop(booking_id)
        del self._by_peer[peer_id][booking_id]
        if not self._by_peer[peer_id]:
            del self._by_peer[peer_id]
