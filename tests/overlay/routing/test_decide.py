"""The decision itself: who may be chosen, probes, and what a decision says of itself."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.routing.booking import Bookings
from overlay.routing.candidate import Candidate, Exclusion, PeerView, Query, Standing, candidates_of
from overlay.routing.decide import PROBE_SLOWER_S, Decision, exclusion_of
from overlay.routing.policies import (
    POLICIES,
    BoundedHash,
    Cost,
    Local,
    LongestPrefix,
    Policy,
    Reason,
)
from overlay.routing.ring import BELOW_FULL, BOUND, Ring
from security.peer_id import PeerId
from tests.overlay.routing.pictures import (
    CANDIDATES,
    FOUR,
    ONE,
    PEERS,
    QUERIES,
    THREE,
    TWO,
    Changes,
    candidate,
    decided,
    query,
    ring_of,
    view,
)

ROOT = Path(__file__).resolve().parents[3]
EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.name))
DRAWN = settings(derandomize=True, deadline=None)


@pytest.mark.parametrize("place", [b"", b"one", b"two", b"three"])
def test_a_ten_times_slower_peer_with_the_prefix_loses_a_long_answer_and_wins_a_short_one(
    place: bytes,
) -> None:
    """A peer that decodes 10 times slower and holds the whole prefix loses a 500-token request to
    an idle fast peer and wins a 1-token one."""
    prompt = 1500
    fast, slow = (
        candidate(ONE, decode_s_per_token=0.005),
        candidate(TWO, matched=prompt, decode_s_per_token=0.05),
    )
    where = {"ring": ring_of([ONE, TWO]), "place": place}
    long, short = query(prompt, 500, **where), query(prompt, 1, **where)
    assert decided(long, [fast, slow], Cost()).chosen == ONE
    assert decided(short, [fast, slow], Cost()).chosen == TWO


@EVERY_POLICY
@DRAWN
@given(asked=QUERIES, candidates=CANDIDATES, seed=st.integers(0, 99), data=st.data())
def test_the_order_of_the_candidates_does_not_matter(
    policy: Policy, asked: Query, candidates: list[Candidate], seed: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(candidates))
    one, other = decided(asked, candidates, policy, seed), decided(asked, shuffled, policy, seed)
    assert (one.ordered, one.reason, one.home) == (other.ordered, other.reason, other.home)
    assert one.scores_s == other.scores_s
    assert one.terms == other.terms
    assert one.excluded == other.excluded


@EVERY_POLICY
@DRAWN
@given(asked=QUERIES, candidates=CANDIDATES, seed=st.integers(0, 99))
def test_every_eligible_peer_is_ordered_once_and_no_other(
    policy: Policy, asked: Query, candidates: list[Candidate], seed: int
) -> None:
    decision = decided(asked, candidates, policy, seed)
    everybody = {each.peer_id for each in candidates}
    assert set(decision.ordered) == everybody - set(decision.excluded)
    assert len(decision.ordered) == len(set(decision.ordered))
    assert decision.chosen == (decision.ordered[0] if decision.ordered else None)
    assert (decision.chosen is None) == (decision.reason is Reason.NOBODY)
    assert len(decision.scores_s) in {0, len(decision.ordered)}
    found = decision.candidate
    assert (None if found is None else found.peer_id) == decision.chosen


@EVERY_POLICY
@DRAWN
@given(asked=QUERIES, candidates=CANDIDATES)
def test_the_terms_of_every_candidate_sum_to_its_total(
    policy: Policy, asked: Query, candidates: list[Candidate]
) -> None:
    decision = decided(asked, candidates, policy)
    assert set(decision.terms) == {each.peer_id for each in candidates}
    for terms in decision.terms.values():
        parts_s = (terms.queue_s, terms.rtt_s, terms.prefill_s, terms.decode_s)
        assert sum(parts_s) == pytest.approx(terms.total_s, rel=1e-9)
        assert min(*parts_s[1:], terms.queue_s + 1e-9 * terms.total_s) >= 0


@DRAWN
@given(asked=QUERIES, candidates=CANDIDATES)
def test_cost_chooses_nobody_who_is_clearly_worse_than_the_best(
    asked: Query, candidates: list[Candidate]
) -> None:
    policy = Cost()
    decision = decided(asked, candidates, policy)
    if not decision.scores_s:
        return
    chosen_s, *rest = decision.scores_s
    assert rest == sorted(rest)
    best_s = min(decision.scores_s)
    assert chosen_s <= best_s + policy.equal_s + policy.equal_share * max(0.0, best_s)


@EVERY_POLICY
def test_nobody_is_chosen_among_no_candidates(policy: Policy) -> None:
    decision = decided(query(), [], policy)
    assert (decision.chosen, decision.ordered, decision.reason) == (None, (), Reason.NOBODY)
    assert not decision.terms
    assert not decision.excluded
    assert decision.candidate is None


@EVERY_POLICY
def test_nobody_is_chosen_where_all_are_excluded_and_each_reason_is_told(policy: Policy) -> None:
    candidates = [
        candidate(ONE, capable=False),
        candidate(TWO, zone_allowed=False),
        candidate(THREE, standing=Standing.SUSPECTED),
        candidate(FOUR),
    ]
    decision = decided(query(tried=frozenset([FOUR])), candidates, policy)
    assert (decision.chosen, decision.reason) == (None, Reason.NOBODY)
    assert decision.excluded == {
        ONE: Exclusion.INCAPABLE,
        TWO: Exclusion.ZONE,
        THREE: Exclusion.SUSPECTED,
        FOUR: Exclusion.TRIED,
    }
    assert set(decision.terms) == {ONE, TWO, THREE, FOUR}


@pytest.mark.parametrize(
    "forbidden",
    [{"capable": False}, {"zone_allowed": False}, {"standing": Standing.SUSPECTED}],
    ids=["capability", "zone", "suspicion"],
)
@EVERY_POLICY
def test_no_promise_buys_a_forbidden_peer_the_request(policy: Policy, forbidden: Changes) -> None:
    perfect = {"prefill_tokens_per_s": 1e12, "decode_s_per_token": 0.0, "rtt_s": 0.0}
    liar = candidate(ONE, matched=1 << 62, inferred=1e300, **perfect, **forbidden)
    poor = candidate(TWO, running=4, queued=40, queued_tokens=40_000)
    asked = query(ring=ring_of([ONE, TWO]), home_share=1.0)
    assert decided(asked, [liar, poor], policy).ordered == (TWO,)


def test_a_zone_rule_never_excludes_this_host() -> None:
    assert exclusion_of(candidate(local=True, zone_allowed=False), query()) is None


def test_a_peer_that_was_tried_is_told_so_whatever_else_is_wrong_with_it() -> None:
    asked = query(tried=frozenset([ONE]))
    assert exclusion_of(candidate(ONE, capable=False), asked) is Exclusion.TRIED


# -- probes


@EVERY_POLICY
def test_a_peer_whose_probe_is_due_gets_a_request_that_suffers_little(policy: Policy) -> None:
    due = candidate(ONE, standing=Standing.PROBE_DUE, rtt_s=0.9 * PROBE_SLOWER_S)
    decision = decided(query(), [due, candidate(TWO), candidate(THREE)], policy)
    assert (decision.chosen, decision.reason) == (ONE, Reason.PROBE)
    assert sorted(decision.ordered[1:]) == [TWO, THREE]


@EVERY_POLICY
def test_a_probe_waits_for_a_request_that_can_afford_it(policy: Policy) -> None:
    due = candidate(ONE, standing=Standing.PROBE_DUE, rtt_s=PROBE_SLOWER_S + 0.01)
    fast = candidate(TWO, rtt_s=0.0, local=True)
    assert decided(query(), [due, fast], policy).reason is not Reason.PROBE


def test_the_cheapest_of_several_due_probes_is_made() -> None:
    due = [
        candidate(peer, standing=Standing.PROBE_DUE, rtt_s=rtt_s)
        for peer, rtt_s in ((ONE, 0.3), (TWO, 0.2), (THREE, 0.2))
    ]
    decision = decided(query(), [*due, candidate(FOUR)], Cost())
    assert decision.chosen == TWO


def test_a_probe_is_never_made_where_the_request_failed_already_or_may_not_go() -> None:
    tried = candidate(ONE, standing=Standing.PROBE_DUE)
    beyond = candidate(TWO, standing=Standing.PROBE_DUE, zone_allowed=False)
    asked = query(tried=frozenset([ONE]))
    assert decided(asked, [tried, beyond, candidate(THREE)], Cost()).chosen == THREE


def test_a_due_probe_is_made_where_nobody_else_is_left() -> None:
    due = candidate(ONE, standing=Standing.PROBE_DUE, decode_s_per_token=9.0)
    assert decided(query(), [due, candidate(TWO, capable=False)], Cost()).reason is Reason.PROBE


# -- chance and replay


@EVERY_POLICY
def test_an_equal_seed_gives_an_equal_decision(policy: Policy) -> None:
    candidates = [candidate(peer) for peer in PEERS[:8]]
    asked = query(ring=ring_of(PEERS[:8]))
    assert decided(asked, candidates, policy, 5) == decided(asked, candidates, policy, 5)


@pytest.mark.parametrize("name", ["cost", "bounded-hash", "round-robin", "local"])
def test_policies_without_chance_do_not_depend_on_the_seed(name: str) -> None:
    policy = next(each for each in POLICIES if each.name == name)
    candidates = [candidate(peer) for peer in PEERS[:8]]
    asked = query(ring=ring_of(PEERS[:8]), place=b"x")
    assert len({decided(asked, candidates, policy, seed).ordered for seed in range(20)}) == 1


def test_the_score_told_is_the_total_where_the_policy_compared_nothing_else() -> None:
    decision = decided(query(), [candidate(ONE), candidate(TWO, capable=False)], Local())
    assert all(terms.score_s == terms.total_s for terms in decision.terms.values())


def test_the_score_told_for_cost_counts_those_who_come_after() -> None:
    decision = decided(query(), [candidate(ONE), candidate(TWO, matched=999)], Cost())
    terms = decision.terms
    assert terms[ONE].score_s == pytest.approx(terms[ONE].total_s + 1.75 * terms[ONE].prefill_s)
    assert terms[TWO].score_s < terms[ONE].score_s


HASHED = """
import random
from hashlib import blake2b
from overlay.routing.decide import decide
from overlay.routing.policies import POLICIES
from tests.overlay.routing.pictures import PEERS, candidate, query, ring_of

