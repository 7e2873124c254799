from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.survival import Survival

AGES = st.floats(0, 1e9) | st.just(math.inf)


def test_the_first_guess_halves_with_its_half_life() -> None:
    assert Survival(64.0).expect(64.0) == pytest.approx(0.5)
    assert Survival(64.0).expect(0.0) > 0.99


def test_a_promise_never_made_is_worth_nothing() -> None:
    survival = Survival()
    survival.observe(1e9, 1.0)
    assert survival.expect(math.inf) == 0.0


def test_what_is_found_replaces_the_guess() -> None:
    survival = Survival(60.0)
    for _ in range(200):
        survival.observe(2.0, 0.25)
    assert survival.expect(2.0) == pytest.approx(0.25, abs=1e-6)


def test_ages_are_learned_apart_by_doublings() -> None:
    survival = Survival(60.0)
    before = survival.expect(100.0)
    for _ in range(200):
        survival.observe(2.0, 0.0)
    assert survival.expect(100.0) == before
    assert survival.expect(1.5) == survival.expect(2.0)


def test_a_promise_older_than_all_that_is_told_apart_is_learned_with_the_oldest() -> None:
    survival = Survival()
    survival.observe(1e8, 1.0)
    assert survival.expect(1e9) == survival.expect(1e8) > 0


@given(seen=st.lists(st.tuples(AGES, st.floats(-1e9, 1e9)), max_size=30), age_s=AGES)
def test_whatever_is_told_an_expectation_is_a_share(
    seen: list[tuple[float, float]], age_s: float
) -> None:
    """Ages and shares come from peers' own words: more than was promised, less than nothing."""
    survival = Survival()
    for each in seen:
        survival.observe(*each)
    assert 0 <= survival.expect(age_s) <= 1
    assert survival.expect(math.inf) == 0
