"""Bookings against a plain model: what we have at a peer now, less what we had at its hint."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from overlay.routing.booking import ENDED_KEPT_MAX, Booked, BookingId, Bookings
from security.peer_id import PeerId
from tests.overlay.routing.pictures import ONE, PEERS, TWO

LIFETIME_S = 40.0
THREE_PEERS = PEERS[:3]


@dataclass
class Request:
    peer_id: PeerId
    began_s: float
    tokens: float
    prefilled_s: float = math.inf
    ended_s: float = math.inf


class Model(RuleBasedStateMachine):
    """Every request with its times; what a peer has of ours at any time can be counted."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.bookings = Bookings(LIFETIME_S)
        self.requests: dict[BookingId, Request] = {}
        self.hints: dict[PeerId, float] = {}
        self.now_s = 100.0

    def there(self, peer_id: PeerId, at_s: float) -> tuple[int, float]:
        """Requests of ours there, and uncached tokens not yet computed, at a time."""
        ours = [
            each
            for each in self.requests.values()
            if each.peer_id == peer_id and self.now_s - each.began_s <= LIFETIME_S
        ]
        running = [each for each in ours if each.began_s <= at_s < each.ended_s]
        waiting = [each for each in ours if each.began_s <= at_s < each.prefilled_s]
        return len(running), sum(each.tokens for each in waiting)

    @rule(
        target=ids,
        peer_id=st.sampled_from(THREE_PEERS),
        tokens=st.sampled_from([0.0, 16.0, 1000.0]),
    )
    def begin(self, peer_id: PeerId, tokens: float) -> BookingId:
        made = self.bookings.begin(peer_id, uncached_tokens=tokens, now_s=self.now_s)
        assert made not in self.requests
        self.requests[made] = Request(peer_id, self.now_s, tokens)
        return made

    @rule(booking_id=ids)
    def first_token(self, booking_id: BookingId) -> None:
        self.bookings.first_token(booking_id, self.now_s)
        request = self.requests[booking_id]
        request.prefilled_s = min(request.prefilled_s, self.now_s)

    @rule(booking_id=ids)
    def end(self, booking_id: BookingId) -> None:
        self.bookings.end(booking_id, self.now_s)
        request = self.requests[booking_id]
        request.prefilled_s = min(request.prefilled_s, self.now_s)
        request.ended_s = min(request.ended_s, self.now_s)

    @rule(peer_id=st.sampled_from(THREE_PEERS), late_s=st.sampled_from([0.0, 1.0, 5.0, 30.0]))
    def hint(self, peer_id: PeerId, late_s: float) -> None:
        """Hints may be late and overtake each other."""
        taken_s = self.now_s - late_s
        self.bookings.on_hint(peer_id, taken_s)
        self.hints[peer_id] = max(taken_s, self.hints.get(peer_id, -math.inf))

    @rule(peer_id=st.sampled_from(THREE_PEERS))
    def forget(self, peer_id: PeerId) -> None:
        self.bookings.forget(peer_id)
        self.hints.pop(peer_id, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 7.0, 41.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def what_is_added_to_a_hint_is_what_has_changed_since(self) -> None:
        for peer_id in THREE_PEERS:
            hinted = self.there(peer_id, self.hints.get(peer_id, -math.inf))
            now = self.there(peer_id, self.now_s)
            assert self.bookings.booked(peer_id, self.now_s) == Booked(
                requests=now[0] - hinted[0], queued_tokens=now[1] - hinted[1], in_flight=now[0]
            )


def test_bookings_add_to_a_hint_what_has_changed_since() -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
        ),
    )


def test_a_request_is_booked_until_a_hint_can_know_of_it() -> None:
    bookings = Bookings()
    bookings.begin(ONE, uncached_tokens=500, now_s=10.0)
    assert bookings.booked(ONE, 10.5) == Booked(requests=1, queued_tokens=500, in_flight=1)
    bookings.on_hint(ONE, 9.9)
    assert bookings.booked(ONE, 11.0).requests == 1
    bookings.on_hint(ONE, 10.0)
    assert bookings.booked(ONE, 11.0) == Booked(requests=0, queued_tokens=0, in_flight=1)


def test_a_request_that_the_hint_still_counts_is_taken_off_when_it_ends() -> None:
    bookings = Bookings()
    made = bookings.begin(ONE, uncached_tokens=500, now_s=10.0)
    bookings.on_hint(ONE, 11.0)
    bookings.end(made, 12.0)
    assert bookings.booked(ONE, 12.0) == Booked(requests=-1, queued_tokens=-500, in_flight=0)
    bookings.on_hint(ONE, 13.0)
    assert bookings.booked(ONE, 13.0) == Booked()


def test_peers_are_booked_apart() -> None:
    bookings = Bookings()
    bookings.begin(ONE, uncached_tokens=1, now_s=0.0)
    assert bookings.booked(TWO, 0.0) == Booked()


def test_a_booking_whose_end_is_never_told_expires_and_may_end_after_that() -> None:
    bookings = Bookings(LIFETIME_S)
    made = bookings.begin(ONE, uncached_tokens=1, now_s=0.0)
    assert bookings.booked(ONE, LIFETIME_S).in_flight == 1
    assert bookings.booked(ONE, LIFETIME_S + 1) == Booked()
    bookings.first_token(made, LIFETIME_S + 2)
    bookings.end(made, LIFETIME_S + 3)
    assert bookings.booked(ONE, LIFETIME_S + 3) == Booked()


def test_requests_under_way_survive_a_lost_connection() -> None:
    bookings = Bookings()
    made = bookings.begin(ONE, uncached_tokens=500, now_s=10.0)
    bookings.on_hint(ONE, 11.0)
    bookings.forget(ONE)
    assert bookings.booked(ONE, 12.0).requests == 1
    bookings.end(made, 13.0)
    assert bookings.booked(ONE, 13.0) == Booked()


@pytest.mark.parametrize("hinted", [True, False], ids=["hinted", "never hinted"])
def test_ended_bookings_are_bounded_for_a_peer_that_sends_no_hints(hinted: bool) -> None:
    bookings = Bookings()
    if hinted:
        bookings.on_hint(ONE, 5.0)
    running = bookings.begin(ONE, uncached_tokens=0, now_s=0.0)
    for _ in range(2 * ENDED_KEPT_MAX):
        bookings.end(bookings.begin(ONE, uncached_tokens=0, now_s=1.0), 6.0)
    kept = bookings._accounts[ONE].bookings
    assert len(kept) == len(bookings._peer_of) == ENDED_KEPT_MAX + 1
    assert running in kept


def test_nothing_is_kept_of_a_peer_whose_requests_are_all_over() -> None:
    bookings = Bookings()
    bookings.end(bookings.begin(ONE, uncached_tokens=0, now_s=0.0), 1.0)
    bookings.on_hint(ONE, 2.0)
    assert not bookings._accounts[ONE].bookings
    assert not bookings._peer_of
