"""Liveness and expiry: pure functions of the times they are told."""

from __future__ import annotations

import math

import pytest

from overlay.errors import PeerGone
from overlay.transport.expiry import SLACK, Expiry
from overlay.transport.liveness import Liveness


def watch() -> Liveness:
    return Liveness(ping_every_s=2.0, ping_timeout_s=3.0, now_s=100.0)


def test_the_first_ping_goes_at_once_and_the_next_after_the_pause() -> None:
    liveness = watch()
    assert liveness.on_timer(100.0) == 1
    liveness.on_heard(100.1)
    liveness.on_pong(1, 100.1)
    assert liveness.rtt_s == pytest.approx(0.1)
    assert liveness.on_timer(101.0) is None
    assert liveness.next_deadline_s() == 102.0
    assert liveness.on_timer(102.0) == 2


def test_silence_after_a_ping_is_death() -> None:
    liveness = watch()
    liveness.on_timer(100.0)
    assert liveness.next_deadline_s() == 103.0
    with pytest.raises(PeerGone):
        liveness.on_timer(103.0)


def test_anything_heard_is_life() -> None:
    liveness = watch()
    liveness.on_timer(100.0)
    liveness.on_heard(102.5)
    assert liveness.on_timer(103.0) is None
    assert liveness.next_deadline_s() == 105.5


def test_a_timer_that_fires_late_forgives_once() -> None:
    liveness = watch()
    liveness.on_timer(100.0)
    assert liveness.on_timer(200.0) == 2
    with pytest.raises(PeerGone):
        liveness.on_timer(203.0)


def test_an_answer_to_an_older_ping_measures_nothing() -> None:
    liveness = watch()
    liveness.on_timer(100.0)
    liveness.on_timer(200.0)
    liveness.on_pong(1, 200.1)
    assert liveness.rtt_s is None


def test_round_trips_are_smoothed() -> None:
    liveness = watch()
    for number, (sent_s, rtt_s) in enumerate([(100.0, 0.1), (102.0, 0.5)], start=1):
        assert liveness.on_timer(sent_s) == number
        liveness.on_heard(sent_s + rtt_s)
        liveness.on_pong(number, sent_s + rtt_s)
    assert liveness.rtt_s == pytest.approx(0.2)


def test_calls_expire_in_order_of_their_deadlines() -> None:
    expiry = Expiry()
    for key, deadline_s in [(1, 5.0), (2, 3.0), (3, 4.0)]:
        expiry.add(key, deadline_s)
    assert expiry.next_s == 3.0
    assert expiry.due(4.0) == [2, 3]
    assert expiry.next_s == 5.0
    assert expiry.due(9.0) == [1]
    assert expiry.next_s == math.inf


def test_ended_calls_leave_nothing_behind() -> None:
    expiry = Expiry()
    for key in range(10_000):
        expiry.add(key, 1000.0 + key)
        expiry.ended({})
        assert len(expiry._heap) <= SLACK + 4
