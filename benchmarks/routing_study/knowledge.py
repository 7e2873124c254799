"""What digests tell: the real published set and the real index, without the wire between them.

A peer's cache events are folded into its block tree; what its digest publishes is tagged and enters
the index after the bundle's period and the link's delay. Sealing, signing and repair are left out:
the links here lose nothing, so all routers see the same, and one index stands for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.routing_study.engine import NAMESPACE
from inference.events import BlockHash, CacheEvent
from overlay.gossip.blocktree import BlockForest
from overlay.gossip.index import Index
from security.peer_id import PeerId
from security.tags import tags_of
from security.tenant import TenantId

TENANT = TenantId("0" * 32)
TAG_KEY = bytes(32)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A peer's load as its last bundle had it."""

    taken_s: float
    running: int
    queued: int
    queued_tokens: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one peer tells all others in one period."""

    origin: int
    added: tuple[int, ...]
    removed: tuple[int, ...]
    load: LoadReport


class Digests:
    """The published sets of all peers, and the index that every router has of them."""

    def __init__(self, peers: Sequence[PeerId]) -> None:
        self._peers = list(peers)
        self._number = {peer_id: number for number, peer_id in enumerate(peers)}
        self._forests = [BlockForest() for _ in peers]
        self._index = Index()

    def bundle(self, origin: int, events: Sequence[CacheEvent], load: LoadReport) -> Bundle:
        """What a peer publishes now."""
        forest = self._forests[origin]
        forest.fold(events)
        added, removed = forest.tree(NAMESPACE).digest.take_changes()
        tags = tags_of(TAG_KEY, added), tags_of(TAG_KEY, removed)
        return Bundle(origin, tuple(tags[0]), tuple(tags[1]), load)

    def deliver(self, bundle: Bundle) -> None:
        """A bundle has come in everywhere."""
        peer_id = self._peers[bundle.origin]
        self._index.remove(TENANT, peer_id, bundle.removed)
        self._index.add(TENANT, peer_id, bundle.added)

    def claimed_blocks(self, hashes: Sequence[BlockHash]) -> dict[PeerId, int]:
        """How many of these blocks each peer is said to hold."""
        found = self._index.lookup(TENANT, tags_of(TAG_KEY, hashes))
        return {peer_id: depth for depth, mask in found for peer_id in self._index.peers(mask)}
