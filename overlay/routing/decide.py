"""Where a request runs: a pure function of what the router knows.

The result names every candidate's cost term by term and the reason, so that a decision can be
explained afterwards and replayed. Candidates that a rule forbids (model, zone, suspicion, tried
already) are never chosen by any policy. A suspected peer whose probe is due is given one request
that would not suffer much by it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlay.routing.candidate import Candidate, Exclusion, Query, Standing
from overlay.routing.cost import Costed, CostTerms, cost_all, terms_of
from overlay.routing.policies import Order, Policy, Promptness, Reason
from security.peer_id import PeerId

PROBE_SLOWER_S = 1.0
"""A request is used as a probe where that is expected to cost it at most this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome. ``ordered`` has every eligible peer, best first; ``chosen`` is its first.

    ``chosen`` is None when no candidate is eligible. ``scores_s`` is what the policy compared, in
    the order of ``ordered``, where that was not the expected completion time itself; ``home`` is
    the prompt's place on the ring, where the policy asked for it; ``surprise`` as
    in ``overlay.routing.policies.Order``.
    """

    chosen: PeerId | None
    ordered: tuple[PeerId, ...]
    reason: Reason
    policy: str
    query: Query
    candidates: tuple[Candidate, ...]
    scores_s: tuple[float, ...] = ()
    home: PeerId | None = None
    surprise: Promptness | None = None

    @property
    def terms(self) -> Mapping[PeerId, CostTerms]:
        """Every candidate's cost, the excluded ones' too; worked out when asked for."""
        scores = dict(zip(self.ordered, self.scores_s, strict=False))
        return {
            each.peer_id: terms_of(each, self.query, scores.get(each.peer_id))
            for each in self.candidates
        }

    @property
    def excluded(self) -> Mapping[PeerId, Exclusion]:
        """The candidates that were not eligible, and why."""
        found = ((each.peer_id, exclusion_of(each, self.query)) for each in self.candidates)
        return {peer_id: why for peer_id, why in found if why is not None}

    @property
    def candidate(self) -> Candidate | None:
        """The chosen candidate."""
        return next((each for each in self.candidates if each.peer_id == self.chosen), None)


def exclusion_of(candidate: Candidate, query: Query) -> Exclusion | None:
    """Why this candidate may not run this request; None when it may."""
    if candidate.view.peer_id in query.tried:
        return Exclusion.TRIED
    view = candidate.view
    if view.exclusion is not None:
        return view.exclusion
    if query.variant is not None and view.variant != query.variant:
        return Exclusion.VARIANT
    if query.beyond and not view.passes_bodies:
        return Exclusion.BODY
    return Exclusion.CONTEXT if view.context_tokens < query.context_tokens else None


def decide(
    query: Query, candidates: Sequence[Candidate], policy: Policy, rng: random.Random
) -> Decision:
    """Chooses among ``candidates``; their order does not matter.

    Args:
        query: The request.
        candidates: At most one for each peer; this host's own engine is one like any other.
        policy: One of ``overlay/routing/policies.py``.
        rng: For the choices that a policy leaves to chance.

    Returns:
        The decision; ``chosen`` is None when no candidate is eligible.
    """
    costed = cost_all(candidates, query)
    if not costed:
        order = Order(peers=(), reason=Reason.NOBODY)
    else:
        order = policy.order(query, costed, rng)
        probe = _probe(costed)
        if probe is not None:
            rest = [peer_id for _, peer_id, _, _, _ in sorted(costed) if peer_id != probe]
            order = Order(peers=(probe, *rest), reason=Reason.PROBE, surprise=order.surprise)
    return Decision(
        chosen=order.peers[0] if order.peers else None,
        ordered=order.peers,
        reason=order.reason,
        policy=policy.name,
        query=query,
        candidates=tuple(candidates),
        scores_s=order.scores_s,
        home=order.home,
        surprise=order.surprise,
    )


def _probe(costed: list[Costed]) -> PeerId | None:
    """The cheapest suspected peer whose probe is due, if this request can afford it."""
    due = Standing.PROBE_DUE
    probes = [each for each in costed if each[4].view.standing is due]
    if not probes:
        return None
    probe = min(probes)
    return probe[1] if probe[0] <= min(costed)[0] + PROBE_SLOWER_S else None
