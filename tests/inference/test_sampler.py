"""Sampling is a function of (logits, seed, position)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.request import Sampling
from inference.sampler import SamplingDefaults, _allowed, choose

GREEDY = SamplingDefaults()
LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0, -5.0])


def test_zero_temperature_takes_the_most_probable_token() -> None:
    assert choose(LOGITS, Sampling(seed=9, temperature=0), GREEDY, position=4) == 1


def test_missing_values_come_from_the_model() -> None:
    hot = SamplingDefaults(temperature=1.0, top_p=1.0)
    chosen = {choose(LOGITS, Sampling(seed=1), hot, position=p) for p in range(60)}
    assert len(chosen) > 1
    assert {choose(LOGITS, Sampling(seed=1), GREEDY, position=p) for p in range(60)} == {1}


@given(seed=st.integers(0, (1 << 63) - 1), position=st.integers(0, 1 << 20))
def test_same_seed_and_position_give_the_same_token(seed: int, position: int) -> None:
    sampling = Sampling(seed=seed, temperature=1.5, top_p=0.95)
    first = choose(LOGITS, sampling, GREEDY, position=position)
    torch.manual_seed(0)
    assert choose(LOGITS.clone(), sampling, GREEDY, position=position) == first


def test_choices_follow_the_probabilities() -> None:
    sampling = Sampling(seed=3, temperature=1)
    counts = [0] * 5
    for position in range(4000):
        counts[choose(LOGITS, sampling, GREEDY, position=position)] += 1
    for count, probability in zip(counts, torch.softmax(LOGITS, 0).tolist(), strict=True):
        assert abs(count / 4000 - probability) < 0.03


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    # Probabilities 0.64, 0.24, 0.09, 0.03, 0.0: 0.8 needs the first two.
    chosen = {
        choose(LOGITS, Sampling(seed=5, temperature=1, top_p=0.8), GREEDY, position=p)
        for p in range(500)
    }
    assert chosen == {1, 2}
    tiny = Sampling(seed=5, temperature=2, top_p=1e-9)
    assert {choose(LOGITS, tiny, GREEDY, position=p) for p in range(50)} == {1}


def test_models_top_k_is_honoured() -> None:
    defaults = SamplingDefaults(temperature=2.0, top_k=3)
    chosen = {choose(LOGITS, Sampling(seed=5), defaults, position=p) for p in range(500)}
    assert chosen == {1, 2, 3}


def test_noise_is_pinned_across_versions() -> None:
    """Another torch must not change what a seed means, or a resume elsewhere would differ."""
    logits = torch.zeros(1000)
    sampling = Sampling(seed=42, temperature=1)
    assert [choose(logits, sampling, GREEDY, position=p) for p in range(4)] == [288, 996, 641, 839]


def chosen(defaults: SamplingDefaults = GREEDY, **sampling: Any) -> set[int]:
    asked = Sampling(**{"seed": 5, "temperature": 2.0} | sampling)
    return {choose(LOGITS, asked, defaults, position=p) for p in range(500)}


def test_top_k_keeps_so_many_and_zero_keeps_all() -> None:
    assert chosen(top_k=1) == {1}
    assert chosen(top_k=2) == {1, 2}
    assert chosen(top_k=100) == chosen(top_k=0) == chosen() >= {0, 1, 2, 3}
    # The request's own value counts, not the model's.
    assert chosen(SamplingDefaults(temperature=1.0, top_k=1), top_k=0) == chosen()


def test_min_p_leaves_out_what_is_much_less_probable_than_the_first() -> None:
    # At temperature 2 each is exp(-1/2) = 0.61 of the one before it.
    assert chosen(min_p=0.5) == {1, 2}
    assert chosen(min_p=0.3) == {1, 2, 3}
    assert chosen(min_p=1.0) == {1}
    assert chosen(min_p=0.0) == chosen()


def test_top_p_counts_what_top_k_has_left() -> None:
    # Of the first two the first has 0.62: less than 0.7, so both stay; alone it reaches 0.6.
    assert chosen(top_k=2, top_p=0.7) == {1, 2}
    assert chosen(top_k=2, top_p=0.6) == {1}


@given(
    seed=st.integers(0, 1 << 30),
    top_p=st.floats(0.01, 1.0),
    top_k=st.sampled_from([0, 1, 5, 70, 999, 5000]),
    min_p=st.sampled_from([0.0, 0.001, 0.2]),
    spread=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_looking_at_few_tokens_first_leaves_the_set_as_it_is(
    seed: int, top_p: float, top_k: int, min_p: float, spread: float
) -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(seed)).mul(spread).round()
    probabilities = torch.softmax(logits.double(), dim=-1)
    ordered, tokens = torch.sort(probabilities, descending=True, stable=True)
    limit = top_k or 1000
    kept = ordered[:limit]
    allowed = kept >= min_p * kept[0]
    if top_p < 1:
        mass = float(kept.sum()) if top_k else 1.0
        allowed &= kept.cumsum(0) - kept < top_p * mass
    allowed[0] = True
    given_tokens = _allowed(probabilities, top_p=top_p, top_k=top_k, min_p=min_p)
    if given_tokens is None:
        assert bool(allowed.all())
    else:
        assert given_tokens.tolist() == tokens[:limit][allowed].tolist()
