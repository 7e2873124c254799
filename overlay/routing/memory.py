"""What a router remembers of the prompts it has placed: where each went and what was found there.

This closes the gaps that digests leave, and is all there is to go by when none come:

1. A prompt sent to a peer is probably still there (``placements.py``).
2. News fades as fast as it was seen to fade (``survival.py``).
3. Where routers agree on a prefix's place on the ring, it is found there although nobody said so;
   how often that happens is measured too (``home_share``).

One for each tenant and model, since prefixes are never shared across them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.request import BLOCK_TOKENS
from overlay.routing.cost import counted_tokens
from overlay.routing.decide import Decision
from overlay.routing.place import Places
from overlay.routing.placements import Placement, Placements
from overlay.routing.survival import Survival
from security.peer_id import PeerId

DIGEST_HALF_LIFE_S = 60.0
PLACED_HALF_LIFE_S = 20.0
"""First guesses of how fast news fades; what is measured replaces them."""

HOME_WEIGHT = 0.02
"""Weight of the newest request: the last hundred or so count."""

LEARN_TOKENS_MIN = 16
"""A promise of less than a block teaches nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What is remembered that bears on one prompt.

    ``place`` and ``home_share`` go into the query, ``inferred_tokens`` into the candidates.
    """

    hashes: Sequence[bytes]
    place: bytes
    home_share: float
    placements: Mapping[PeerId, Placement]
    inferred_tokens: Mapping[PeerId, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was expected of a request when it was sent, to be compared with what is found."""

    hashes: Sequence[bytes]
    local: bool
    prompt_tokens: int
    counted_tokens: float
    claimed_tokens: int
    claim_age_s: float
    placement: Placement | None
    at_home: bool


class Memory:
    """A router's own memory of one tenant's prompts for one model."""

    def __init__(self) -> None:
        self._places = Places()
        self._placements = Placements()
        self._digests = Survival(DIGEST_HALF_LIFE_S)
        self._placed = Survival(PLACED_HALF_LIFE_S)
        self._home_share = 0.0

    def recall(self, hashes: Sequence[bytes], now_s: float) -> Recall:
        """Counts a new prompt, by its blocks' chain hashes, and tells what is known of it."""
        self._places.observe(hashes)
        placements = self._placements.lookup(hashes, now_s)
        return Recall(
            hashes=hashes,
            place=self._places.key(hashes),
            home_share=self._home_share,
            placements=placements,
            inferred_tokens={
                peer_id: each.tokens * self._placed.expect(each.age_s)
                for peer_id, each in placements.items()
            },
        )

    def freshness(self, age_s: float) -> float:
        """The share of what a digest of that age promises that is usually found."""
        return self._digests.expect(age_s)

    def sent(self, recall: Recall, decision: Decision, peer_id: PeerId, now_s: float) -> Sent:
        """The prompt goes to ``peer_id``, one of the decision's candidates."""
        candidate = next(each for each in decision.candidates if each.peer_id == peer_id)
        self._placements.record(peer_id, recall.hashes, now_s)
        return Sent(
            hashes=recall.hashes,
            local=candidate.local,
            prompt_tokens=decision.query.prompt_tokens,
            counted_tokens=counted_tokens(candidate, decision.query),
            claimed_tokens=candidate.matched_tokens,
            claim_age_s=candidate.view.digest_age_s,
            placement=recall.placements.get(peer_id),
            at_home=peer_id == decision.home,
        )

    def found(self, sent: Sent, cached_tokens: int) -> None:
        """The request was served with that many tokens from the peer's cache."""
        if sent.local:
            return
        if sent.placement is not None:
            self._placed.observe(sent.placement.age_s, cached_tokens / sent.placement.tokens)
        if sent.claimed_tokens >= LEARN_TOKENS_MIN:
            self._digests.observe(sent.claim_age_s, cached_tokens / sent.claimed_tokens)
        left = sent.prompt_tokens - sent.counted_tokens
        if sent.at_home and left >= LEARN_TOKENS_MIN:
            surprise = max(0.0, cached_tokens - sent.counted_tokens) / left
            self._home_share += HOME_WEIGHT * (min(1.0, surprise) - self._home_share)

    def taken_back(self, peer_id: PeerId, sent: Sent, cached_tokens: int) -> None:
        """The peer told that it has so many tokens cached, and did not get the request."""
        self.found(sent, cached_tokens)
        self._placements.take_back(peer_id, sent.hashes, cached_tokens // BLOCK_TOKENS)

    def forget(self, peer_id: PeerId) -> None:
        """The peer has restarted or left: its cache is gone."""
        self._placements.forget(peer_id)
