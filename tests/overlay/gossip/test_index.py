"""Who holds which prefix, against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.gossip.index import Index
from security.peer_id import PeerId
from security.tenant import TenantId

ONE, TWO = TenantId("one"), TenantId("two")
PEERS = [PeerId(f"peer{number}") for number in range(5)]
TAGS = st.lists(st.integers(0, 12), max_size=6)
STEPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([ONE, TWO]), st.sampled_from(PEERS), TAGS), max_size=30
)


def held(index: Index, tenant: TenantId, tags: list[int]) -> dict[PeerId, int]:
    return {peer: depth for depth, mask in index.lookup(tenant, tags) for peer in index.peers(mask)}


@given(steps=STEPS, question=st.lists(st.integers(0, 12), max_size=10, unique=True))
def test_lookup_gives_each_peers_longest_claim(
    steps: list[tuple[bool, TenantId, PeerId, list[int]]], question: list[int]
) -> None:
    index = Index()
    model: set[tuple[TenantId, PeerId, int]] = set()
    for add, tenant, peer, tags in steps:
        (index.add if add else index.remove)(tenant, peer, tags)
        changed = {(tenant, peer, tag) for tag in tags}
        model = model | changed if add else model - changed
    assert len(index) == len({(tenant, tag) for tenant, _, tag in model})
    for tenant in (ONE, TWO):
        expected = {}
        for peer in PEERS:
            depths = [d for d, tag in enumerate(question, 1) if (tenant, peer, tag) in model]
            if depths:
                expected[peer] = max(depths)
        assert held(index, tenant, question) == expected
        found = index.lookup(tenant, question)
        assert [depth for depth, _ in found] == sorted((d for d, _ in found), reverse=True)


def test_tenants_are_kept_apart() -> None:
    index = Index()
    index.add(ONE, PEERS[0], [1])
    assert held(index, TWO, [1]) == {}


def test_the_place_of_a_forgotten_peer_is_used_again() -> None:
    index = Index()
    index.add(ONE, PEERS[0], [1])
    index.add(ONE, PEERS[1], [2])
    index.remove(ONE, PEERS[0], [1])
    index.forget(PEERS[0])
    index.add(ONE, PEERS[2], [3])
    assert held(index, ONE, [1, 2, 3]) == {PEERS[1]: 2, PEERS[2]: 3}
    assert index.lookup(ONE, [3])[0][1] == 1


def test_entries_are_bounded_and_room_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.gossip.index.ENTRIES_MAX", 3)
    index = Index()
    index.add(ONE, PEERS[0], [1, 2])
    index.add(TWO, PEERS[0], [1, 2, 3])
    assert len(index) == 3
    index.add(ONE, PEERS[1], [1, 9])
    assert held(index, ONE, [1]) == {PEERS[0]: 1, PEERS[1]: 1}
    assert held(index, ONE, [9]) == {}
    index.remove(TWO, PEERS[0], [1, 2, 3])
    index.add(ONE, PEERS[1], [9])
    assert held(index, ONE, [9]) == {PEERS[1]: 1}
