"""The ways to choose among eligible candidates; one interface for ours and for its rivals.

A policy is given the candidates with their expected completion times, in any order, and returns all
of them, best first, with the reason. It keeps no state.

* ``cost`` (default): least expected completion time, and the cost to those who come after. What a
  prompt's place on the ring is not known to hold counts as partly held there, so that routers that
  know nothing of each other agree on a home; equals are taken in ring order too.
* ``longest-prefix``: the longest claimed match whatever the load (arXiv:2606.17059).
* ``bounded-hash``: the place on the bounded ring, no other knowledge.
* ``random``, ``round-robin``, ``least-loaded``, ``local``: as their names say.
"""

from __future__ import annotations

import enum
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

from overlay.routing.candidate import Candidate, Query
from overlay.routing.cost import Costed
from overlay.routing.ring import load_limit
from security.peer_id import PeerId

_COST = itemgetter(0)


class Reason(enum.Enum):
    """Why the chosen one was chosen."""

    CHEAPEST = "least expected completion time"
    PREFIX = "holds most of the prompt"
    SOONER = "others would begin too late"
    PLACE = "the prefix's place on the ring"
    OVERFLOW = "the prefix's place is over its bound"
    CHANCE = "drawn at random"
    TURN = "its turn"
    LEAST_LOADED = "least loaded"
    HERE = "this host"
    FALLBACK = "this host cannot run it"
    PROBE = "probe of a suspected peer"
    NOBODY = "no peer can run it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promptness:
    """How much later than another a peer may begin to answer: ``share`` times and ``extra_s``.

    One that ends sooner is never too late.
    """

    share: float
    extra_s: float

    def is_late(self, first_s: float, done_s: float, other: Costed) -> bool:
        """Whether ``other`` is much better than to begin and end then."""
        other_done_s, _, _, other_first_s, _ = other
        return first_s > self.share * other_first_s + self.extra_s and done_s > other_done_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """All eligible peers, best first, and why the first is.

    ``scores_s`` is what was compared, in the same order, where that was not the expected completion
    time; ``home`` the prefix's place on the ring, where the policy asked for it. ``surprise``
    is how much later than thought the chosen one may begin; None where the policy does not mind.
    """

    peers: tuple[PeerId, ...]
    reason: Reason
    scores_s: tuple[float, ...] = ()
    home: PeerId | None = None
    surprise: Promptness | None = None


