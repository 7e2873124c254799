"""The ring: everybody agrees on it, it moves little, and it never overfills a peer."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.ring import BELOW_FULL, BOUND, EMPTY_RING, Ring, load_limit
from security.peer_id import PeerId
from tests.overlay.routing.pictures import ONE, PEERS, TWO, ring_of

KEYS = [number.to_bytes(4, "big") for number in range(2000)]
IDLE = dict.fromkeys(PEERS, 0.0)
LOADS = st.dictionaries(st.sampled_from(PEERS[:10]), st.floats(0, 50), min_size=1)


WALK = [PEERS[number] for number in (4, 7, 1, 0, 2, 6, 5, 3)]
DIGEST = "5e6bbf45d1be9902"


def homes(ring: Ring) -> list[PeerId | None]:
    return [ring.place(key, IDLE) for key in KEYS]


@given(
    members=st.frozensets(st.sampled_from(PEERS[:12])),
    slots=st.integers(1, 8),
    key=st.binary(max_size=20),
)
def test_a_walk_meets_every_peer_once(members: frozenset[PeerId], slots: int, key: bytes) -> None:
    ring = Ring(dict.fromkeys(members, slots))
    walked = list(ring.walk(key))
    assert sorted(walked) == sorted(members) == list(ring.peers)


def test_an_empty_ring_has_no_place() -> None:
    assert list(EMPTY_RING.walk(b"x")) == []
    assert EMPTY_RING.place(b"x", {ONE: 0.0}) is None


def test_the_ring_is_what_was_agreed_on() -> None:
    """A vector: hosts of other versions must come to the same walk."""
    ring = Ring(dict(zip(PEERS[:8], (1, 2, 3, 4, 5, 1, 2, 3), strict=True)))
    walks = "\n".join(",".join(ring.walk(key)) for key in KEYS[:100])
    assert list(ring.walk(b"rhizome")) == WALK
    assert blake2b(walks.encode(), digest_size=8).hexdigest() == DIGEST


def test_the_order_in_which_peers_are_named_does_not_matter() -> None:
    slots = dict(zip(PEERS[:9], range(1, 10), strict=True))
    backwards = dict(reversed(slots.items()))
    assert all(list(Ring(slots).walk(k)) == list(Ring(backwards).walk(k)) for k in KEYS[:50])


@pytest.mark.parametrize("count", [1, 2, 8, 63])
def test_a_peer_that_joins_takes_its_share_and_moves_nothing_else(count: int) -> None:
    joined = PEERS[count]
    before, after = homes(ring_of(PEERS[:count])), homes(ring_of(PEERS[: count + 1]))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {joined}
    assert len(moved) <= 2 * len(KEYS) / (count + 1)


@pytest.mark.parametrize("count", [2, 3, 9, 64])
def test_a_peer_that_leaves_gives_only_its_own_prefixes_away(count: int) -> None:
    left, rest = PEERS[0], PEERS[1:count]
    before, after = homes(ring_of(PEERS[:count])), homes(ring_of(rest))
    assert all(old == new for old, new in zip(before, after, strict=True) if old != left)


def test_prefixes_of_a_peer_that_leaves_go_to_several_others() -> None:
    before, after = homes(ring_of(PEERS[:8])), homes(ring_of(PEERS[1:8]))
    heirs = {new for old, new in zip(before, after, strict=True) if old == ONE}
    assert len(heirs) >= 4


def test_places_are_in_proportion_to_slots_of_which_four_count() -> None:
    counts = Counter(homes(Ring({ONE: 1, TWO: 4})))
    assert 2.5 <= counts[TWO] / counts[ONE] <= 6
    assert homes(Ring({ONE: 1, TWO: 4})) == homes(Ring({ONE: 1, TWO: 4000}))


def test_a_peer_that_claims_no_slots_still_has_a_place() -> None:
    assert homes(Ring({ONE: 0, TWO: -7})) == homes(Ring({ONE: 1, TWO: 1}))


@given(loads=LOADS, key=st.binary(min_size=1, max_size=4))
def test_the_place_is_the_first_of_the_walk_within_the_bound(
    loads: dict[PeerId, float], key: bytes
) -> None:
    ring = ring_of(PEERS[:10])
    placed = ring.place(key, loads)
    limit = max(BELOW_FULL, BOUND * sum(loads.values()) / len(loads))
    within = [peer for peer in ring.walk(key) if peer in loads and loads[peer] <= limit]
    assert placed == within[0]


@given(loads=LOADS)
def test_somebody_is_always_within_the_bound(loads: dict[PeerId, float]) -> None:
    assert min(loads.values()) <= load_limit(loads.values())


@pytest.mark.parametrize("load", [0.0, 0.25, 0.75, 0.99])
def test_a_peer_with_a_free_slot_is_within_its_bound_however_idle_the_others(load: float) -> None:
    assert load <= load_limit([load, *[0.0] * 63])


def test_a_busy_peer_is_within_its_bound_up_to_a_quarter_above_the_mean() -> None:
    loads = {ONE: 5.0, TWO: 3.0}
    assert load_limit(loads.values()) == 5.0
    assert ring_of([ONE]).place(b"x", loads) == ONE
    assert ring_of([ONE]).place(b"x", loads | {ONE: 5.1}) is None


def test_a_full_peer_among_idle_ones_is_over_its_bound() -> None:
    assert load_limit([1.0, 0.0, 0.0]) < 1.0


def test_nobody_has_a_bound_among_no_loads() -> None:
    assert load_limit([]) == 0.0


def test_no_place_where_only_strangers_may_be_chosen() -> None:
    assert ring_of([ONE]).place(b"x", {TWO: 0.0}) is None


def test_a_hot_prefix_fills_the_walk_and_never_one_peer_past_its_bound() -> None:
    ring, requests = ring_of(PEERS[:8]), dict.fromkeys(PEERS[:8], 0)
    for total in range(1, 201):
        loads = {peer: count / 4 for peer, count in requests.items()}
        placed = ring.place(b"hot", loads)
        assert placed is not None
        requests[placed] += 1
        busiest = max(requests.values()) / 4
        assert busiest <= max(1.0, BOUND * (total - 1) / 4 / 8 + 1 / 4)
