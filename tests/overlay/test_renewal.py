"""When a certificate is renewed, how failures are spaced, and what the owner is told."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.renewal import (
    ELSEWHERE_FIRST_S,
    ELSEWHERE_MAX_S,
    ELSEWHERE_OVER_MAX_S,
    ELSEWHERE_SPREAD_S,
    LOOK_AGAIN_S,
    RETRY_ENDED_MAX_S,
    RETRY_MAX_S,
    Elsewhere,
    RenewalPlan,
)
from security.certificate import Leaf, issue_leaf, parse_leaf
from tests.security.world import DAY_S, NOW_S, Overlay

OVERLAY = Overlay()
KEYS = OVERLAY.host()


def leaf_of(life_s: float, issued_s: float = NOW_S) -> Leaf:
    return parse_leaf(
        issue_leaf(OVERLAY.issuer, KEYS.peer_id, OVERLAY.secret, issued_s, lifetime_s=life_s)
    )


def plan_of(life_s: float = DAY_S, seed: int = 1) -> RenewalPlan:
    return RenewalPlan(leaf_of(life_s), random.Random(seed))


@given(st.integers(0, 1000), st.integers(4, 90 * DAY_S))
def test_it_is_due_about_half_of_its_life(seed: int, life_s: int) -> None:
    plan = RenewalPlan(leaf_of(life_s), random.Random(seed))
    assert NOW_S + 0.45 * life_s <= plan.due_unix_s <= NOW_S + 0.55 * life_s
    assert not plan.is_due(0.0, plan.due_unix_s - 0.1)
    assert plan.is_due(0.0, plan.due_unix_s)
    assert not plan.alarmed
    assert plan.posture(plan.due_unix_s) == []


def test_hosts_that_joined_together_do_not_ask_together() -> None:
    dues = sorted(plan_of(seed=seed).due_unix_s for seed in range(100))
    assert dues[-1] - dues[0] > 0.08 * DAY_S


def test_the_wall_clock_is_looked_at_every_minute() -> None:
    plan = plan_of()
    assert plan.wait_s(0.0, NOW_S) == LOOK_AGAIN_S
    assert plan.wait_s(0.0, plan.due_unix_s - 5) == pytest.approx(5)
    assert plan.wait_s(0.0, plan.due_unix_s + 5) == 0


@given(st.integers(4, 90 * DAY_S), st.integers(0, 100))
def test_pauses_grow_to_a_bound_and_a_try_is_never_far_off(life_s: int, seed: int) -> None:
    plan = RenewalPlan(leaf_of(life_s), random.Random(seed))
    now_s, pauses = 0.0, []
    assert plan.failed("no", now_s, plan.due_unix_s), "the first one is told"
    for _ in range(40):
        began_s = now_s
        while not plan.is_due(now_s, plan.due_unix_s + now_s):
            now_s += max(1e-3, plan.wait_s(now_s, plan.due_unix_s + now_s))
        pauses.append(now_s - began_s)
        assert not plan.failed("no", now_s, plan.due_unix_s + now_s), "once is enough"
    most_s = 1.25 * min(RETRY_MAX_S, life_s / 20) + 0.01
    assert max(pauses) <= most_s
    assert pauses[0] <= 1.25 * min(60.0, life_s / 200) + 0.01
    assert plan.failures == 41


def test_once_it_has_ended_it_is_tried_every_minute_at_least() -> None:
    plan = plan_of(90 * DAY_S)
    now_unix_s = NOW_S + 91 * DAY_S
    now_s = 0.0
    for _ in range(20):
        plan.failed("no", now_s, now_unix_s)
        waited_s = 0.0
        while not plan.is_due(now_s + waited_s, now_unix_s):
            waited_s += max(1e-3, plan.wait_s(now_s + waited_s, now_unix_s))
        now_s += waited_s
        assert waited_s <= 1.25 * RETRY_ENDED_MAX_S + 0.01


def test_the_owner_is_told_from_the_first_failure_on_until_it_is_renewed() -> None:
    plan = plan_of()
    plan.failed("no connection to the issuer", 0.0, NOW_S + 13 * 3600)
    ((name, words),) = plan.posture(NOW_S + 13 * 3600)
    assert name == "certificate"
    assert "not renewed since its half life, ends in 11h" in words
    assert words.endswith("last try: no connection to the issuer")
    ((_, ended),) = plan.posture(NOW_S + DAY_S + 1)
    assert "no links to other peers until it is renewed" in ended
    plan.renewed(leaf_of(DAY_S, NOW_S + DAY_S + 2), 9.0)
    assert plan.posture(NOW_S + DAY_S + 3) == []
    assert (plan.renewals, plan.failures) == (1, 1)
    assert plan.failed("again", 9.0, NOW_S + 2 * DAY_S), "it is another certificate's first"


def test_an_end_that_nobody_tried_to_avert_is_told_too() -> None:
    ((_, words),) = plan_of().posture(NOW_S + 2 * DAY_S)
    assert words.endswith("last try: none yet")


def test_a_new_certificate_that_looks_old_is_not_renewed_at_once() -> None:
    plan = plan_of()
    plan.renewed(leaf_of(DAY_S), 0.0)
    ahead_unix_s = NOW_S + 5 * DAY_S  # our clock is wrong
    assert not plan.is_due(1.0, ahead_unix_s)
    assert not plan.is_due(DAY_S / 4 - 1, ahead_unix_s)
    assert plan.is_due(DAY_S / 4, ahead_unix_s)


def test_an_issuer_that_comes_up_is_asked_at_once_where_that_was_waited_for() -> None:
    plan = plan_of()
    plan.hurry()
    assert not plan.is_due(0.0, NOW_S), "not before its time"
    plan.failed("no", 0.0, plan.due_unix_s)
    assert not plan.is_due(1.0, plan.due_unix_s + 1)
    plan.hurry()
    assert plan.is_due(1.0, plan.due_unix_s + 1)


def test_other_issuers_are_asked_soon_and_then_after_growing_pauses() -> None:
    elsewhere, now_s = Elsewhere(random.Random(1)), 100.0
    assert not elsewhere.is_due(now_s)
    assert elsewhere.wait_s(now_s) == math.inf, "without a reason nobody is asked"
    elsewhere.want(now_s, lasting=False)
    now_s += elsewhere.wait_s(now_s)
    pauses = []
    for _ in range(12):
        assert elsewhere.is_due(now_s)
        elsewhere.begin(now_s, lasting=False)
        assert not elsewhere.is_due(now_s + 3600), "again only for another reason"
        elsewhere.want(now_s, lasting=False)
        assert not elsewhere.is_due(now_s), "a peer that says so again and again hurries nobody"
        pauses.append(elsewhere.wait_s(now_s))
        now_s += pauses[-1]
    for place, pause_s in enumerate(pauses):
        middle_s = min(ELSEWHERE_MAX_S, ELSEWHERE_FIRST_S * 2**place)
        assert 0.75 * middle_s <= pause_s <= 1.25 * middle_s


def test_while_the_own_issuer_is_over_others_are_asked_on_every_minute_at_least() -> None:
    elsewhere, now_s = Elsewhere(random.Random(2)), 100.0
    for _ in range(12):  # it has asked in vain for long, before it knew
        elsewhere.want(now_s, lasting=False)
        now_s += elsewhere.wait_s(now_s)
        elsewhere.begin(now_s, lasting=False)
    elsewhere.want(now_s, lasting=True)
    assert elsewhere.wait_s(now_s) <= 1.25 * ELSEWHERE_OVER_MAX_S, "a long pause ends"
    now_s += elsewhere.wait_s(now_s)
    for _ in range(12):
        elsewhere.begin(now_s, lasting=True)
        pause_s = elsewhere.wait_s(now_s)
        assert pause_s <= 1.25 * ELSEWHERE_OVER_MAX_S, "no reason is waited for"
        now_s += pause_s
        assert elsewhere.is_due(now_s)


def test_hosts_of_one_revoked_issuer_do_not_ask_another_one_together() -> None:
    waits = []
    for seed in range(100):
        elsewhere = Elsewhere(random.Random(seed))
        elsewhere.want(100.0, lasting=False)
        first_s = elsewhere.wait_s(100.0)
        elsewhere.want(100.0 + first_s / 2, lasting=True)
        assert elsewhere.wait_s(100.0) == pytest.approx(first_s), "one more reason defers nothing"
        elsewhere.begin(100.0 + first_s, lasting=True)
        waits.append((first_s, elsewhere.wait_s(100.0 + first_s)))
    firsts, seconds = zip(*waits, strict=True)
    assert max(firsts) <= ELSEWHERE_SPREAD_S
    assert max(firsts) - min(firsts) > 0.8 * ELSEWHERE_SPREAD_S
    assert max(seconds) - min(seconds) > 0.4 * ELSEWHERE_FIRST_S
