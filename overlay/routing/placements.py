"""What this router has sent where: knowledge of other caches that needs no gossip.

A prompt that we had computed at a peer is probably still there. Digests are better, being the
peer's own word, but they are late; this closes the gap, and it is all there is to go by when no
digest comes. Prefixes are remembered at a few depths only, and the last used ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from inference.request import BLOCK_TOKENS
from security.peer_id import PeerId

DEPTHS_BLOCKS = tuple(sorted({4 << n for n in range(10)} | {6 << n for n in range(9)}))
"""4, 6, 8, 12, 16, 24 ... 2,048 blocks."""

KEPT_MAX = 16_384
"""Prefixes remembered; about 4 MB."""


@dataclass(frozen=True, slots=True)
class Placement:
    """``tokens`` of a prompt were computed at a peer ``age_s`` ago."""

    tokens: int
    age_s: float


class Placements:
    """Where this router's requests have gone; one for each tenant and model."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._at: OrderedDict[bytes, dict[PeerId, float]] = OrderedDict()

    def record(self, peer_id: PeerId, hashes: Sequence[bytes], now_s: float) -> None:
        """A prompt with these blocks (chain hashes or tags) was sent to that peer."""
        length = len(hashes)
        for depth in DEPTHS_BLOCKS:
            if depth > length:
                break
            key = hashes[depth - 1]
            held = self._at.pop(key, None)
            if held is None:
                held = {}
            held[peer_id] = now_s
            self._at[key] = held
        while len(self._at) > self._kept_max:
            self._at.popitem(last=False)

    def lookup(self, hashes: Sequence[bytes], now_s: float) -> dict[PeerId, Placement]:
        """For each peer the deepest prefix of the prompt that was sent there."""
        found: dict[PeerId, Placement] = {}
        length = len(hashes)
        for depth in reversed(DEPTHS_BLOCKS):
            if depth > length:
                continue
            for peer_id, at_s in self._at.get(hashes[depth - 1], {}).items():
                if peer_id not in found:
                    found[peer_id] = Placement(depth * BLOCK_TOKENS, now_s - at_s)
        return found

    def take_back(self, peer_id: PeerId, hashes: Sequence[bytes], held_blocks: int) -> None:
        """The prompt was not computed there after all: the peer has its first blocks alone."""
        length = len(hashes)
        for depth in DEPTHS_BLOCKS:
            if held_blocks < depth <= length:
                self._at.get(hashes[depth - 1], {}).pop(peer_id, None)

    def forget(self, peer_id: PeerId) -> None:
        """The peer has restarted or left: its cache is gone."""
        for held in self._at.values():
            held.pop(peer_id, None)
