from __future__ import annotations

from inference.request import Namespace
from inference.turns import Turns


def order(turns: Turns, waiting: str) -> str:
    """Who waits, as letters of tenants with their place among its own."""
    runs = [(each, waiting[:place].count(each)) for place, each in enumerate(waiting)]
    turns.order(runs, lambda run: Namespace(run[0]))
    assert all(
        [place for name, place in runs if name == each] == list(range(waiting.count(each)))
        for each in set(waiting)
    )
    return "".join(name for name, _ in runs)


def test_who_was_served_longest_ago_comes_first_and_a_tenants_own_stay_in_order() -> None:
    turns = Turns()
    assert order(turns, "aabc") == "aabc"
    turns.served(Namespace("a"))
    assert order(turns, "aabc") == "bcaa"
    turns.served(Namespace("b"))
    assert order(turns, "abc") == "cab"


def test_a_tenant_that_waits_for_nothing_is_forgotten() -> None:
    turns = Turns()
    order(turns, "ab")
    turns.served(Namespace("a"))
    order(turns, "b")
    assert order(turns, "ba") == "ba"