told = []
for number in range(50):
    rng = random.Random(number)
    candidates = [
        candidate(p, matched=rng.choice((0, 512)), running=rng.randrange(5)) for p in PEERS
    ]
    ring = ring_of(set(PEERS))
    asked = query(ring=ring, place=rng.randbytes(16), tried=frozenset(rng.sample(PEERS, 9)))
    told += [decide(asked, candidates, policy, rng).ordered for policy in POLICIES]
print(blake2b(repr(told).encode()).hexdigest())
"""


def test_two_processes_with_different_hash_seeds_decide_alike() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", HASHED],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(digests) == 1


# -- hot spots

PROMPT = 1600
HELD = 1584
EIGHT = dict.fromkeys(PEERS[:8], 4)


class Burst:
    """Requests for one prefix that come all at once, seen by one router."""

    def __init__(self, policy: Policy, slots: dict[PeerId, int], holders: list[PeerId]) -> None:
        self.policy, self.slots = policy, slots
        self.bookings, self.ring, self.rng = Bookings(), Ring(slots), random.Random(1)
        self.claimed = dict.fromkeys(holders, HELD)
        self.went = dict.fromkeys(slots, 0)

    def send(self, requests: int, *, replicas: bool = False) -> dict[PeerId, int]:
        """Sends so many more; ``replicas``: what was computed somewhere is known to be there."""
        for _ in range(requests):
            decision = self.decide()
            assert decision.candidate is not None
            chosen = decision.candidate
            self.went[chosen.peer_id] += 1
            uncached = PROMPT - chosen.matched_tokens
            self.bookings.begin(chosen.peer_id, uncached_tokens=uncached, now_s=0.0)
            if replicas:
                self.claimed[chosen.peer_id] = HELD
        return self.went

    def decide(self) -> Decision:
        candidates = list(candidates_of(map(self.seen, self.slots), self.claimed, {}))
        self.rng.shuffle(candidates)
        return decided(query(PROMPT, 100, ring=self.ring, place=b"hot"), candidates, self.policy)

    def seen(self, peer_id: PeerId) -> PeerView:
        booked = self.bookings.booked(peer_id, 0.0)
        return view(
            peer_id,
            slots=self.slots[peer_id],
            booked_requests=booked.requests,
            booked_tokens=booked.queued_tokens,
            in_flight=booked.in_flight,
        )

    def loads(self) -> dict[PeerId, float]:
        """Requests for each slot."""
        return {peer_id: self.went[peer_id] / self.slots[peer_id] for peer_id in self.slots}


def test_a_hot_prefix_stays_with_its_holder_while_that_has_free_slots() -> None:
    assert Burst(Cost(), EIGHT, [ONE]).send(4)[ONE] == 4


def test_a_hot_prefix_is_computed_elsewhere_once_waiting_costs_as_much() -> None:
    """The scores of all are level then: nobody waits at the holder while others would be sooner."""
    crowd = Burst(Cost(), EIGHT, [ONE])
    went = crowd.send(120)
    assert went[ONE] == max(went.values()) < 120
    assert min(went.values()) > 0
    scores_s = crowd.decide().scores_s
    assert max(scores_s) <= min(scores_s) + 2.5 * PROMPT / 1000 + 0.25


def test_replicas_of_a_hot_prefix_end_the_hot_spot() -> None:
    crowd = Burst(Cost(), EIGHT, [ONE])
    crowd.send(240, replicas=True)
    loads = crowd.loads().values()
    assert max(loads) <= 2 * min(loads)


def test_replicas_share_a_hot_prefix_in_proportion_to_their_slots() -> None:
    slots = dict(zip(PEERS[:8], (1, 2, 4, 8, 1, 2, 4, 8), strict=True))
    crowd = Burst(Cost(), slots, list(slots))
    crowd.send(300)
    loads = crowd.loads().values()
    assert max(loads) <= BOUND * sum(loads) / len(loads)


@pytest.mark.parametrize("policy", [Cost(), BoundedHash()], ids=lambda policy: str(policy.name))
def test_no_place_is_over_the_bound_that_is_relative_to_slots(policy: Policy) -> None:
    slots = dict(zip(PEERS[:8], (1, 2, 4, 8, 1, 2, 4, 8), strict=True))
    crowd = Burst(policy, slots, [])
    for _ in range(100):
        loads = crowd.loads()
        limit = max(BELOW_FULL, BOUND * sum(loads.values()) / len(loads))
        decision = crowd.decide()
        place = decision.home if isinstance(policy, Cost) else decision.chosen
        assert place is not None
        assert loads[place] <= limit
        assert place == next(p for p in crowd.ring.walk(b"hot") if loads[p] <= limit)
        crowd.send(1)


def test_without_a_guard_a_hot_prefix_buries_its_holder() -> None:
    """What the paper's policy does; the reason for the rules above."""
    assert Burst(LongestPrefix(), EIGHT, [ONE]).send(80)[ONE] == 80
