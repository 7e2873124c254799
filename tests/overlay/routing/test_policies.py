"""Each policy by its rule; all of them are given costed candidates, cheapest first."""

from __future__ import annotations

from collections import Counter

import pytest

from overlay.routing.policies import (
    POLICIES,
    BoundedHash,
    Cost,
    LeastLoaded,
    Local,
    LongestPrefix,
    Random,
    Reason,
    RoundRobin,
    policy_named,
)
from overlay.routing.ring import Ring
from security.peer_id import PeerId
from tests.overlay.routing.pictures import (
    FOUR,
    ONE,
    PEERS,
    THREE,
    TWO,
    candidate,
    ordered,
    query,
    ring_of,
)

EIGHT = PEERS[:8]
RING = ring_of(EIGHT)
PLACES = [bytes([number]) for number in range(40)]


def test_the_policies_are_those_that_the_command_line_names() -> None:
    names = [policy.name for policy in POLICIES]
    assert names == [
        "cost",
        "longest-prefix",
        "bounded-hash",
        "random",
        "round-robin",
        "least-loaded",
        "local",
    ]
    assert [policy_named(name) for name in names] == list(POLICIES)
    with pytest.raises(KeyError):
        policy_named("best")


# -- cost


@pytest.mark.parametrize("place", PLACES[:8])
def test_cost_takes_equals_in_ring_order(place: bytes) -> None:
    order = ordered(query(ring=RING, place=place), [candidate(p) for p in EIGHT], Cost())
    first = next(RING.walk(place))
    assert order.peers[0] == first == order.home
    assert order.reason is Reason.PLACE


def test_cost_takes_equals_by_name_where_there_is_no_ring() -> None:
    order = ordered(query(), [candidate(TWO), candidate(ONE)], Cost())
    assert (order.peers, order.home, order.reason) == ((ONE, TWO), None, Reason.CHEAPEST)


def test_cost_takes_the_next_of_the_walk_where_the_place_is_too_busy() -> None:
    walk = list(RING.walk(b"x"))
    candidates = [candidate(p, running=12 if p == walk[0] else 0) for p in EIGHT]
    order = ordered(query(ring=RING, place=b"x"), candidates, Cost())
    assert (order.peers[0], order.home) == (walk[1], walk[0])


def test_a_place_with_all_slots_taken_stays_the_place() -> None:
    """Else a prefix would be copied to the next peer with every two requests that overlap."""
    walk = list(RING.walk(b"x"))
    asked = query(1000, 2.0, ring=RING, place=b"x")
    candidates = [candidate(p, trust=0.0, slots=1, running=int(p == walk[0])) for p in EIGHT]
    order = ordered(asked, candidates, Cost())
    assert (order.peers[0], order.home) == (walk[0], walk[0])
    assert ordered(asked, candidates, BoundedHash()).peers[0] == walk[1]


def test_cost_goes_where_the_prefix_is_held_and_not_to_its_place() -> None:
    walk = list(RING.walk(b"x"))
    candidates = [candidate(p, matched=900 if p == walk[3] else 0) for p in EIGHT]
    order = ordered(query(ring=RING, place=b"x"), candidates, Cost())
    assert (order.peers[0], order.reason) == (walk[3], Reason.PREFIX)


def test_what_digests_cannot_tell_is_taken_for_held_at_the_place() -> None:
    """Another peer is a little cheaper; with no digests at all the place is worth more."""
    walk = list(RING.walk(b"x"))
    asked = query(ring=RING, place=b"x")
    for trust, expected in ((1.0, walk[1]), (0.0, walk[0])):
        candidates = [candidate(p, trust=trust, rtt_s=0.2 * (p != walk[1])) for p in EIGHT]
        assert ordered(asked, candidates, Cost()).peers[0] == expected


def test_a_measured_home_share_counts_where_it_is_more_than_the_credit() -> None:
    walk = list(RING.walk(b"x"))
    candidates = [candidate(p, rtt_s=0.2 * (p != walk[1])) for p in EIGHT]
    asked = query(ring=RING, place=b"x", home_share=0.5)
    assert ordered(asked, candidates, Cost()).peers[0] == walk[0]


def test_a_home_is_given_no_credit_for_what_it_is_known_to_hold() -> None:
    order = ordered(
        query(1000, ring=ring_of([ONE]), home_share=1.0), [candidate(ONE, matched=999)], Cost()
    )
    (score_s,) = order.scores_s
    prefill_s = 1 / 1000
    assert score_s == pytest.approx(0.001 + 1.0 + 2.75 * prefill_s - 2.75 * prefill_s)


def test_work_weight_decides_between_waiting_and_computing_again() -> None:
    holder = candidate(ONE, matched=999, running=4, queued=0, queued_tokens=900.0)
    free = candidate(TWO)
    asked = query(1000, 100)
    assert ordered(asked, [holder, free], Cost(work_weight=0.0)).peers[0] == TWO
    assert ordered(asked, [holder, free], Cost(work_weight=1.5)).peers[0] == ONE


@pytest.mark.parametrize(("waits_s", "chosen"), [(1.50, ONE), (1.60, TWO)])
def test_for_the_sake_of_later_ones_a_request_waits_half_as_long_again_and_no_more(
    waits_s: float, chosen: PeerId
) -> None:
    """This host could begin to answer in 1 s; what the other holds is worth 2.75 s."""
    holder = candidate(ONE, matched=999, queued_tokens=1000.0 * waits_s, rtt_s=0.0)
    here = candidate(TWO, rtt_s=0.0, local=True)
    order = ordered(query(1000, 1), [holder, here], Cost())
    assert order.peers[0] == chosen
    assert order.reason is (Reason.PREFIX if chosen == ONE else Reason.SOONER)
    assert set(order.peers) == {ONE, TWO}


