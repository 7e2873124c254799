"""Where a request should run: gathers what is known, and asks the pure ``decide``.

What is known comes from three places: digests and load hints of the other peers
(``overlay/knowledge.py``), this router's own bookings and measurements (``overlay/routing/``), and
the connections that are up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.events import BlockHash
from inference.request import BLOCK_TOKENS, ServedModel
from overlay.knowledge import Knowledge, LoadPicture
from overlay.peers import Peers
from overlay.ports import Clock, Engine, Entropy
from overlay.request import Usage
from overlay.routing.booking import BookingId, Bookings
from overlay.routing.candidate import Candidate, PeerView, Query, freshness
from overlay.routing.decide import Decision, decide
from overlay.routing.expected_output import ExpectedOutput
from overlay.routing.measured import FirstToken, Measured
from overlay.routing.place import Places
from overlay.routing.policies import Policy, Reason
from overlay.routing.probation import Probation
from overlay.routing.ring import EMPTY_RING, Ring
from overlay.served import Advertised, advertised
from overlay.tenants import TenantBook
from overlay.transport.connection import Connection
from overlay.work import Work, request_error
from overlay.zone import ZoneRule, may_forward
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tenant import TenantId

DIGEST_HALF_LIFE_S = 60.0
"""Cached prefixes stay for minutes; news of them fades slowly."""

LOAD_HALF_LIFE_S = 4.0
"""Queues change within seconds."""

CHARS_PER_TOKEN = 4
"""Guess of a prompt's length where it cannot be tokenised here."""

PLACES_MAX = 4096
"""Pairs of tenant and model whose common prefixes are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes, and the decision behind it."""

    peer_id: PeerId
    decision: Decision
    rtt_s: float
    prompt_tokens: int | None
    matched_tokens: int
    promised_tokens: float
    found_idle: bool


