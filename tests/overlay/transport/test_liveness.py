"""Liveness and expiry: pure functions of the times they are told."""

from __future__ import annotations

import math
import random

import pytest

from overlay.errors import PeerGone
from overlay.transport.expiry import SLACK, Expiry
from overlay.transport.liveness import Idleness, Liveness


def watch() -> Liveness:
    return Liveness(
        ping_every_s=2.0, ping_timeout_s=3.0, now_s=100.0, secret=random.Random(1).randbytes
    )


def ping(liveness: Liveness, now_s: float) -> int:
    number = liveness.on_timer(now_s)
    assert number is not None
    return number


def test_the_first_ping_goes_at_once_and_the_next_after_the_pause() -> None:
    liveness = watch()
    number = ping(liveness, 100.0)
    liveness.on_heard(100.1)
    liveness.on_pong(number, 100.1)
    assert liveness.rtt_s == pytest.approx(0.1)
    assert liveness.on_timer(101.0) is None
    assert liveness.next_deadline_s() == 102.0
    assert ping(liveness, 102.0) != number


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
    ping(liveness, 200.0)
    with pytest.raises(PeerGone):
        liveness.on_timer(203.0)


def test_an_answer_to_an_older_ping_measures_nothing() -> None:
    liveness = watch()
    older = ping(liveness, 100.0)
    ping(liveness, 200.0)
    liveness.on_pong(older, 200.1)
    assert liveness.rtt_s is None


def test_answers_that_nobody_asked_for_measure_nothing() -> None:
    liveness = watch()
    liveness.on_pong(0, 100.0)
    first = ping(liveness, 100.0)
    liveness.on_pong(first, 100.1)
    liveness.on_pong(first, 100.1)
    ping(liveness, 102.0)
    for guess in (0, 1, 2, first, first + 1):
        liveness.on_pong(guess, 102.0)
    assert liveness.rtt_s == pytest.approx(0.1)
    assert liveness.next_deadline_s() == 105.0


def test_who_serves_nothing_for_long_is_idle() -> None:
    idleness = Idleness(idle_s=10.0, now_s=100.0)
    assert not idleness.is_over(109.0, begun=0, under_way=False)
    assert not idleness.is_over(110.0, begun=1, under_way=False)
    assert not idleness.is_over(125.0, begun=1, under_way=True)
    assert not idleness.is_over(134.0, begun=1, under_way=False)
    assert idleness.is_over(135.0, begun=1, under_way=False)


def test_round_trips_are_smoothed() -> None:
    liveness = watch()
    for sent_s, rtt_s in [(100.0, 0.1), (102.0, 0.5)]:
        number = ping(liveness, sent_s)
        liveness.on_heard(sent_s + rtt_s)
        liveness.on_pong(number, sent_s + rtt_s)
    assert liveness.rtt_s == pytest.approx(0.2)


def test_streams_are_due_in_order_of_their_times() -> None:
    expiry, alive = Expiry(), {1, 2, 3}
    for key, due_s in [(1, 5.0), (2, 3.0), (3, 4.0)]:
        expiry.add(key, due_s)
    assert expiry.next_s == 3.0
    assert expiry.due(4.0, alive) == [2, 3]
    assert expiry.next_s == 5.0
    assert expiry.due(9.0, alive) == [1]
    assert expiry.next_s == math.inf


def test_ended_streams_are_not_waited_for() -> None:
    expiry = Expiry()
    for key, due_s in [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]:
        expiry.add(key, due_s)
    assert expiry.due(1.0, {3}) == []
    assert expiry.next_s == 3.0


def test_ended_streams_leave_nothing_behind() -> None:
    expiry = Expiry()
    for key in range(10_000):
        expiry.add(key, 1000.0 + key)
        expiry.ended(())
        assert len(expiry._heap) <= SLACK
