"""Rates are told apart although steps mix prompts and answers."""

from __future__ import annotations

import pytest

from inference.rates import StepRates

PREFILL_S, DECODE_S = 0.002, 0.1


def measured(rates: StepRates, prefill_tokens: int, decoding: int) -> None:
    seconds = prefill_tokens * PREFILL_S + (DECODE_S if decoding else 0)
    rates.measured(prefill_tokens=prefill_tokens, decoding=decoding, seconds=seconds)


def test_nothing_measured_is_zero() -> None:
    rates = StepRates(256)
    assert (rates.prefill_tokens_per_s, rates.decode_s_per_token) == (0, 0)


def test_alone_each_rate_is_its_own() -> None:
    rates = StepRates(256)
    measured(rates, 256, 0)
    assert rates.prefill_tokens_per_s == pytest.approx(500)
    measured(rates, 0, 1)
    assert rates.decode_s_per_token == pytest.approx(DECODE_S)


def test_mixed_steps_say_what_each_gets_at_present() -> None:
    rates = StepRates(256)
    for _ in range(30):
        measured(rates, 0, 4)
    for _ in range(60):
        measured(rates, 256, 4)
    # A chunk now takes 0.512 s and the answers' 0.1 s; an answer waits for all of it.
    assert rates.prefill_tokens_per_s == pytest.approx(256 / 0.612, rel=0.01)
    assert rates.decode_s_per_token == pytest.approx(0.612, rel=0.01)
    measured(rates, 256, 0)
    assert rates.prefill_tokens_per_s == pytest.approx(500, rel=0.01)


def test_short_remainders_do_not_pass_for_the_rate_of_a_prompt() -> None:
    rates = StepRates(256)
    rates.measured(prefill_tokens=20, decoding=0, seconds=0.2)
    assert rates.prefill_tokens_per_s == pytest.approx(100)
    measured(rates, 256, 0)
    for _ in range(20):
        rates.measured(prefill_tokens=20, decoding=0, seconds=0.2)
    assert rates.prefill_tokens_per_s > 350