def test_where_this_host_cannot_run_it_nobody_is_too_late() -> None:
    holder = candidate(ONE, matched=999, queued_tokens=2500.0)
    assert ordered(query(1000, 1), [holder, candidate(TWO)], Cost()).peers[0] == ONE


def test_a_peer_that_ends_sooner_is_never_too_late_to_begin() -> None:
    early = candidate(ONE, decode_s_per_token=0.05, local=True)
    late = candidate(TWO, decode_s_per_token=0.01, queued_tokens=3000.0)
    assert ordered(query(1000, 200), [early, late], Cost()).peers[0] == TWO
    assert ordered(query(1000, 20), [early, late], Cost()).peers[0] == ONE


# -- the others


def test_longest_prefix_follows_the_claim_whatever_the_load() -> None:
    candidates = [candidate(ONE, matched=16, running=4, queued=90), candidate(TWO)]
    order = ordered(query(), candidates, LongestPrefix())
    assert (order.peers, order.reason) == ((ONE, TWO), Reason.PREFIX)


def test_longest_prefix_takes_the_less_loaded_of_equal_claims() -> None:
    candidates = [candidate(ONE, matched=16, running=1), candidate(TWO, matched=16)]
    for seed in range(8):
        assert ordered(query(), candidates, LongestPrefix(), seed).peers == (TWO, ONE)


def test_longest_prefix_without_any_claim_is_least_loaded() -> None:
    order = ordered(query(), [candidate(ONE, running=1), candidate(TWO)], LongestPrefix())
    assert (order.peers[0], order.reason) == (TWO, Reason.LEAST_LOADED)


def test_bounded_hash_follows_the_ring_and_knows_of_no_cache() -> None:
    walk = list(RING.walk(b"x"))
    candidates = [candidate(p, matched=900 if p == walk[3] else 0) for p in EIGHT]
    order = ordered(query(ring=RING, place=b"x"), candidates, BoundedHash())
    assert (order.peers, order.reason) == (tuple(walk), Reason.PLACE)


def test_bounded_hash_passes_over_a_full_place_and_keeps_it_as_a_last_resort() -> None:
    walk = list(RING.walk(b"x"))
    candidates = [candidate(p, running=8 if p == walk[0] else 0) for p in EIGHT]
    order = ordered(query(ring=RING, place=b"x"), candidates, BoundedHash())
    assert order.peers == (*walk[1:], walk[0])
    assert order.reason is Reason.OVERFLOW


def test_bounded_hash_takes_peers_outside_the_ring_last() -> None:
    asked = query(ring=ring_of([TWO, THREE]), place=b"x")
    order = ordered(asked, [candidate(p) for p in (ONE, TWO, THREE, FOUR)], BoundedHash())
    assert set(order.peers[:2]) == {TWO, THREE}
    assert order.peers[2:] == (ONE, FOUR)


def test_bounded_hash_without_a_ring_still_finds_somebody() -> None:
    order = ordered(query(), [candidate(TWO), candidate(ONE)], BoundedHash())
    assert (order.peers, order.reason) == ((ONE, TWO), Reason.OVERFLOW)


def test_random_draws_all_alike() -> None:
    candidates = [candidate(p, matched=900 if p == ONE else 0, running=1) for p in PEERS[:4]]
    drawn = Counter(ordered(query(), candidates, Random(), seed).peers[0] for seed in range(2000))
    assert set(drawn) == set(PEERS[:4])
    assert min(drawn.values()) > 400


def test_round_robin_gives_each_its_turn() -> None:
    candidates = [candidate(p, rtt_s=rtt_s) for p, rtt_s in ((THREE, 0.0), (ONE, 0.5), (TWO, 0.2))]
    taken = [ordered(query(turn=turn), candidates, RoundRobin()).peers for turn in range(6)]
    assert [peers[0] for peers in taken] == [ONE, TWO, THREE, ONE, TWO, THREE]
    assert taken[1] == (TWO, THREE, ONE)


def test_least_loaded_compares_requests_for_each_slot() -> None:
    candidates = [candidate(ONE, slots=1, running=1), candidate(TWO, slots=8, running=4)]
    for seed in range(8):
        assert ordered(query(), candidates, LeastLoaded(), seed).peers == (TWO, ONE)


def test_least_loaded_leaves_equals_to_chance() -> None:
    candidates = [candidate(p) for p in PEERS[:4]]
    assert {ordered(query(), candidates, LeastLoaded(), s).peers[0] for s in range(64)} == set(
        PEERS[:4]
    )


def test_local_stays_here_however_long_it_takes() -> None:
    here = candidate(THREE, local=True, running=4, queued=50, queued_tokens=99_999)
    order = ordered(query(), [candidate(ONE, matched=999), here], Local())
    assert (order.peers, order.reason) == ((THREE, ONE), Reason.HERE)


def test_local_takes_the_cheapest_where_this_host_cannot() -> None:
    order = ordered(query(), [candidate(ONE), candidate(TWO, matched=900)], Local())
    assert (order.peers, order.reason) == ((TWO, ONE), Reason.FALLBACK)


@pytest.mark.parametrize("place", PLACES)
def test_routers_that_see_alike_agree_on_a_new_prefix_whoever_is_local(place: bytes) -> None:
    """Each router is a peer itself and sees itself nearer by a LAN's round trip."""
    ring = Ring(dict.fromkeys(EIGHT, 4))
    homes = {
        ordered(
            query(ring=ring, place=place),
            [candidate(p, local=p == me, rtt_s=0.0 if p == me else 0.0002) for p in EIGHT],
            Cost(),
        ).peers[0]
        for me in EIGHT
    }
    assert homes == {next(ring.walk(place))}
