from __future__ import annotations

from overlay.retry import ALWAYS, WINDOW_S, RetryBudget


def test_a_few_retries_are_always_allowed_and_no_more() -> None:
    budget = RetryBudget()
    assert [budget.take(0.0) for _ in range(ALWAYS + 1)] == [True] * ALWAYS + [False]


def test_a_tenth_of_recent_requests_may_be_retried() -> None:
    budget = RetryBudget()
    for number in range(100):
        budget.on_request(number / 1000)
    assert sum(budget.take(1.0) for _ in range(100)) == 10


def test_what_is_older_than_the_window_neither_helps_nor_hurts() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.on_request(0.0)
    assert all(budget.take(0.0) for _ in range(10))
    later_s = WINDOW_S + 0.001
    assert [budget.take(later_s) for _ in range(ALWAYS + 1)] == [True] * ALWAYS + [False]
