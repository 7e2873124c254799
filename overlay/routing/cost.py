"""The expected completion time of a request at a candidate, term by term.

    total = round trip + queue wait + uncached tokens / prefill rate + output tokens x s per token

The queue wait is the prefill work in front of the request and, when no slot is free, the decoding
of those who hold the slots. A claimed match counts with the peer's freshness and trust, or what we
infer from our own placements where that is more; the last prompt token is always computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from overlay.routing.candidate import Candidate, Query
from security.peer_id import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTerms:
    """Seconds, except ``matched_tokens``: the tokens that are counted on, after discounts.

    ``score_s`` is what the policy compared: for ``cost`` the total with what the choice costs those
    who come after (``overlay/routing/policies.py``), for the others the total.
    """

    matched_tokens: float
    queue_s: float
    rtt_s: float
    prefill_s: float
    decode_s: float
    total_s: float
    score_s: float


Costed = tuple[float, PeerId, float, float, Candidate]
"""Expected completion time, whose, seconds of prefill, those to the first token; the candidate."""


def cost_all(candidates: Iterable[Candidate], query: Query) -> list[Costed]:
    """The candidates that may run the request, in the order given.

    One loop without calls: a router of many peers spends its time here. Sorted they are cheapest
    first and equal ones by PeerId: no two have the same, so nothing behind it is ever compared.
    """
    prompt, output, tried = query.prompt_tokens, query.expected_output_tokens, query.tried
    needed, variant, beyond = query.context_tokens, query.variant, query.beyond
    limit = max(prompt - 1, 0)
    costed: list[Costed] = []
    for each in candidates:
        terms = each.view.terms
        if terms is None:
            continue
        (
            peer_id,
            fixed_s,
            output_factor_s,
            decode_s,
            prefill_s_per_token,
            claim_weight,
            trusted,
            most,
        ) = terms
        if needed > most or (tried and peer_id in tried):
            continue
        if variant is not None and each.view.variant != variant:
            continue
        if beyond and not each.view.passes_bodies:
            continue
        counted = each.matched_tokens * claim_weight
        inferred = each.inferred_tokens * trusted
        if inferred > counted:  # noqa: PLR1730 - three times faster than max()
            counted = inferred
        if counted > limit:  # noqa: PLR1730 - as above
            counted = limit
        prefill_s = prefill_s_per_token * (prompt - counted)
        total_s = fixed_s + output_factor_s * output + prefill_s
        costed.append((total_s, peer_id, prefill_s, total_s - decode_s * output, each))
    return costed


def terms_of(candidate: Candidate, query: Query, score_s: float | None = None) -> CostTerms:
    """The same sum with its parts, for ``explain`` and for candidates that may not run it too."""
    view = candidate.view
    counted = counted_tokens(candidate, query)
    prefill_s = view.prefill_s_per_token * (query.prompt_tokens - counted)
    own_decode_s = view.decode_s_per_token * query.expected_output_tokens
    all_decode_s = view.output_factor_s * query.expected_output_tokens
    total_s = view.fixed_s + all_decode_s + prefill_s
    return CostTerms(
        matched_tokens=counted,
        queue_s=view.fixed_s - view.rtt_s + all_decode_s - own_decode_s,
        rtt_s=view.rtt_s,
        prefill_s=prefill_s,
        decode_s=own_decode_s,
        total_s=total_s,
        score_s=total_s if score_s is None else score_s,
    )


def counted_tokens(candidate: Candidate, query: Query) -> float:
    """Tokens of the prompt that the candidate is counted on to have cached."""
    view = candidate.view
    claimed = candidate.matched_tokens * view.claim_weight
    inferred = candidate.inferred_tokens * view.inferred_weight
    return min(max(claimed, inferred), max(query.prompt_tokens - 1, 0))
