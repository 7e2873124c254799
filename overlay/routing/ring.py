"""A consistent hash ring with bounded loads: where a prefix belongs when nobody holds it.

Routers that know nothing of each other agree on a prefix's place, and when the first peer on the
walk is over its bound the next one takes the request and so becomes the prefix's replica.

Rules:
1. Each peer has points on the ring in proportion to its slots (at most 4 slots count).
2. A peer is within its bound while it has a free slot, or while its load per slot is at most
   ``BOUND`` times the mean: an absolute bound would never fire on a peer with four slots.
3. The walk is the same on every host: it depends on PeerIds, slots and the key alone.

Karger et al., 1997; Mirrokni et al., "Consistent Hashing with Bounded Loads", 2018 (bound 1.25).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b

from security.peer_id import PeerId

POINTS_PER_SLOT = 16
SLOTS_COUNTED_MAX = 4
BOUND = 1.25
BELOW_FULL = 0.999
"""Load per slot of a peer that still has a free one (a peer has far fewer than 1,000 slots)."""


class Ring:
    """An immutable ring of peers; built when the membership changes, not for each request."""

    __slots__ = ("_owners", "_points", "peers")

    def __init__(self, slots: Mapping[PeerId, int]) -> None:
        points = sorted(
            (_hash(f"{peer_id}/{index}".encode()), peer_id)
            for peer_id, count in slots.items()
            for index in range(POINTS_PER_SLOT * max(1, min(count, SLOTS_COUNTED_MAX)))
        )
        self._points = [point for point, _ in points]
        self._owners = [owner for _, owner in points]
        self.peers = tuple(sorted(slots))

    def walk(self, key: bytes) -> Iterator[PeerId]:
        """Every peer once, from the key's place onwards."""
        count = len(self._points)
        start = bisect_left(self._points, _hash(key)) if count else 0
        seen: set[PeerId] = set()
        for step in range(count):
            owner = self._owners[(start + step) % count]
            if owner not in seen:
                seen.add(owner)
                yield owner
                if len(seen) == len(self.peers):
                    return

    def place(self, key: bytes, loads: Mapping[PeerId, float]) -> PeerId | None:
        """The first peer of the walk that is in ``loads`` and within its bound.

        Args:
            key: The prefix's place key.
            loads: Requests per slot of each peer that may be chosen.

        Returns:
            None only when no peer of the ring is in ``loads`` and within the bound.
        """
        limit = load_limit(loads.values())
        for peer_id in self.walk(key):
            load = loads.get(peer_id)
            if load is not None and load <= limit:
                return peer_id
        return None


def load_limit(loads: Collection[float]) -> float:
    """The load per slot up to which a peer is within its bound; one with a free slot always is."""
    return max(BELOW_FULL, BOUND * sum(loads) / len(loads)) if loads else 0.0


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


EMPTY_RING = Ring({})
