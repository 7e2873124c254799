"""Requests that we have just sent to a peer and that its load hint cannot show yet.

A hint is a picture of the peer at one moment. Ours that began after it are added to it; ours that
it still counts and that have ended since are taken off. A booking is dropped when it is ended, or
at its expiry should that never be told (SMG and Dynamo do the same).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
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


NOTHING_BOOKED = Booked()


@dataclass(slots=True)
class _Booking:
    peer_id: PeerId
    began_s: float
    uncached_tokens: float
    prefilled_s: float | None = None
    ended_s: float | None = None
    requests: int = 0
    tokens: float = 0.0

    def count(self, hint_s: float) -> None:
        """Sets what it adds to a hint of that time.

        1 request when the hint is too old to know of it, -1 when it counts it and it is over; the
        same for its prefill work.
        """
        known = self.began_s <= hint_s
        if self.ended_s is None:
            self.requests = 0 if known else 1
        else:
            self.requests = -1 if known and self.ended_s > hint_s else 0
        if self.prefilled_s is None:
            self.tokens = 0.0 if known else self.uncached_tokens
        else:
            self.tokens = -self.uncached_tokens if known and self.prefilled_s > hint_s else 0.0


@dataclass(slots=True)
class _Account:
    """All bookings at one peer, and their sums: a decision asks for these, and must not count."""

    hint_s: float = -math.inf
    bookings: dict[BookingId, _Booking] = field(default_factory=dict)
    ended: deque[BookingId] = field(default_factory=deque)
    requests: int = 0
    tokens: float = 0.0
    in_flight: int = 0

    def add(self, booking: _Booking) -> None:
        booking.count(self.hint_s)
        self.requests += booking.requests
        self.tokens += booking.tokens
        self.in_flight += booking.ended_s is None

    def subtract(self, booking: _Booking) -> None:
        self.requests -= booking.requests
        self.tokens -= booking.tokens
        self.in_flight -= booking.ended_s is None


class Bookings:
    """All requests that this router has under way elsewhere or here."""

    def __init__(self, lifetime_s: float = LIFETIME_S) -> None:
        self._lifetime_s = lifetime_s
        self._next = 0
        self._accounts: dict[PeerId, _Account] = {}
        self._peer_of: dict[BookingId, PeerId] = {}

    def begin(self, peer_id: PeerId, *, uncached_tokens: float, now_s: float) -> BookingId:
        """Books a request that is being sent now.

        Args:
            peer_id: Where it goes.
            uncached_tokens: Prompt tokens that are expected to be computed there.
            now_s: The router's clock.
        """
        booking_id = BookingId(self._next)
        self._next += 1
        account = self._accounts.setdefault(peer_id, _Account())
        booking = _Booking(peer_id, now_s, uncached_tokens)
        account.bookings[booking_id] = booking
        account.add(booking)
        self._peer_of[booking_id] = peer_id
        return booking_id

    def first_token(self, booking_id: BookingId, now_s: float) -> None:
        """Its prefill is done. Unknown (expired) bookings are passed over."""
        account, booking = self._find(booking_id)
        if booking is not None and booking.prefilled_s is None:
            account.subtract(booking)
            booking.prefilled_s = now_s
            account.add(booking)

    def end(self, booking_id: BookingId, now_s: float) -> None:
        """It is over, whatever became of it. Unknown (expired) bookings are passed over."""
        account, booking = self._find(booking_id)
        if booking is None or booking.ended_s is not None:
            return
        account.subtract(booking)
        booking.ended_s = now_s
        if booking.prefilled_s is None:
            booking.prefilled_s = now_s
        account.add(booking)
        account.ended.append(booking_id)
        if len(account.ended) > ENDED_KEPT_MAX:
            self._drop(account, account.ended.popleft())

    def on_hint(self, peer_id: PeerId, taken_s: float) -> None:
        """A load hint of that peer came in, a picture of ``taken_s`` by the router's clock."""
        account = self._accounts.setdefault(peer_id, _Account())
        account.hint_s = max(taken_s, account.hint_s)
        while account.ended:
            booking = account.bookings.get(account.ended[0])
            if booking is not None and (booking.ended_s or 0.0) > account.hint_s:
                break
            self._drop(account, account.ended.popleft())
        self._count_again(account)

    def booked(self, peer_id: PeerId, now_s: float) -> Booked:
        """What to add to that peer's last hint, and how much we have there."""
        account = self._accounts.get(peer_id)
        if account is None:
            return NOTHING_BOOKED
        while account.bookings:
            oldest = next(iter(account.bookings))
            if now_s - account.bookings[oldest].began_s <= self._lifetime_s:
                break
            self._drop(account, oldest)
        return Booked(
            requests=account.requests,
            queued_tokens=account.tokens,
            in_flight=account.in_flight,
        )

    def forget(self, peer_id: PeerId) -> None:
        """The peer is gone, and with it its hint; requests under way are still to be ended."""
        account = self._accounts.get(peer_id)
        if account is None:
            return
        account.hint_s = -math.inf
        self._count_again(account)
        if not account.bookings:
            del self._accounts[peer_id]

    def _count_again(self, account: _Account) -> None:
        account.requests, account.tokens, account.in_flight = 0, 0.0, 0
        for booking in account.bookings.values():
            account.add(booking)

    def _find(self, booking_id: BookingId) -> tuple[_Account, _Booking | None]:
        peer_id = self._peer_of.get(booking_id)
        if peer_id is None:
            return _Account(), None
        account = self._accounts[peer_id]
        return account, account.bookings.get(booking_id)

    def _drop(self, account: _Account, booking_id: BookingId) -> None:
        booking = account.bookings.pop(booking_id, None)
        if booking is not None:
            account.subtract(booking)
            del self._peer_of[booking_id]
        if not account.bookings:
            account.tokens = 0.0  # sums of fractions leave a rest
