"""What is drawn from a peer's load hint and our own bookings, and what is refused."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.gossip.messages import LoadHint
from overlay.routing.candidate import Exclusion, PeerView, Standing, candidates_of, freshness
from overlay.routing.decide import Decision
from overlay.routing.policies import Cost
from tests.overlay.routing.pictures import (
    ONE,
    PEERS,
    THREE,
    TWO,
    VIEWS,
    Changes,
    candidate,
    decided,
    query,
    ring_of,
    view,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"prefill_tokens_per_s": 0.0},
        {"prefill_tokens_per_s": -1.0},
        {"freshness": 1.1},
        {"freshness": -0.1},
        {"load_freshness": 2.0},
        {"trust": -1.0},
        {"prefill_tokens_per_s": math.nan},
        {"trust": math.nan},
        {"freshness": math.nan},
        {"load_freshness": math.nan},
    ],
    ids=str,
)
def test_a_view_that_cannot_be_is_refused(wrong: Changes) -> None:
    with pytest.raises(ValueError, match=r"at least one slot|between 0 and 1"):
        view(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": -1},
        {"output": -0.5},
        {"home_share": -0.1},
        {"home_share": 1.1},
        {"home_share": math.nan},
    ],
    ids=str,
)
def test_a_query_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"not negative|between 0 and 1"):
        query(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_load_is_counted_for_each_slot() -> None:
    assert view(slots=4, running=3, queued=3).load == 1.5


def test_a_free_slot_makes_nobody_wait_for_decoding() -> None:
    assert view(slots=4, running=3).output_factor_s == 0.01


def test_those_who_hold_the_slots_are_waited_for() -> None:
    assert view(slots=4, running=4).output_factor_s == pytest.approx(0.01 * 1.25)
    assert view(slots=4, running=4, queued=3).output_factor_s == pytest.approx(0.02)


def test_our_own_bookings_count_in_full_though_the_hint_has_faded() -> None:
    seen = view(running=4, load_freshness=0.0, booked_requests=2, in_flight=2, booked_tokens=500.0)
    assert seen.load == 0.5
    assert seen.fixed_s == pytest.approx(0.001 + 0.5)


def test_a_peer_has_at_least_the_requests_that_we_have_there() -> None:
    assert view(running=0, in_flight=3).load == 3 / 4


def test_load_and_wait_are_never_below_nothing() -> None:
    seen = view(running=1, booked_requests=-5, booked_tokens=-1e9)
    assert (seen.load, seen.fixed_s) == (0.0, 0.001)


def test_hinted_prefill_work_has_been_drained_since() -> None:
    assert view(queued_tokens=3000).fixed_s == pytest.approx(3.001)
    assert view(queued_tokens=3000, age_s=2.0).fixed_s == pytest.approx(1.001)
    assert view(queued_tokens=3000, age_s=math.inf).fixed_s == pytest.approx(0.001)


def test_a_wait_that_was_seen_takes_the_place_of_a_faded_hint() -> None:
    seen = view(queued_tokens=3000, load_freshness=0.25, observed_wait_s=1.0)
    assert seen.fixed_s == pytest.approx(0.001 + 0.25 * 3 + 0.75 * 1)


def test_a_claim_counts_with_freshness_and_trust_but_our_own_cache_in_full() -> None:
    assert view(freshness=0.5, trust=0.5).claim_weight == 0.25
    assert view(local=True, freshness=0.5, trust=0.5).claim_weight == 1.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"standing": Standing.PROBE_DUE}, None),
        ({"standing": Standing.SUSPECTED}, Exclusion.SUSPECTED),
        ({"standing": Standing.SUSPECTED, "zone_allowed": False}, Exclusion.ZONE),
        ({"zone_allowed": False, "capable": False}, Exclusion.INCAPABLE),
        ({"zone_allowed": False, "local": True}, None),
        ({"capable": False, "local": True}, Exclusion.INCAPABLE),
    ],
    ids=str,
)
def test_the_first_rule_that_excludes_a_peer_is_told(
    changes: Changes, why: Exclusion | None
) -> None:
    assert view(**changes).exclusion is why


@given(seen=VIEWS)
def test_what_is_worked_out_is_never_negative_nor_undefined(seen: PeerView) -> None:
    for figure in (seen.load, seen.fixed_s, seen.output_factor_s, seen.prefill_s_per_token):
        assert math.isfinite(figure)
        assert figure >= 0


HINTED = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 1 << 20),
        "running": st.integers(0, 1 << 20),
        "queued": st.integers(0, 1 << 20),
        "queued_tokens": st.integers(0, (1 << 63) - 1),
        "prefill_tokens_per_s": st.floats(0, 1e12, exclude_min=True) | st.just(5e-324),
        "decode_s_per_token": st.floats(0, 1e12) | st.just(5e-324),
        "age_s": st.sampled_from([0.0, 1.0, math.inf]),
        "load_freshness": st.sampled_from([0.0, 0.5, 1.0]),
        "freshness": st.sampled_from([0.0, 1.0]),
    }
)
"""All that a load hint may say on the wire."""


@settings(derandomize=True, deadline=None)
@given(
    hints=st.lists(HINTED, min_size=3, max_size=3),
    place=st.sampled_from([b"one", b"two", b"three"]),
    prompt=st.sampled_from([0, 1, 1000]),
)
def test_no_hint_that_the_wire_admits_makes_a_cost_undefined(
    hints: list[Changes], place: bytes, prompt: int
) -> None:
    candidates = [candidate(peer, **hint) for peer, hint in zip(PEERS, hints, strict=False)]
    asked = query(prompt, ring=ring_of([ONE, TWO, THREE]), place=place)
    decision: Decision = decided(asked, candidates, Cost())
    assert all(map(math.isfinite, decision.scores_s))
    assert all(math.isfinite(terms.total_s) for terms in decision.terms.values())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1.0, 1e13])
@pytest.mark.parametrize("field", [4, 5], ids=["prefill", "decode"])
def test_no_rate_that_is_no_number_comes_in_by_a_load_hint(wrong: float, field: int) -> None:
    hint: list[float] = [1, 0, 0, 0, 0.0, 0.0]
    hint[field] = wrong
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(hint), type=LoadHint)


def test_a_peer_that_claims_next_to_no_speed_breaks_no_comparison_at_its_own_place() -> None:
    crawling = candidate(ONE, prefill_tokens_per_s=5e-324, freshness=0.0)
    decision = decided(query(ring=ring_of([ONE])), [crawling, candidate(TWO)], Cost())
    assert decision.home == ONE
    assert decision.ordered == (TWO, ONE)


@pytest.mark.parametrize(
    ("age_s", "half_life_s", "left"),
    [
        (0.0, 10.0, 1.0),
        (10.0, 10.0, 0.5),
        (20.0, 10.0, 0.25),
        (-5.0, 10.0, 1.0),
        (math.inf, 10.0, 0.0),
        (1e9, 10.0, 0.0),
        (0.0, 0.0, 1.0),
        (1e-9, 0.0, 0.0),
        (5.0, math.inf, 1.0),
    ],
)
def test_news_counts_half_after_each_half_life(
    age_s: float, half_life_s: float, left: float
) -> None:
    assert freshness(age_s, half_life_s) == left


def test_peers_that_are_not_named_hold_nothing_and_strangers_are_no_candidates() -> None:
    made = candidates_of([view(ONE), view(TWO)], {TWO: 32, THREE: 64}, {ONE: 8.0, THREE: 9.0})
    assert [(c.peer_id, c.local, c.matched_tokens, c.inferred_tokens) for c in made] == [
        (ONE, False, 0, 8.0),
        (TWO, False, 32, 0.0),
    ]
