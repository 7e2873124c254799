"""A decision about one request, as the ingress carries it out, and what is expected of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from overlay.routing.candidate import Candidate, PeerView
from overlay.routing.cost import cost_all
from overlay.routing.decide import Decision
from overlay.routing.memory import Sent
from security.peer_id import PeerId


class Basis(enum.Enum):
    """By what a request is routed."""

    TOKENS = "tokens"
    TEXT = "text"
    LOAD = "load alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes, the decision behind it, and what is expected there."""

    peer_id: PeerId
    basis: Basis
    decision: Decision
    candidate: Candidate
    promised_tokens: float
    found_idle: bool
    sent: Sent

    @property
    def view(self) -> PeerView:
        """What was seen of the peer."""
        return self.candidate.view

    @property
    def rtt_s(self) -> float:
        return self.candidate.view.rtt_s

    @property
    def first_token_s(self) -> float:
        """Seconds to the first token there, as expected (``overlay/routing/cost.py``)."""
        view, sent = self.candidate.view, self.sent
        start_s = view.start_s(self.decision.query.expected_output_tokens)
        return start_s + view.prefill_s_per_token * (sent.prompt_tokens - sent.counted_tokens)

    def is_late(self, start_s: float, cached_tokens: int) -> bool:
        """Whether the peer, by what it says on accepting, is later than was expected and than here.

        What was known of it was old, then: others have sent it requests, or it has evicted the
        prefix. It is one hop that this costs, as of any false claim, since this host runs the
        request next. Where it cannot, there is no telling what would come, and nobody is late.

        Args:
            start_s: Seconds until it expects to start on the request.
            cached_tokens: Tokens of the prompt that it has cached.
        """
        decision, view = self.decision, self.view
        if decision.surprise is None:
            return False
        here = cost_all([each for each in decision.candidates if each.local], decision.query)
        if not here:
            return False
        # The way there is behind it.
        uncached = max(1, self.sent.prompt_tokens - cached_tokens)
        first_s = start_s + view.prefill_s_per_token * uncached
        done_s = first_s + view.decode_s_per_token * decision.query.expected_output_tokens
        if first_s <= self.first_token_s:
            return False  # as was expected when it was chosen
        return decision.surprise.is_late(first_s, done_s, here[0])
