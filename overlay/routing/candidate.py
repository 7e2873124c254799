"""What a router knows when it decides: the request, and each peer that might run it.

A :class:`PeerView` is one peer as this router sees it apart from any request; the router builds it
anew when something changed (a digest's head, a booking, a measurement) and shares it between
decisions. A :class:`Candidate` is a view and what that peer is thought to hold of this prompt.

Every number that a peer claims about itself has been bounded by the router's own measurements
(``overlay/routing/measured.py``) before it stands here. Times are seconds, rates per second.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from overlay.routing.ring import EMPTY_RING, Ring
from security.peer_id import PeerId

PREFILL_MIN_TOKENS_PER_S = 1e-3
"""A slower claim counts as this one: the inverse of the least float is infinite, and infinite costs
cannot be compared."""

TRUST_ENOUGH = 0.5
"""What we infer of a peer's cache rests on what it reported before; with less trust it counts less.

An honest peer stays above this: its digests are late, and that alone costs some trust."""

CONTEXT_UNKNOWN_TOKENS = 1 << 62
"""Of a peer that no request is too long for, as far as is known."""

PLACE_KEY_NONE = b""
"""Key of a prompt of which no whole block is known (too short, or not tokenised)."""


class Standing(enum.Enum):
    """How a peer stands with this router after its latest failures."""

    CLEAR = "clear"
    PROBE_DUE = "probe due"
    SUSPECTED = "suspected"


class Exclusion(enum.Enum):
    """Why a candidate may not run the request at all."""

    INCAPABLE = "does not serve the model"
    ZONE = "zone rule"
    SUSPECTED = "suspected"
    TRIED = "tried already"
    CONTEXT = "context too small"
    VARIANT = "other weights than the answer began with"
    BODY = "its engine does not know what the body asks for"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One peer as this router sees it, whatever the request.

    Args:
        peer_id: Whose view this is.
        local: True for this host's own engine; then ``rtt_s`` is 0.
        slots: Requests it serves at once, at least 1.
        running: Requests in its slots, by its last load hint.
        queued: Requests waiting there, by its last load hint.
        queued_tokens: Uncached prompt tokens waiting or in prefill there, by its last load hint.
        prefill_tokens_per_s: Above 0; already bounded by measurement.
        decode_s_per_token: At its present load; already bounded by measurement.
        rtt_s: Round trip to it; measured.
        age_s: Age of its last load hint.
        digest_age_s: Age of its digest: since all of it was here that it had published by then.
        freshness: Share (0 to 1) of what a digest of that age promises that is usually found.
        load_freshness: How far (0 to 1) its load hint still tells its load.
        trust: Share (0 to 1) of promised cached tokens that it used to deliver.
        observed_wait_s: Wait that our requests met there of late, counted where the hint does not.
        told_wait_s: What is left of the wait that it told of on accepting; the least there is.
        booked_requests: Our requests there that its load hint cannot know of, less those that it
            counts and that have ended since.
        booked_tokens: Uncached prompt tokens of those.
        in_flight: All our requests there at present.
        zone_allowed: False where a zone rule forbids the crossing.
        capable: False where it does not serve the model (or not this tenant).
        context_tokens: Most tokens of prompt and answer together, for the model of this view.
        variant: Equal for peers that can go on with each other's answers; compared, never read.
        dtype: In which it computes the model; for people, as it decides nothing.
        passes_bodies: Whether its engine is given whole bodies.
        estimated: Whether what it has cached is inferred by its host; for people.
        standing: After its latest failures.

    Computed:
        exclusion: Why it may run no request, None when it may.
        load: Requests there, per slot: what guards compare.
        fixed_s: Part of the cost that does not depend on the request.
        output_factor_s: Seconds per expected output token: its own, and of those in the way.
        prefill_s_per_token: The inverse of its prefill rate.
        claim_weight: Share of a claimed match that counts.
        inferred_weight: Share of an inferred match that counts.
        terms: What the cost is made of, in one piece for the loop over all candidates; None when
            it may run no request.
    """

    peer_id: PeerId
    local: bool
    slots: int
    running: int
    queued: int
    queued_tokens: float
    prefill_tokens_per_s: float
    decode_s_per_token: float
    rtt_s: float
    age_s: float = 0.0
    digest_age_s: float = 0.0
    freshness: float = 1.0
    load_freshness: float = 1.0
    trust: float = 1.0
    observed_wait_s: float = 0.0
    told_wait_s: float = 0.0
    booked_requests: int = 0
    booked_tokens: float = 0.0
    in_flight: int = 0
    zone_allowed: bool = True
    capable: bool = True
    context_tokens: int = CONTEXT_UNKNOWN_TOKENS
    variant: str = ""
    dtype: str = ""
    passes_bodies: bool = False
    estimated: bool = False
    standing: Standing = Standing.CLEAR

    exclusion: Exclusion | None = field(init=False)
    load: float = field(init=False)
    fixed_s: float = field(init=False)
    output_factor_s: float = field(init=False)
    prefill_s_per_token: float = field(init=False)
    claim_weight: float = field(init=False)
    inferred_weight: float = field(init=False)
    terms: tuple[PeerId, float, float, float, float, float, float, int] | None = field(
        init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not (self.slots >= 1 and self.prefill_tokens_per_s > 0):
            raise ValueError("a candidate has at least one slot and a rate above 0")
        if not (
            0 <= self.freshness <= 1 and 0 <= self.trust <= 1 and 0 <= self.load_freshness <= 1
        ):
            raise ValueError("freshness and trust are between 0 and 1")
        rate_per_s = max(self.prefill_tokens_per_s, PREFILL_MIN_TOKENS_PER_S)
        requests, wait_s = self._load(rate_per_s)
        in_the_way = max(0.0, (requests + 1 - self.slots) / self.slots)
        put = object.__setattr__  # frozen from here on
        exclusion = self._exclusion()
        fixed_s = self.rtt_s + wait_s
        output_factor_s = self.decode_s_per_token * (1 + in_the_way)
        prefill_s_per_token = 1.0 / rate_per_s
        claim_weight = 1.0 if self.local else self.freshness * self.trust
        inferred_weight = 1.0 if self.local else min(1.0, self.trust / TRUST_ENOUGH)
        costs_s = (fixed_s, output_factor_s, self.decode_s_per_token, prefill_s_per_token)
        terms = (self.peer_id, *costs_s, claim_weight, inferred_weight, self.context_tokens)
        put(self, "exclusion", exclusion)
        put(self, "load", requests / self.slots)
        put(self, "fixed_s", fixed_s)
        put(self, "output_factor_s", output_factor_s)
        put(self, "prefill_s_per_token", prefill_s_per_token)
        put(self, "claim_weight", claim_weight)
        put(self, "inferred_weight", inferred_weight)
        put(self, "terms", terms if exclusion is None else None)

    def start_s(self, expected_output_tokens: float) -> float:
        """Seconds until it would start on a request: the way there, and those before it."""
        in_the_way_s = self.output_factor_s - self.decode_s_per_token
        return self.fixed_s + in_the_way_s * expected_output_tokens

    def _load(self, rate_per_s: float) -> tuple[float, float]:
        """Requests there and seconds of prefill in front of a new one, as far as can be told.

        The hinted work has been drained since the hint was taken; as the hint fades, what we have
        seen there takes its place. Our own bookings count in full.
        """
        believed = self.load_freshness
        hinted = believed * (self.running + self.queued)
        requests = max(hinted + self.booked_requests, self.in_flight, 0.0)
        hinted_s = max(0.0, self.queued_tokens / rate_per_s - self.age_s)
        wait_s = believed * hinted_s + (1 - believed) * self.observed_wait_s
        return requests, max(self.told_wait_s, wait_s + self.booked_tokens / rate_per_s)

    def _exclusion(self) -> Exclusion | None:
        if not self.capable:
            return Exclusion.INCAPABLE
        if not self.zone_allowed and not self.local:
            return Exclusion.ZONE
        if self.standing is Standing.SUSPECTED:
            return Exclusion.SUSPECTED
        return None


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A peer that might run this request, and how many tokens of the prompt it holds.

    ``matched_tokens`` is its own claim (its digest, or this host's cache), not yet discounted;
    ``inferred_tokens`` is what we expect there by our own placements, discounted already.

    A struct and no dataclass because one is made for each peer and request: 0.06 us instead of 0.4.
    """

    view: PeerView
    matched_tokens: int
    inferred_tokens: float = 0.0

    @property
    def peer_id(self) -> PeerId:
        return self.view.peer_id

    @property
    def local(self) -> bool:
        return self.view.local


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The request to be placed.

    Args:
        prompt_tokens: Length of the prompt; an estimate where it is not tokenised.
        expected_output_tokens: From ``overlay/routing/expected_output.py``.
        place: Key of the prompt's place on the ring (``overlay/routing/place.py``).
        ring: All peers that serve the model.
        turn: Counts this router's requests, for round-robin.
        tried: Peers that this request has failed at.
        context_tokens: The context that a peer must have for it.
        variant: The one that a peer must have, where an answer has begun; None for any.
        beyond: Whether it needs an engine that is given whole bodies.
        home_share: Share of a prompt, 0 to 1, that is usually found at its place on the ring
            although nobody claims it (``overlay/routing/memory.py``).
    """

    prompt_tokens: int
    expected_output_tokens: float
    place: bytes = PLACE_KEY_NONE
    ring: Ring = EMPTY_RING
    turn: int = 0
    tried: frozenset[PeerId] = frozenset()
    home_share: float = 0.0
    context_tokens: int = 0
    variant: str | None = None
    beyond: bool = False

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0 or self.expected_output_tokens < 0:
            raise ValueError("token counts are not negative")
        if not 0 <= self.home_share <= 1:
            raise ValueError("a share is between 0 and 1")


def freshness(age_s: float, half_life_s: float) -> float:
    """How far news of this age still counts: 1 when new, halved every ``half_life_s``."""
    if half_life_s <= 0:
        return 1.0 if age_s <= 0 else 0.0
    return float(0.5 ** (max(0.0, age_s) / half_life_s))


def candidates_of(
    views: Iterable[PeerView],
    matched_tokens: Mapping[PeerId, int],
    inferred_tokens: Mapping[PeerId, float],
) -> tuple[Candidate, ...]:
    """Views with what each holds; peers that are not named hold nothing."""
    held, inferred = matched_tokens.get, inferred_tokens.get
    return tuple(
        [Candidate(view, held(view.peer_id, 0), inferred(view.peer_id, 0.0)) for view in views]
    )
