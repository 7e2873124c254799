"""The sum of a request's expected completion time, and what counts as cached in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.routing.candidate import TRUST_ENOUGH, Candidate, Query
from overlay.routing.cost import cost_all, counted_tokens, terms_of
from overlay.routing.decide import exclusion_of
from tests.overlay.routing.pictures import (
    CANDIDATES,
    ONE,
    QUERIES,
    THREE,
    TWO,
    Changes,
    candidate,
    query,
)


def test_the_terms_of_an_idle_peer_are_those_of_the_formula() -> None:
    terms = terms_of(candidate(matched=600), query(1000, 100))
    assert (terms.matched_tokens, terms.queue_s, terms.rtt_s) == (600, 0.0, 0.001)
    assert (terms.prefill_s, terms.decode_s) == (0.4, 1.0)
    assert terms.total_s == terms.score_s == pytest.approx(1.401)


def test_prefill_in_front_and_occupied_slots_are_queue() -> None:
    terms = terms_of(candidate(running=4, queued_tokens=500), query(1000, 100))
    assert terms.queue_s == pytest.approx(0.5 + 0.25 * 1.0)
    assert terms.decode_s == 1.0


@pytest.mark.parametrize("prompt", [0, 1, 16, 1000])
@pytest.mark.parametrize("surplus", [0, 1, 1 << 62])
def test_the_last_prompt_token_is_always_computed(prompt: int, surplus: int) -> None:
    for promised in (
        candidate(matched=prompt + surplus),
        candidate(inferred=float(prompt + surplus)),
    ):
        assert counted_tokens(promised, query(prompt)) == max(0, prompt - 1)
        ((_, _, prefill_s, _, _),) = cost_all([promised], query(prompt))
        assert prefill_s == pytest.approx(min(1, prompt) / 1000)


def test_a_stale_or_untrusted_claim_counts_in_part() -> None:
    assert counted_tokens(candidate(matched=800, freshness=0.5, trust=0.25), query()) == 100


def test_what_we_sent_there_counts_where_it_is_more_than_the_claim() -> None:
    assert counted_tokens(candidate(matched=800, trust=0.5, inferred=500.0), query()) == 500
    assert counted_tokens(candidate(matched=800, inferred=300.0), query()) == 800


def test_with_little_trust_what_we_infer_of_a_peer_counts_in_part_too() -> None:
    """Inferences rest on what it reported; an honest peer's late digests cost it nothing here."""
    for trust, expected in ((1.0, 300), (TRUST_ENOUGH, 300), (TRUST_ENOUGH / 2, 150), (0.0, 0)):
        assert counted_tokens(candidate(inferred=300.0, trust=trust), query()) == expected
    assert counted_tokens(candidate(inferred=300.0, trust=0.0, local=True), query()) == 300


def test_equal_costs_are_ordered_by_name() -> None:
    costed = sorted(cost_all([candidate(THREE), candidate(ONE), candidate(TWO)], query()))
    assert [peer_id for _, peer_id, _, _, _ in costed] == [ONE, TWO, THREE]


@settings(derandomize=True, deadline=None)
@given(asked=QUERIES, candidates=CANDIDATES)
def test_the_fast_loop_and_the_explained_terms_are_one_formula(
    asked: Query, candidates: list[Candidate]
) -> None:
    costed = cost_all(candidates, asked)
    assert {peer_id for _, peer_id, _, _, _ in costed} == {
        each.peer_id for each in candidates if exclusion_of(each, asked) is None
    }
    for total_s, peer_id, prefill_s, first_s, each in costed:
        assert peer_id == each.peer_id
        assert prefill_s == pytest.approx(terms_of(each, asked).prefill_s, rel=1e-12)
        assert total_s == pytest.approx(terms_of(each, asked).total_s, rel=1e-12)
        decode_s = terms_of(each, asked).decode_s
        assert first_s == pytest.approx(total_s - decode_s, rel=1e-9, abs=1e-9)


WORSE = st.sampled_from(
    [
        {"running": 6},
        {"queued": 6},
        {"queued_tokens": 900},
        {"prefill_tokens_per_s": 400.0},
        {"decode_s_per_token": 0.2},
        {"rtt_s": 0.3},
        {"booked_requests": 7, "in_flight": 7},
        {"booked_tokens": 77.0},
        {"trust": 0.4},
        {"freshness": 0.4},
    ]
)


@given(worse=st.lists(WORSE, max_size=5), matched=st.integers(1, 999))
def test_nothing_that_is_worse_makes_a_peer_cheaper(worse: list[Changes], matched: int) -> None:
    changes: Changes = {}
    before_s = 0.0
    for each in worse:
        changes |= each
        total_s = terms_of(candidate(matched=matched, **changes), query()).total_s
        assert total_s >= before_s
        before_s = total_s
