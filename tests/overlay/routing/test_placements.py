from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.request import BLOCK_TOKENS
from overlay.routing.placements import DEPTHS_BLOCKS, Placement, Placements
from security.peer_id import PeerId
from tests.overlay.routing.pictures import ONE, PEERS, THREE, TWO

CHAINS = [[f"{name}{number}".encode() for number in range(100)] for name in "abc"]
A, B = CHAINS[:2]


def test_a_prompt_is_remembered_where_it_was_sent() -> None:
    placements = Placements()
    placements.record(ONE, A[:16], 10.0)
    assert placements.lookup(A[:16], 12.5) == {ONE: Placement(16 * BLOCK_TOKENS, 2.5)}
    assert placements.lookup(B[:16], 12.5) == {}


def test_a_longer_prompt_finds_its_beginning_and_a_shorter_one_no_more_than_itself() -> None:
    placements = Placements()
    placements.record(ONE, A[:20], 0.0)
    assert placements.lookup(A, 0.0)[ONE].tokens == 16 * BLOCK_TOKENS
    assert placements.lookup(A[:11], 0.0)[ONE].tokens == 8 * BLOCK_TOKENS
    assert placements.lookup(A[:3], 0.0) == {}


def test_a_prompt_that_is_taken_back_leaves_what_the_peer_has_and_others_as_they_were() -> None:
    placements = Placements()
    placements.record(ONE, A[:64], 0.0)
    placements.record(TWO, A[:64], 0.0)
    placements.take_back(ONE, A[:64], 17)
    found = placements.lookup(A, 0.0)
    assert found[ONE].tokens == 16 * BLOCK_TOKENS
    assert found[TWO].tokens == 64 * BLOCK_TOKENS
    placements.take_back(ONE, A[:64], 0)
    assert set(placements.lookup(A, 0.0)) == {TWO}
    placements.take_back(THREE, B, 0)


def test_each_peer_is_found_at_its_deepest() -> None:
    placements = Placements()
    placements.record(ONE, A[:16], 0.0)
    placements.record(TWO, A[:16], 1.0)
    placements.record(TWO, A[:64], 2.0)
    assert placements.lookup(A, 3.0) == {
        ONE: Placement(16 * BLOCK_TOKENS, 3.0),
        TWO: Placement(64 * BLOCK_TOKENS, 1.0),
    }


def test_a_prompt_sent_again_is_news_again() -> None:
    placements = Placements()
    placements.record(ONE, A[:16], 0.0)
    placements.record(ONE, A[:16], 60.0)
    assert placements.lookup(A[:16], 61.0)[ONE].age_s == 1.0


def test_the_longest_unused_prefixes_are_forgotten_first() -> None:
    placements = Placements(kept_max=4)
    placements.record(ONE, A[:6], 0.0)
    placements.record(ONE, B[:6], 1.0)
    placements.record(TWO, A[:6], 2.0)
    placements.record(TWO, CHAINS[2][:6], 3.0)
    assert set(placements.lookup(A[:6], 3.0)) == {ONE, TWO}
    assert placements.lookup(B[:6], 3.0) == {}


def test_a_peer_whose_cache_is_gone_is_found_nowhere() -> None:
    placements = Placements()
    placements.record(ONE, A[:16], 0.0)
    placements.record(TWO, A[:8], 0.0)
    placements.forget(ONE)
    assert set(placements.lookup(A[:16], 1.0)) == {TWO}


STEPS = st.lists(
    st.tuples(st.sampled_from(PEERS[:3]), st.sampled_from(CHAINS), st.integers(0, 100)),
    max_size=20,
)


@settings(derandomize=True)
@given(steps=STEPS, chain=st.sampled_from(CHAINS), blocks=st.integers(0, 100))
def test_lookup_gives_each_peers_deepest_known_depth(
    steps: list[tuple[PeerId, list[bytes], int]], chain: list[bytes], blocks: int
) -> None:
    placements = Placements()
    model: dict[tuple[PeerId, bytes], int] = {}
    for now_s, (peer_id, sent, length) in enumerate(steps):
        placements.record(peer_id, sent[:length], now_s)
        model |= {(peer_id, sent[d - 1]): now_s for d in DEPTHS_BLOCKS if d <= length}
    expected = {}
    for peer_id in PEERS[:3]:
        depths = [d for d in DEPTHS_BLOCKS if d <= blocks and (peer_id, chain[d - 1]) in model]
        if depths:
            age_s = len(steps) - model[peer_id, chain[depths[-1] - 1]]
            expected[peer_id] = Placement(depths[-1] * BLOCK_TOKENS, age_s)
    assert placements.lookup(chain[:blocks], len(steps)) == expected
