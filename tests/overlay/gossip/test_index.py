"""Who holds which prefix, against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.events import BlockHash, BlocksEvicted, BlocksStored
from inference.request import Namespace
from overlay.gossip.blocktree import BlockTree
from overlay.gossip.digest import Digest
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
    found = {
        peer: depth for depth, mask in index.lookup(tenant, tags) for peer in index.peers(mask)
    }
    assert index.claims(tenant, tags) == found
    return found


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


DOCUMENT_BLOCKS = 60
RUNS = st.lists(
    st.tuples(st.sampled_from(PEERS[:3]), st.booleans(), st.integers(1, DOCUMENT_BLOCKS)),
    max_size=20,
)
"""Who caches a document, or has all but so many blocks of it evicted."""


def document(branch_depth: int) -> list[int]:
    """Tags of a document that leaves the common one after so many blocks."""
    own = [1000 * (branch_depth + 1) + number for number in range(DOCUMENT_BLOCKS)]
    return [*range(1, branch_depth + 1), *own][:DOCUMENT_BLOCKS]


def named(tag: int) -> BlockHash:
    return BlockHash(tag.to_bytes(16, "big"))


@given(
    runs=st.lists(st.tuples(RUNS, st.integers(0, 40)), min_size=1, max_size=4),
    budget=st.sampled_from([3, 6, 12, 1000]),
)
def test_what_digests_publish_is_found_as_if_every_tag_was_looked_up(
    runs: list[tuple[list[tuple[PeerId, bool, int]], int]], budget: int
) -> None:
    index, everywhere = Index(), Index()
    trees = {peer: BlockTree(Digest(budget)) for peer in PEERS[:3]}
    space = Namespace("one")
    for steps, branch_depth in runs:
        tags = document(branch_depth)
        for peer, store, blocks in steps:
            tree = trees[peer]
            held = tree.match([named(tag) for tag in tags])
            if store:
                parent = named(tags[held - 1]) if held else None
                new = tuple(named(tag) for tag in tags[held : max(held, blocks)])
                tree.store(BlocksStored(namespace=space, parent=parent, depth=held, blocks=new))
            else:
                gone = tuple(named(tag) for tag in tags[max(branch_depth, blocks) : held][::-1])
                tree.evict(BlocksEvicted(namespace=space, blocks=gone))
            added, removed = tree.digest.take_changes()
            strided = not tree.digest.truncated
            index.remove(ONE, peer, [int.from_bytes(each, "big") for each in removed])
            index.add(ONE, peer, [int.from_bytes(each, "big") for each in added], strided=strided)
            everywhere.remove(ONE, peer, [int.from_bytes(each, "big") for each in removed])
            everywhere.add(ONE, peer, [int.from_bytes(each, "big") for each in added])
            for depth in (branch_depth, 0, 20):
                question = document(depth)
                assert index.lookup(ONE, question) == everywhere.lookup(ONE, question)


def test_a_claim_without_its_strides_is_found_where_the_budget_left_them_out() -> None:
    index = Index()
    index.add(ONE, PEERS[0], [8, 16, 20], strided=True)
    index.add(ONE, PEERS[1], [37], strided=False)
    question = list(range(1, 61))
    assert held(index, ONE, question) == {PEERS[0]: 20, PEERS[1]: 37}
    index.add(ONE, PEERS[1], [8, 16, 24, 32], strided=True)
    assert held(index, ONE, question) == {PEERS[0]: 20, PEERS[1]: 37}


def test_a_peer_whose_tags_did_not_all_fit_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.gossip.index.ENTRIES_MAX", 2)
    index = Index()
    index.add(ONE, PEERS[0], [20, 21, 8, 16], strided=True)
    assert held(index, ONE, list(range(1, 61))) == {PEERS[0]: 21}
