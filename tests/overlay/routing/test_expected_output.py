from __future__ import annotations

import pytest

from overlay.routing.expected_output import UNKNOWN_TOKENS, ExpectedOutput
from security.tenant import TenantId

A, B = TenantId("a" * 32), TenantId("b" * 32)


def test_nothing_known_is_a_chat_answer_capped_by_max_tokens() -> None:
    outputs = ExpectedOutput()
    assert outputs.expect(A, "m", None) == UNKNOWN_TOKENS
    assert outputs.expect(A, "m", 5) == 5
    assert outputs.expect(A, "m", 0) == 0
    assert outputs.expect(A, "m", 10**9) == UNKNOWN_TOKENS


def test_the_first_answer_counts_in_full_and_later_ones_by_their_weight() -> None:
    outputs = ExpectedOutput()
    outputs.observe(A, "m", 300)
    assert outputs.expect(A, "m", None) == 300
    outputs.observe(A, "m", 100)
    assert outputs.expect(A, "m", None) == pytest.approx(280)


def test_tenants_and_models_are_learned_apart() -> None:
    outputs = ExpectedOutput()
    outputs.observe(A, "m", 7)
    assert outputs.expect(B, "m", None) == UNKNOWN_TOKENS
    assert outputs.expect(A, "n", None) == UNKNOWN_TOKENS


def test_the_expectation_stays_between_what_was_seen() -> None:
    outputs = ExpectedOutput()
    for number in range(500):
        outputs.observe(A, "m", 40 if number % 2 else 60)
        assert 40 <= outputs.expect(A, "m", None) <= 60


def test_pairs_are_bounded_and_the_last_used_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.routing.expected_output.KEPT_MAX", 2)
    outputs = ExpectedOutput()
    outputs.observe(A, "one", 1)
    outputs.observe(A, "two", 2)
    outputs.observe(A, "one", 1)
    outputs.observe(A, "three", 3)
    known = {name: outputs.expect(A, name, None) for name in ("one", "two", "three")}
    assert known == {"one": 1, "two": UNKNOWN_TOKENS, "three": 3}
