"""Suspicion, probes and the way back, as rules of a table and as promises over time."""

from __future__ import annotations

import pytest

from overlay.routing.candidate import Standing
from overlay.routing.probation import (
    HALF_LIFE_S,
    PAUSE_FIRST_S,
    PAUSE_MAX_S,
    PROBE_LIFETIME_S,
    Probation,
)
from tests.overlay.routing.pictures import ONE, TWO


def paused_s(probation: Probation, failed_s: float) -> float:
    """Seconds from a failure to the probe's being due, in steps of an eighth."""
    steps = 0
    while probation.standing(ONE, failed_s + steps / 8) is Standing.SUSPECTED:
        steps += 1
        assert steps < 8 * 60
    return steps / 8


def test_a_peer_without_failures_is_clear() -> None:
    probation = Probation()
    probation.on_sent(ONE, 1.0)
    probation.on_unfinished(ONE)
    probation.on_sign_of_life(ONE, 2.0)
    probation.on_success(ONE)
    assert probation.standing(ONE, 3.0) is Standing.CLEAR
    assert not probation.suspected(ONE)


def test_a_failure_keeps_a_peer_out_until_its_probe_is_due() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    assert probation.suspected(ONE)
    assert probation.standing(ONE, 10.0) is Standing.SUSPECTED
    assert probation.standing(ONE, 10.0 + PAUSE_FIRST_S) is Standing.PROBE_DUE
    assert probation.standing(TWO, 10.0) is Standing.CLEAR


def test_a_host_that_was_not_heard_of_since_its_failure_gets_no_probe() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    for heard_s, standing in (
        (8.0, Standing.SUSPECTED),
        (10.0, Standing.SUSPECTED),
        (10.1, Standing.PROBE_DUE),
    ):
        assert probation.standing(ONE, 99.0, heard_s) is standing


def test_only_one_probe_is_under_way() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sent(ONE, 12.0)
    assert probation.standing(ONE, 12.0) is Standing.SUSPECTED
    assert probation.standing(ONE, 12.0 + PROBE_LIFETIME_S - 0.01) is Standing.SUSPECTED


def test_a_probe_whose_end_is_never_told_makes_room_for_another() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sent(ONE, 12.0)
    assert probation.standing(ONE, 12.0 + PROBE_LIFETIME_S) is Standing.PROBE_DUE


def test_a_probe_that_told_nothing_is_made_again() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sent(ONE, 12.0)
    probation.on_unfinished(ONE)
    assert probation.standing(ONE, 12.0) is Standing.PROBE_DUE


def test_a_probe_that_succeeds_clears_the_peer() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sent(ONE, 12.0)
    probation.on_success(ONE)
    assert probation.standing(ONE, 12.0) is Standing.CLEAR
    assert not probation.suspected(ONE)


def test_the_pause_doubles_with_each_failure_in_a_row_up_to_its_bound() -> None:
    probation = Probation()
    pauses = []
    for _ in range(6):
        probation.on_failure(ONE, 10.0)
        pauses.append(paused_s(probation, 10.0))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert (pauses[0], pauses[-1]) == (PAUSE_FIRST_S, PAUSE_MAX_S)


def test_failures_are_forgotten_with_time() -> None:
    probation = Probation()
    for _ in range(4):
        probation.on_failure(ONE, 10.0)
    later_s = 10.0 + 20 * HALF_LIFE_S
    probation.on_failure(ONE, later_s)
    assert paused_s(probation, later_s) == pytest.approx(PAUSE_FIRST_S, abs=0.126)


def test_a_peer_that_fails_right_after_its_return_waits_longer() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_success(ONE)
    probation.on_failure(ONE, 10.0)
    assert paused_s(probation, 10.0) == 2.0


@pytest.mark.parametrize("failures", [1, 100, 5000])
def test_any_number_of_requests_that_fail_at_once_cost_one_bounded_pause(failures: int) -> None:
    probation = Probation()
    for _ in range(failures):
        probation.on_failure(ONE, 10.0)
    assert paused_s(probation, 10.0) <= PAUSE_MAX_S


def test_a_peer_that_is_back_is_used_within_15_s_however_often_it_failed() -> None:
    """Probes are made whenever due and fail within 1.5 s, until the peer is back."""
    for back_s in (30.0, 33.3, 61.0, 107.5):
        probation = Probation()
        probation.on_failure(ONE, 0.0)
        now_s = 0.0
        while probation.suspected(ONE):
            now_s += 0.1
            if probation.standing(ONE, now_s) is not Standing.PROBE_DUE:
                continue
            probation.on_sent(ONE, now_s)
            if now_s >= back_s:
                probation.on_success(ONE)
            else:
                now_s += 1.5
                probation.on_failure(ONE, now_s)
        assert back_s <= now_s <= back_s + 15.0


def test_a_sign_of_life_after_the_failure_makes_the_probe_due_at_once() -> None:
    probation = Probation()
    for _ in range(4):
        probation.on_failure(ONE, 10.0)
    probation.on_sign_of_life(ONE, 10.5)
    assert probation.standing(ONE, 10.5) is Standing.PROBE_DUE


def test_a_sign_of_life_from_before_the_failure_says_nothing() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sign_of_life(ONE, 10.0)
    assert probation.standing(ONE, 10.0) is Standing.SUSPECTED


def test_a_sign_of_life_allows_no_second_probe() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sent(ONE, 12.0)
    probation.on_sign_of_life(ONE, 12.5)
    assert probation.standing(ONE, 12.5) is Standing.SUSPECTED


def test_a_sign_of_life_never_puts_a_probe_off() -> None:
    probation = Probation()
    probation.on_failure(ONE, 10.0)
    probation.on_sign_of_life(ONE, 99.0)
    assert probation.standing(ONE, 98.0) is Standing.PROBE_DUE


def test_nothing_is_held_against_a_peer_that_left_and_came_again() -> None:
    probation = Probation()
    for _ in range(4):
        probation.on_failure(ONE, 10.0)
    probation.forget(ONE)
    assert probation.standing(ONE, 10.0) is Standing.CLEAR
    probation.on_failure(ONE, 10.0)
    assert paused_s(probation, 10.0) == PAUSE_FIRST_S
