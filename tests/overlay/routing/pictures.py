"""Peers, prompts and pictures of them for the routing tests, plain and drawn by Hypothesis."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from overlay.routing.candidate import Candidate, PeerView, Query, Standing
from overlay.routing.cost import Costed, cost_all
from overlay.routing.decide import Decision, decide
from overlay.routing.policies import Order, Policy
from overlay.routing.ring import Ring
from security.peer_id import PeerId

PEERS = tuple(PeerId(f"peer{number:02}") for number in range(64))
ONE, TWO, THREE, FOUR = PEERS[:4]
SLOTS = 4

Changes = dict[str, Any]
"""Fields of a view that are not as usual, any of them."""


def view(peer_id: PeerId = ONE, **changes: Any) -> PeerView:  # any field of a view
    """An idle peer of four slots on the same LAN, changed as said."""
    given: Changes = {
        "local": False,
        "slots": SLOTS,
        "running": 0,
        "queued": 0,
        "queued_tokens": 0.0,
        "prefill_tokens_per_s": 1000.0,
        "decode_s_per_token": 0.01,
        "rtt_s": 0.001,
    }
    return PeerView(peer_id=peer_id, **(given | changes))


def candidate(
    peer_id: PeerId = ONE,
    matched: int = 0,
    inferred: float = 0.0,
    **changes: Any,  # any field of a view
) -> Candidate:
    return Candidate(view(peer_id, **changes), matched, inferred)


def query(prompt: int = 1000, output: float = 100.0, **changes: Any) -> Query:  # any field
    return Query(prompt_tokens=prompt, expected_output_tokens=output, **changes)


def ring_of(peer_ids: Iterable[PeerId], slots: int = SLOTS) -> Ring:
    return Ring(dict.fromkeys(peer_ids, slots))


def decided(asked: Query, candidates: list[Candidate], policy: Policy, seed: int = 1) -> Decision:
    return decide(asked, candidates, policy, random.Random(seed))


def ordered(asked: Query, candidates: list[Candidate], policy: Policy, seed: int = 1) -> Order:
    """What a policy makes of candidates that may all run."""
    return policy.order(asked, costed(asked, candidates), random.Random(seed))


def costed(asked: Query, candidates: list[Candidate]) -> list[Costed]:
    return sorted(cost_all(candidates, asked))


SHARES = st.floats(0, 1)

VIEWS = st.builds(
    PeerView,
    peer_id=st.sampled_from(PEERS[:8]),
    local=st.booleans(),
    slots=st.integers(1, 8),
    running=st.integers(0, 8),
    queued=st.integers(0, 8),
    queued_tokens=st.integers(0, 50_000),
    prefill_tokens_per_s=st.sampled_from([0.001, 50.0, 1000.0, 1e12]),
    decode_s_per_token=st.sampled_from([0.0, 0.001, 0.02, 1e12]),
    rtt_s=st.sampled_from([0.0, 0.0002, 0.02]),
    age_s=st.sampled_from([0.0, 2.0, 600.0, float("inf")]),
    digest_age_s=st.sampled_from([0.0, 600.0]),
    freshness=SHARES,
    load_freshness=SHARES,
    trust=SHARES,
    observed_wait_s=st.floats(0, 10),
    booked_requests=st.integers(-8, 8),
    booked_tokens=st.floats(-10_000, 10_000),
    in_flight=st.integers(0, 8),
    zone_allowed=st.sampled_from([True, True, True, False]),
    capable=st.sampled_from([True, True, True, False]),
    standing=st.sampled_from([Standing.CLEAR, Standing.CLEAR, *Standing]),
)
"""Equal values come often, so that ties do."""

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        view=VIEWS,
        matched_tokens=st.sampled_from([0, 0, 16, 512, 1 << 62]),
        inferred_tokens=st.sampled_from([0.0, 0.0, 64.0, 1e300]),
    ),
    max_size=8,
    unique_by=lambda each: each.view.peer_id,
)

QUERIES = st.builds(
    Query,
    prompt_tokens=st.sampled_from([0, 1, 15, 16, 512, 8192]),
    expected_output_tokens=st.sampled_from([0.0, 1.0, 128.0, 1e6]),
    place=st.sampled_from([b"", b"one", b"two"]),
    ring=st.sampled_from([Ring({}), ring_of(PEERS[:4]), ring_of(PEERS[:8])]),
    turn=st.integers(0, 20),
    tried=st.frozensets(st.sampled_from(PEERS[:8]), max_size=3),
    home_share=SHARES,
)
