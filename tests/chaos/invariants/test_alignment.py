from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chaos.invariants.alignment import Difference, difference, first_difference

DISTINCT = st.lists(st.integers(0, 10_000), min_size=3, max_size=20, unique=True)
ANY = st.lists(st.integers(0, 6), max_size=12)


@given(DISTINCT, st.data())
def test_a_beginning_is_enough_where_the_answer_broke_off(
    cold: list[int], data: st.DataObject
) -> None:
    got = cold[: data.draw(st.integers(0, len(cold)))]
    assert difference(got, cold, complete=False) is Difference.NONE


@given(DISTINCT, st.booleans(), st.data())
def test_lost_doubled_and_swapped_tokens_are_misplaced(
    cold: list[int], complete: bool, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(cold) - 2))
    lost = cold[:place] + cold[place + 1 :]
    doubled = cold[: place + 1] + cold[place:]
    swapped = [*cold[:place], cold[place + 1], cold[place], *cold[place + 2 :]]
    for got in (lost, doubled, swapped):
        assert difference(got, cold, complete=complete) is Difference.MISPLACED


@given(DISTINCT, st.booleans(), st.data())
def test_another_token_is_wrong_wherever_it_stands(
    cold: list[int], complete: bool, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(cold) - 1))
    got = [*cold[:place], 20_000, *cold[place + 1 :]]
    assert difference(got, cold, complete=complete) is Difference.WRONG
    assert first_difference(got, cold) == place


@given(ANY, ANY, st.booleans())
def test_every_difference_is_of_one_kind_and_nothing_else_is_any(
    got: list[int], cold: list[int], complete: bool
) -> None:
    same = got == (cold if complete else cold[: len(got)])
    assert (difference(got, cold, complete=complete) is Difference.NONE) == same


def test_a_whole_answer_that_is_too_short_has_lost_its_end() -> None:
    assert difference([1, 2], [1, 2, 3], complete=True) is Difference.MISPLACED


def test_an_answer_that_goes_on_after_the_end_of_the_cold_one_is_wrong() -> None:
    assert difference([1, 2, 9], [1, 2], complete=True) is Difference.WRONG