class Router:
    """This peer's router: decides, books, and learns from what came true."""

    def __init__(
        self,
        *,
        me: PeerId,
        clock: Clock,
        entropy: Entropy,
        engine: Engine,
        tenants: TenantBook,
        knowledge: Knowledge,
        peers: Peers,
        policy: Policy,
        zone: str | None,
        zone_rules: Sequence[ZoneRule],
    ) -> None:
        self._me = me
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._tenants = tenants
        self._knowledge = knowledge
        self._peers = peers
        self.policy = policy
        self._zone = zone
        self._zone_rules = zone_rules
        self.bookings = Bookings()
        self.measured = Measured()
        self.probation = Probation()
        self._expected = ExpectedOutput()
        self._places: dict[tuple[TenantId, str], Places] = {}
        self._ring_slots: tuple[tuple[PeerId, int], ...] = ()
        self._ring = EMPTY_RING
        self._turn = 0

    # -- what can run where

    def models(self) -> dict[str, Advertised]:
        """Every model that this peer or one that is up serves, by name; ours wins."""
        found = {model.name: advertised(model) for model in self._engine.capabilities().models}
        for peer_id in self._peers.up():
            for model in self._knowledge.models(peer_id):
                found.setdefault(model.name, model)
        return found

    def model_name(self, asked: str) -> str:
        """The model that a request means; an empty name means the only one that is served.

        Raises:
            RequestError: When no peer that is up serves it.
        """
        names = sorted(self.models())
        if asked in names:
            return asked
        if not asked and len(names) == 1:
            return names[0]
        if not names:
            raise request_error("no_capable_peer", "no peer that is up serves any model")
        served = ", ".join(names)
        if not asked:
            raise request_error(
                "invalid_request", f"name one of the models served: {served}", param="model"
            )
        raise request_error(
            "model_not_found", f"that model is not served here; served are: {served}", param="model"
        )

    def serves_here(self, work: Work) -> bool:
        """Whether this host's own engine serves the model."""
        return self._served_here(work.model) is not None

    def _served_here(self, name: str) -> ServedModel | None:
        models = self._engine.capabilities().models
        return next((model for model in models if model.name == name), None)

    def _serves_alike(self, peer_id: PeerId, name: str) -> bool:
        """Whether a peer serves that model, and where it is served here too, the same one."""
        theirs = next((m for m in self._knowledge.models(peer_id) if m.name == name), None)
        ours = self._served_here(name)
        if theirs is None or ours is None:
            return theirs is not None
        own = advertised(ours)
        return (theirs.prefix, theirs.weights) == (own.prefix, own.weights)

    def connection(self, peer_id: PeerId) -> Connection | None:
        """The connection to a peer that is up."""
        return self._peers.connection(peer_id)

    # -- deciding

    def route(
        self,
        work: Work,
        tenant: TenantEpoch,
        *,
        excluded: frozenset[PeerId],
        prefer_here: bool,
    ) -> Route:
        """Decides where ``work`` runs next.

        Args:
            work: The request.
            tenant: Its tenant.
            excluded: Peers that it has failed at.
            prefer_here: After a failure: this host, where it serves the model.

        Raises:
            RequestError: When no peer can run it.
        """
        now_s = self._clock.now_s()
        hashes = self._hashes(work, tenant)
        matched = self._matches(tenant, hashes)
        views = self._views(work, tenant, now_s)
        held = {peer_id: blocks * BLOCK_TOKENS for peer_id, blocks in matched.items()}
        candidates = [Candidate(view, held.get(view.peer_id, 0)) for view in views]
        query = self._query(work, hashes, views, excluded)
        decision = decide(query, candidates, self.policy, self._entropy.rng)
        chosen = decision.chosen
        if chosen is None:
            raise request_error("no_capable_peer", "no peer can run this request at present")
        if prefer_here and self._me in decision.ordered:
            chosen = self._me
        return self._route_of(chosen, decision, work)

    def _route_of(self, chosen: PeerId, decision: Decision, work: Work) -> Route:
        candidate = next(c for c in decision.candidates if c.peer_id == chosen)
        view = candidate.view
        return Route(
            peer_id=chosen,
            decision=decision,
            rtt_s=view.rtt_s,
            prompt_tokens=None if work.token_ids is None else len(work.token_ids),
            matched_tokens=candidate.matched_tokens,
            promised_tokens=candidate.matched_tokens * view.claim_weight,
            found_idle=view.load == 0,
        )

    def expected_cached_tokens(self, tenant: TenantEpoch, work: Work) -> int:
        """Prompt tokens of ``work`` that this host's cache holds now."""
        return self._knowledge.match_here(tenant, self._hashes(work, tenant)) * BLOCK_TOKENS

    def _hashes(self, work: Work, tenant: TenantEpoch) -> Sequence[BlockHash]:
        model = self._served_here(work.model)
        if work.token_ids is None or model is None:
            return ()
        return self._tenants.chain(tenant, model.prefix).hashes(work.token_ids)

    def _matches(self, tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> Mapping[PeerId, int]:
        if not hashes:
            return {}
        found = self._knowledge.lookup(tenant, hashes)
        found[self._me] = self._knowledge.match_here(tenant, hashes)
        return found

    def _query(
        self,
        work: Work,
        hashes: Sequence[BlockHash],
        views: Sequence[PeerView],
        excluded: frozenset[PeerId],
    ) -> Query:
        self._turn += 1
        tokens = (
            len(work.body) // CHARS_PER_TOKEN if work.token_ids is None else len(work.token_ids)
        )
        slots = tuple(sorted((view.peer_id, view.slots) for view in views if view.capable))
        if self._ring_slots != slots:
            self._ring_slots, self._ring = slots, Ring(dict(slots))
        expected = self._expected.expect(work.tenant, work.model, work.sampling.max_tokens)
        return Query(
            prompt_tokens=tokens,
            expected_output_tokens=max(0.0, expected - len(work.emitted)),
            place=self._place(work, hashes),
            ring=self._ring,
            turn=self._turn,
            tried=excluded,
        )

    def _place(self, work: Work, hashes: Sequence[BlockHash]) -> bytes:
        key = (work.tenant, work.model)
        places = self._places.get(key)
        if places is None:
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            places = self._places[key] = Places()
        places.observe(hashes)
        return places.key(hashes)

    # -- views

    def _views(self, work: Work, tenant: TenantEpoch, now_s: float) -> list[PeerView]:
        views = [
            self._view_there(peer_id, work.model, now_s)
            for peer_id in self._peers.up()
            if peer_id in tenant.members
        ]
        if self.serves_here(work):
            views.append(self._view_here(now_s))
        return views

    def _view_here(self, now_s: float) -> PeerView:
        load = self._engine.load()
        capabilities = self._engine.capabilities()
        return PeerView(
            peer_id=self._me,
            local=True,
            slots=max(1, capabilities.slots),
            running=load.running,
            queued=load.queued,
            queued_tokens=load.queued_tokens,
            prefill_tokens_per_s=self.measured.prefill_tokens_per_s(
                self._me, load.prefill_tokens_per_s, now_s
            ),
            decode_s_per_token=self.measured.decode_s_per_token(
                self._me, load.decode_s_per_token, now_s
            ),
            rtt_s=0.0,
            standing=self.probation.standing(self._me, now_s),
        )

    def _view_there(self, peer_id: PeerId, model: str, now_s: float) -> PeerView:
        picture = self._knowledge.load(peer_id)
        connection = self._peers.connection(peer_id)
        zone = None if connection is None else connection.remote.hello.zone
        rtt_s = None if connection is None else connection.rtt_s
        if rtt_s is not None:
            self.measured.on_rtt(peer_id, rtt_s)
        booked = self.bookings.booked(peer_id, now_s)
        hint = LoadPicture(taken_s=now_s) if picture is None else picture
        age_s = now_s - hint.taken_s
        return PeerView(
            peer_id=peer_id,
            local=False,
            slots=max(1, hint.slots),
            running=hint.running,
            queued=hint.queued,
            queued_tokens=hint.queued_tokens,
            prefill_tokens_per_s=self.measured.prefill_tokens_per_s(
                peer_id, hint.prefill_tokens_per_s, now_s
            ),
            decode_s_per_token=self.measured.decode_s_per_token(
                peer_id, hint.decode_s_per_token, now_s
            ),
            rtt_s=self.measured.rtt_s(peer_id),
            freshness=freshness(age_s, DIGEST_HALF_LIFE_S),
            load_freshness=freshness(age_s, LOAD_HALF_LIFE_S),
            trust=self.measured.trust(peer_id),
            observed_wait_s=self.measured.observed_wait_s(peer_id, now_s),
            booked_requests=booked.requests,
            booked_tokens=booked.queued_tokens,
            in_flight=booked.in_flight,
            zone_allowed=may_forward(self._zone_rules, self._zone, zone, rtt_s),
            capable=self._serves_alike(peer_id, model),
            standing=self.probation.standing(peer_id, now_s),
        )

    # -- what came true

    def began(self, route: Route, now_s: float) -> BookingId:
        """A request is being sent there."""
        prompt_tokens = route.decision.query.prompt_tokens
        uncached = max(0.0, prompt_tokens - route.promised_tokens)
        self.probation.on_sent(route.peer_id, now_s)
        return self.bookings.begin(route.peer_id, uncached_tokens=uncached, now_s=now_s)

    def first_token(
        self, route: Route, booking: BookingId, *, elapsed_s: float, start_s: float, cached: int
    ) -> None:
        """Its first token came ``elapsed_s`` after it was sent."""
        now_s = self._clock.now_s()
        self.bookings.first_token(booking, now_s)
        self.probation.on_success(route.peer_id)
        seen = FirstToken(
            elapsed_s=elapsed_s,
            start_s=start_s,
            prompt_tokens=route.decision.query.prompt_tokens,
            promised_tokens=route.promised_tokens,
            reported_tokens=cached,
            found_idle=route.found_idle,
        )
        self.measured.on_first_token(route.peer_id, seen, now_s)

    def finished(
        self, work: Work, route: Route, usage: Usage, *, tokens: int, decode_s: float
    ) -> None:
        """It ended well: ``tokens`` after the first took ``decode_s``."""
        self.probation.on_success(route.peer_id)
        self._expected.observe(work.tenant, work.model, usage.completion_tokens)
        self.measured.on_decoded(route.peer_id, tokens, decode_s, self._clock.now_s())

    def failed(self, peer_id: PeerId, now_s: float) -> None:
        """It fell silent or broke."""
        if peer_id != self._me:
            self.probation.on_failure(peer_id, now_s)

    def ended(self, route: Route, booking: BookingId, now_s: float) -> None:
        """It is over, whatever became of it."""
        self.bookings.end(booking, now_s)
        self.probation.on_unfinished(route.peer_id)

    def on_load(self, peer_id: PeerId, taken_s: float) -> None:
        """A load hint came in."""
        self.bookings.on_hint(peer_id, taken_s)

    def on_up(self, peer_id: PeerId) -> None:
        """A peer connected."""
        self.probation.on_sign_of_life(peer_id, self._clock.now_s())

    def on_down(self, peer_id: PeerId) -> None:
        """A peer's connection ended."""
        self.bookings.forget(peer_id)


def was_probe(route: Route) -> bool:
    """Whether the request was given to a suspected peer to see whether it is back."""
    return route.decision.reason is Reason.PROBE
