"""The area under the curve and its interval, on distributions whose separation is known."""

from __future__ import annotations

import random
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.audit.statistics import auc, separation

FEW = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def drawn(mean: float, *, seed: int, count: int = 400) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, 1.0) for _ in range(count)]


@given(below=FEW, above=FEW)
def test_it_is_the_share_of_pairs_that_are_in_order(below: list[int], above: list[int]) -> None:
    pairs = [(b < a) + (b == a) / 2 for b, a in product(below, above)]
    given = auc(np.array(below, np.float64), np.array(above, np.float64))
    assert given == pytest.approx(sum(pairs) / len(pairs))


def test_cases_that_do_not_overlap_are_told_apart() -> None:
    found = separation([0.1] * 5, [0.2] * 5, seed=1)
    assert (found.auc, found.low, found.high) == (1.0, 1.0, 1.0)
    assert separation([0.2] * 5, [0.1] * 5, seed=1).auc == 0.0


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0])
def test_a_shift_gives_the_area_that_it_has_in_theory(shift: float) -> None:
    found = separation(drawn(0, seed=1), drawn(shift, seed=2), seed=3)
    theory = NormalDist().cdf(shift / 2**0.5)
    assert found.auc == pytest.approx(theory, abs=0.05)
    assert found.low < theory < found.high
    assert found.high - found.low < 0.1
    assert found.samples == 400


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        found = separation(
            drawn(0, seed=3 * seed, count=100), drawn(0, seed=3 * seed + 1, count=100), seed=seed
        )
        held += found.low <= 0.5 <= found.high
    assert 50 <= held <= 60


def test_the_same_seed_gives_the_same_interval_and_json_is_short() -> None:
    one = separation(drawn(0, seed=1), drawn(1, seed=2), seed=5)
    assert one == separation(drawn(0, seed=1), drawn(1, seed=2), seed=5)
    public = one.public()
    assert list(public) == ["auc", "ci95", "samples"]
    assert public["ci95"] == [round(one.low, 4), round(one.high, 4)]


def test_an_interval_that_touches_the_outside_is_not_inside() -> None:
    found = separation(drawn(0, seed=1), drawn(0, seed=2), seed=3)
    assert found.within(0.4, 0.6)
    assert not found.within(found.low + 0.001, 0.6)
    assert not found.within(0.4, found.high - 0.001)