class Policy(Protocol):
    """A rule of choice; ``costed`` is never empty."""

    @property
    def name(self) -> str: ...

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Least expected completion time, counting what a choice costs those who come after.

    ``work_weight``: a token computed here holds up the requests behind it, and its block evicts
    another that may be wanted, so prefill work counts ``1 + work_weight`` times. Up keeps prefixes
    where they are, down evens the load. At 70 % load with small caches 1.5 to 2 is best.

    ``home_credit``: a share (0 to 1) of the tokens that a candidate is not known to hold is taken
    for held at the prefix's place on the ring, as far as the place's digest cannot be relied upon,
    so that routers that know little agree on a home. ``Query.home_share``, which is measured,
    counts instead where it is more. The place is the first of the walk however loaded: its load is
    in its cost already, and were a bound to move the place with every request that runs there, each
    prefix would be copied to the next peers and push others out of their caches.

    ``equal_s`` and ``equal_share``: candidates within these of the best count as equal and are
    taken in ring order.

    ``allowed`` and ``surprise``: what is good for those who come after is not to make this one wait
    for long. No peer is chosen that would begin later, compared with this host, than the promise
    NO-WORSE allows; and none is kept to that says on accepting that it will begin later than was
    expected, and than ``surprise`` allows. The first may be much, as the others gain by it; at 70 %
    load 1.2 in its place costs up to a quarter of the mean completion time. By the second nobody
    gains: others came first.
    """

    work_weight: float = 1.75
    home_credit: float = 0.8
    equal_s: float = 0.0005
    equal_share: float = 0.02
    allowed: Promptness = Promptness(share=1.5, extra_s=0.05)
    surprise: Promptness = Promptness(share=1.2, extra_s=0.02)
    name: str = "cost"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``; takes nothing from ``rng``."""
        del rng
        names = [peer_id for _, peer_id, _, _, _ in costed]
        home = first_of_walk(query, names)
        scored = sorted(zip(self._scores_s(query, costed, home, names), names, strict=True))
        here = next((each for each in costed if each[4].view.local), None)
        late: set[PeerId] = set()
        if self._is_late(costed[names.index(scored[0][1])], here):  # else nobody else is asked
            late = {each[1] for each in costed if self._is_late(each, here)}
            scored.sort(key=lambda each: each[1] in late)
        best_s = scored[0][0]
        limit_s = best_s + self.equal_s + self.equal_share * max(0.0, best_s)
        equal_count = bisect_right(scored, limit_s, hi=len(scored) - len(late), key=_COST)
        if equal_count > 1:
            equals = [peer_id for _, peer_id in scored[:equal_count]]
            timely = [e for e in equals if not self._is_late(costed[names.index(e)], here)]
            first = first_of_walk(query, timely)
            scored.insert(0, scored.pop(0 if first is None else equals.index(first)))
        scores_s, peers = zip(*scored, strict=True)
        chosen = costed[names.index(peers[0])][4]
        return Order(
            peers=peers,
            reason=Reason.SOONER if late else _reason(chosen, at_home=peers[0] == home),
            scores_s=scores_s,
            home=home,
            surprise=self.surprise,
        )

    def _is_late(self, costed: Costed, here: Costed | None) -> bool:
        done_s, _, _, first_s, _ = costed
        return here is not None and self.allowed.is_late(first_s, done_s, here)

    def _scores_s(
        self,
        query: Query,
        costed: Sequence[Costed],
        home: PeerId | None,
        names: Sequence[PeerId],
    ) -> list[float]:
        """What is compared, for each candidate in the order given."""
        weight = self.work_weight
        scores_s = [total_s + weight * prefill_s for total_s, _, prefill_s, _, _ in costed]
        if home is not None:
            index = names.index(home)
            _, _, prefill_s, _, each = costed[index]
            share = max(query.home_share, self.home_credit * (1 - each.view.claim_weight))
            scores_s[index] -= (1 + weight) * share * prefill_s
        return scores_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestPrefix:
    """The longest claimed match; equal ones by load, then by chance. No guard."""

    name: str = "longest-prefix"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``."""
        del query
        drawn = _shuffled(costed, rng)
        drawn.sort(key=lambda each: (-each[4].matched_tokens, each[4].view.load))
        reason = Reason.PREFIX if drawn[0][4].matched_tokens else Reason.LEAST_LOADED
        return Order(peers=_names(drawn), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedHash:
    """The first peer on the prefix's ring walk that is within its load bound."""

    name: str = "bounded-hash"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``; peers that are not on the ring come last."""
        del rng
        loads = {peer_id: each.view.load for _, peer_id, _, _, each in sorted(costed)}
        limit = load_limit(loads.values())
        walk = [peer_id for peer_id in query.ring.walk(query.place) if peer_id in loads]
        within = [peer_id for peer_id in walk if loads[peer_id] <= limit]
        over = [peer_id for peer_id in walk if loads[peer_id] > limit]
        strangers = [peer_id for peer_id in loads if peer_id not in walk]
        placed = bool(walk) and query.ring.place(query.place, loads) == walk[0]
        reason = Reason.PLACE if placed else Reason.OVERFLOW
        return Order(peers=(*within, *over, *strangers), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Any of them, evenly."""

    name: str = "random"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``."""
        del query
        return Order(peers=_names(_shuffled(costed, rng)), reason=Reason.CHANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobin:
    """Each in its turn, in the order of PeerIds."""

    name: str = "round-robin"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``; takes nothing from ``rng``."""
        del rng
        names = sorted(peer_id for _, peer_id, _, _, _ in costed)
        start = query.turn % len(names)
        return Order(peers=(*names[start:], *names[:start]), reason=Reason.TURN)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastLoaded:
    """Fewest requests per slot; equal ones by chance."""

    name: str = "least-loaded"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``."""
        del query
        drawn = _shuffled(costed, rng)
        drawn.sort(key=lambda each: each[4].view.load)
        return Order(peers=_names(drawn), reason=Reason.LEAST_LOADED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This host; the cheapest other one where it cannot."""

    name: str = "local"

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        """See ``Policy``; takes nothing from ``rng``."""
        del query, rng
        ordered = sorted(costed)
        here = [peer_id for _, peer_id, _, _, each in ordered if each.view.local]
        if not here:
            return Order(peers=_names(ordered), reason=Reason.FALLBACK)
        return Order(peers=_first(here[0], ordered), reason=Reason.HERE)


POLICIES: tuple[Policy, ...] = (
    Cost(),
    LongestPrefix(),
    BoundedHash(),
    Random(),
    RoundRobin(),
    LeastLoaded(),
    Local(),
)


def policy_named(name: str) -> Policy:
    """The policy of that name with its default settings. Raises KeyError where there is none."""
    return {policy.name: policy for policy in POLICIES}[name]


def first_of_walk(query: Query, names: Sequence[PeerId]) -> PeerId | None:
    """The first of these on the prefix's ring walk; None where the ring has none of them."""
    return next((peer_id for peer_id in query.ring.walk(query.place) if peer_id in names), None)


def _reason(chosen: Candidate, *, at_home: bool) -> Reason:
    if chosen.matched_tokens > 0 or chosen.inferred_tokens > 0:
        return Reason.PREFIX
    return Reason.PLACE if at_home else Reason.CHEAPEST


def _shuffled(costed: Sequence[Costed], rng: random.Random) -> list[Costed]:
    """In an order that depends on ``rng`` and the names alone."""
    drawn = sorted(costed, key=lambda each: each[1])
    rng.shuffle(drawn)
    return drawn


def _names(costed: Sequence[Costed]) -> tuple[PeerId, ...]:
    return tuple([peer_id for _, peer_id, _, _, _ in costed])


def _first(chosen: PeerId, costed: Sequence[Costed]) -> tuple[PeerId, ...]:
    return (chosen, *[peer_id for _, peer_id, _, _, _ in costed if peer_id != chosen])
