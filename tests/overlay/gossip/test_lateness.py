"""How old a head is when it comes: hosts' clocks differ, and messages wait where nobody sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.gossip.lateness import HALF_WINDOW_S, Lateness
from tests.overlay.gossip.fabric import Fabric

PERIOD_S = 2.0
OFFSET_S = 1_700_000_000.0


def stamp(made_s: float) -> int:
    """The origin's own clock when it makes a head, in ms."""
    return int((OFFSET_S + made_s) * 1000)


def steady(lateness: Lateness, until_s: float) -> None:
    """Heads that come at once."""
    for number in range(int(until_s / PERIOD_S) + 1):
        made_s = number * PERIOD_S
        assert lateness.of_direct(made_s, stamp(made_s)) == pytest.approx(0, abs=1e-3)


def test_the_first_head_counts_as_made_now() -> None:
    assert Lateness().of_direct(77.0, stamp(3.0)) == 0


def test_what_waited_in_the_buffers_of_a_paused_host_is_as_old_as_it_is() -> None:
    lateness = Lateness()
    steady(lateness, 10.0)
    for made_s in (12.0, 14.0, 16.0, 18.0):
        assert lateness.of_direct(19.5, stamp(made_s)) == pytest.approx(19.5 - made_s, abs=1e-3)
    assert lateness.of_direct(20.0, stamp(20.0)) == pytest.approx(0, abs=1e-3)


def test_a_pause_longer_than_the_window_does_not_make_old_news_new() -> None:
    lateness, paused_s = Lateness(), 5 * HALF_WINDOW_S
    steady(lateness, 10.0)
    for made_s in (12.0, 40.0, paused_s - 1):
        assert lateness.of_direct(paused_s, stamp(made_s)) == pytest.approx(
            paused_s - made_s, abs=1e-3
        )


def test_a_route_that_has_become_longer_is_forgiven_after_the_window() -> None:
    lateness = Lateness()
    steady(lateness, 10.0)
    ages = [
        lateness.of_direct(made_s + 1.5, stamp(made_s))
        for made_s in range(12, 12 + 3 * int(HALF_WINDOW_S), int(PERIOD_S))
    ]
    assert ages[0] == pytest.approx(1.5, abs=1e-3)
    assert ages[-1] == pytest.approx(0, abs=1e-3)


def test_an_origin_whose_clock_was_set_back_is_not_taken_for_late() -> None:
    lateness = Lateness()
    steady(lateness, 10.0)
    assert lateness.of_direct(12.0, stamp(12.0 - 3600)) == 0
    assert lateness.of_direct(14.5, stamp(14.0 - 3600)) == pytest.approx(0.5, abs=1e-3)


def test_a_relayed_head_is_judged_by_the_direct_ones_whatever_the_wall_clocks_say() -> None:
    lateness = Lateness()
    assert lateness.of_relayed(12.0, OFFSET_S + 15.0, stamp(12.0)) == pytest.approx(3.0, abs=1e-3)
    assert lateness.of_relayed(12.0, OFFSET_S - 900.0, stamp(12.0)) == 0
    steady(lateness, 10.0)
    assert lateness.of_relayed(13.0, OFFSET_S - 900.0, stamp(12.0)) == pytest.approx(1, abs=1e-3)


@given(
    st.lists(st.tuples(st.floats(0, 120), st.floats(0, 40)), max_size=60),
    st.floats(-1e9, 1e9),
)
def test_no_head_is_made_younger_than_the_fastest_and_none_of_the_future(
    heads: list[tuple[float, float]], offset_s: float
) -> None:
    """Heads in order, each made after the one before and later by its own delay."""
    lateness, made_s, came_s, fastest_s = Lateness(), 0.0, 0.0, float("inf")
    for gap_s, delay_s in heads:
        made_s += gap_s
        came_s = max(came_s, made_s + delay_s)
        fastest_s = min(fastest_s, came_s - made_s)
        age_s = lateness.of_direct(came_s, int((offset_s + made_s) * 1000))
        assert 0 <= age_s <= came_s - made_s - fastest_s + 2e-3


def test_a_digest_that_waited_at_a_paused_host_is_not_taken_for_new() -> None:
    fabric = Fabric([{"a"}, {"a"}])
    fabric.link(0, 1)
    one, other = fabric.hosts
    fabric.run(20.0)
    delivered = fabric._deliver
    fabric._deliver = lambda: None  # type: ignore[method-assign]  # everything waits
    fabric.run(10.0)
    fabric._deliver = delivered  # type: ignore[method-assign]
    heads = [entry for entry in fabric._queue if entry[3] is one]
    assert len(heads) >= 4
    one.gossip.on_message(other.peer_id, heads[0][4], fabric.now_s, fabric.unix_s)
    as_of_s = one.gossip.digest_as_of(other.peer_id)
    assert as_of_s is not None
    assert fabric.now_s - as_of_s > 6.0
    loaded = one.gossip.load_of(other.peer_id)
    assert loaded is not None
    assert fabric.now_s - loaded[1] > 6.0
