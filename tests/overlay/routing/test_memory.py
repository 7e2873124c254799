"""What a router learns from its own requests, and how far liars can teach it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.request import BLOCK_TOKENS
from overlay.routing.candidate import Candidate, candidates_of
from overlay.routing.decide import Decision
from overlay.routing.memory import Memory, Recall, Sent
from overlay.routing.policies import Cost
from tests.overlay.routing.pictures import ONE, PEERS, TWO, candidate, decided, query, ring_of, view

HASHES = [f"block{number}".encode() for number in range(64)]
TOKENS = 64 * BLOCK_TOKENS
RING = ring_of(PEERS[:4])


def decision_for(recall: Recall, candidates: list[Candidate] | None = None) -> Decision:
    if candidates is None:
        views = [view(peer, load_freshness=0.0) for peer in PEERS[:4]]
        candidates = list(candidates_of(views, {}, recall.inferred_tokens))
    asked = query(TOKENS, ring=RING, place=recall.place, home_share=recall.home_share)
    return decided(asked, candidates, Cost())


def sent_by(memory: Memory, now_s: float) -> Sent:
    """One whole round: recalled, decided, sent to whom was chosen."""
    recall = memory.recall(HASHES, now_s)
    decision = decision_for(recall)
    assert decision.chosen is not None
    return memory.sent(recall, decision, decision.chosen, now_s)


def test_nothing_is_recalled_of_a_new_prompt_but_its_place() -> None:
    recall = Memory().recall(HASHES, 0.0)
    assert (recall.placements, recall.inferred_tokens, recall.home_share) == ({}, {}, 0.0)
    assert recall.place in HASHES


def test_a_prompt_without_a_whole_block_is_recalled_as_nothing() -> None:
    recall = Memory().recall([], 0.0)
    assert (recall.place, recall.inferred_tokens) == (b"", {})


def test_a_prompt_sent_somewhere_is_inferred_there_and_less_so_later() -> None:
    memory = Memory()
    sent = sent_by(memory, 0.0)
    assert sent.at_home
    inferred = [memory.recall(HASHES, age_s).inferred_tokens for age_s in (0.1, 15.0, 300.0)]
    (home,) = inferred[0]
    told = [each[home] for each in inferred]
    assert TOKENS >= told[0] > told[1] > told[2] > 0


def test_the_router_keeps_a_prompt_where_it_sent_it_though_no_digest_comes() -> None:
    memory = Memory()
    recall = memory.recall(HASHES, 0.0)
    away = next(peer for peer in PEERS[:4] if peer != decision_for(recall).home)
    memory.sent(recall, decision_for(recall), away, 0.0)
    again = decision_for(memory.recall(HASHES, 1.0))
    assert again.chosen == away


def test_inferring_stops_where_caches_are_found_not_to_keep() -> None:
    memory = Memory()
    for now_s in range(200):
        sent = sent_by(memory, float(now_s))
        memory.found(sent, 0)
    inferred = memory.recall(HASHES, 200.0).inferred_tokens
    assert max(inferred.values()) < 0.01 * TOKENS


def test_digests_are_relied_on_as_far_as_they_were_kept() -> None:
    memory = Memory()
    recall = memory.recall(HASHES, 0.0)
    claimed = [candidate(ONE, matched=TOKENS, digest_age_s=2.0)]
    before = memory.freshness(2.0)
    for _ in range(100):
        sent = memory.sent(recall, decision_for(recall, claimed), ONE, 0.0)
        memory.found(sent, TOKENS // 4)
    assert memory.freshness(2.0) == pytest.approx(0.25, abs=0.01)
    assert before > 0.9


def test_prompts_found_at_their_place_unannounced_raise_the_share_of_homes() -> None:
    memory = Memory()
    for number in range(300):
        hashes = [f"{number}/{block}".encode() for block in range(64)]
        recall = memory.recall(hashes, float(number))
        decision = decision_for(recall)
        assert decision.home is not None
        memory.found(memory.sent(recall, decision, decision.home, float(number)), TOKENS // 2)
    assert memory.recall(HASHES, 300.0).home_share == pytest.approx(0.5, abs=0.05)


def test_a_request_sent_elsewhere_teaches_nothing_of_homes() -> None:
    memory = Memory()
    recall = memory.recall(HASHES, 0.0)
    decision = decision_for(recall)
    away = next(peer for peer in PEERS[:4] if peer != decision.home)
    memory.found(memory.sent(recall, decision, away, 0.0), TOKENS)
    assert memory.recall(HASHES, 1.0).home_share == 0.0


def test_our_own_cache_teaches_nothing_of_others() -> None:
    memory = Memory()
    recall = memory.recall(HASHES, 0.0)
    own = [candidate(ONE, matched=TOKENS, local=True)]
    before = memory.freshness(0.0)
    memory.found(memory.sent(recall, decision_for(recall, own), ONE, 0.0), 0)
    assert memory.freshness(0.0) == before


def test_a_promise_of_less_than_a_block_teaches_nothing() -> None:
    memory = Memory()
    recall = memory.recall(HASHES, 0.0)
    claimed = [candidate(ONE, matched=BLOCK_TOKENS - 1)]
    before = memory.freshness(0.0)
    memory.found(memory.sent(recall, decision_for(recall, claimed), ONE, 0.0), 0)
    assert memory.freshness(0.0) == before


def test_nothing_is_inferred_at_a_peer_that_restarted() -> None:
    memory = Memory()
    recall = memory.recall(HASHES, 0.0)
    memory.sent(recall, decision_for(recall), TWO, 0.0)
    memory.forget(TWO)
    assert memory.recall(HASHES, 1.0).inferred_tokens == {}


@settings(derandomize=True, deadline=None)
@given(
    reports=st.lists(
        st.tuples(
            st.sampled_from([0, 1, TOKENS, 1 << 62]),
            st.sampled_from([0.0, 3.0, 1e9, math.inf]),
            st.sampled_from([0, 16, TOKENS]),
        ),
        max_size=20,
    )
)
def test_no_report_however_wild_teaches_more_than_a_share(
    reports: list[tuple[int, float, int]],
) -> None:
    memory = Memory()
    for now_s, (cached, age_s, claimed) in enumerate(reports):
        recall = memory.recall(HASHES, float(now_s))
        candidates = [candidate(ONE, matched=claimed, digest_age_s=age_s, freshness=0.5)]
        memory.found(memory.sent(recall, decision_for(recall, candidates), ONE, now_s), cached)
    recall = memory.recall(HASHES, 99.0)
    assert 0 <= recall.home_share <= 1
    assert all(0 <= tokens <= TOKENS for tokens in recall.inferred_tokens.values())
    assert all(0 <= memory.freshness(age_s) <= 1 for age_s in (0.0, 3.0, 1e9, math.inf))
