"""Where a request should run: gathers what is known, and asks the pure ``decide``.

What is known comes from three places: digests and load hints of the other peers
(``overlay/knowledge.py``), this router's own bookings and measurements (``overlay/routing/``), and
the connections that are up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from inference.events import BlockHash
from inference.request import BLOCK_TOKENS
from overlay.errors import RequestError
from overlay.knowledge import Knowledge
from overlay.peers import Peers
from overlay.ports import Clock, Engine, Entropy
from overlay.request import Usage
from overlay.route import Basis, Route
from overlay.routing.booking import BookingId, Bookings
from overlay.routing.candidate import Exclusion, PeerView, Query, candidates_of
from overlay.routing.cost import cost_all
from overlay.routing.decide import Decision, decide
from overlay.routing.expected_output import ExpectedOutput
from overlay.routing.measured import FirstToken, Measured
from overlay.routing.memory import Memory, Recall
from overlay.routing.policies import Policy, Reason
from overlay.routing.probation import Probation
from overlay.routing.ring import EMPTY_RING, Ring
from overlay.served import Advertised
from overlay.tenants import TenantBook
from overlay.transport.connection import Connection
from overlay.views import Views
from overlay.work import Work, request_error
from overlay.zone import ZoneRule
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tenant import TenantId

CHARS_PER_TOKEN = 4
"""Guess of a prompt's length where it cannot be tokenised here."""

NOT_ISOLATED = (
    "this host's engine cannot keep tenants apart and serves another one (--engine-tenant, "
    "--engine-shared-by-tenants), and no other peer can run this request at present"
)

MEMORIES_MAX = 32
"""Pairs of tenant and model whose prompts are remembered, the last used ones; 4 MB each at most."""


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
        serves: Callable[[TenantId], bool],
        confirmed: Callable[[], bool] = lambda: True,
        allow_variants: bool = False,
    ) -> None:
        self._serves = serves
        self._me = me
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._tenants = tenants
        self._knowledge = knowledge
        self._peers = peers
        self.policy = policy
        self.bookings = Bookings()
        self.measured = Measured()
        self.probation = Probation()
        self._views = Views(
            me=me,
            engine=engine,
            knowledge=knowledge,
            peers=peers,
            bookings=self.bookings,
            measured=self.measured,
            probation=self.probation,
            zone=zone,
            zone_rules=zone_rules,
            serves=serves,
            confirmed=confirmed,
            allow_variants=allow_variants,
        )
        self._expected = ExpectedOutput()
        self._memories: OrderedDict[tuple[TenantId, str], Memory] = OrderedDict()
        self._generations: dict[PeerId, int] = {}
        self._ring_slots: tuple[tuple[PeerId, int], ...] = ()
        self._ring = EMPTY_RING
        self._turn = 0

    # -- what can run where

    def models(self) -> dict[str, Advertised]:
        """Every model that this peer or one that is up serves, by name; ours wins."""
        return self._told(self._views.told_here(), self._peers.up())

    def models_for(self, tenant: TenantEpoch | None) -> dict[str, Advertised]:
        """Those of this peer and of a tenant's members that are up; nobody's for None."""
        members = () if tenant is None else tenant.members
        own = self._views.told_here() if tenant is not None else {}
        return self._told(own, [each for each in self._peers.up() if each in members])

    def _told(
        self, own: Mapping[str, Advertised], peers: Sequence[PeerId]
    ) -> dict[str, Advertised]:
        found = dict(own)
        for peer_id in peers:
            for model in self._knowledge.models(peer_id):
                found.setdefault(model.name, model)
        return found

    def model_of(self, asked: str, tenant: TenantEpoch) -> Advertised:
        """The model that a request means.

        An empty name means the only one of this host's engine, whatever others tell, so that
        nobody's word makes it unclear here; without an engine it means the only one of the
        tenant's members that are up.

        Raises:
            RequestError: When no member that is up serves it.
        """
        own = self._views.told_here()
        if not asked and len(own) == 1:
            return next(iter(own.values()))
        models = self.models_for(tenant)
        if asked in models:
            return models[asked]
        names = sorted(models)
        if not asked and len(names) == 1:
            return models[names[0]]
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
        """Whether this host's own engine serves the model, and the tenant."""
        return self._views.served_here(work.model) is not None and self._serves(work.tenant)

    def passes_bodies(self, model: str) -> bool:
        """Whether any engine of that model is given whole bodies, or was of late."""
        return self._knowledge.passes_bodies(model)

    def basis(self, work: Work) -> Basis:
        """What of a prompt can be compared with what caches hold."""
        served = self._views.served_here(work.model)
        if served is None or not work.token_ids:
            return Basis.LOAD
        return Basis.TEXT if served.by_text else Basis.TOKENS

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
        variant: str | None = None,
    ) -> Route:
        """Decides where ``work`` runs next.

        Args:
            work: The request.
            tenant: Its tenant.
            excluded: Peers that it has failed at.
            prefer_here: After a failure: this host, where it serves the model.
            variant: Of the peer that the answer began at; no other may go on with it.

        Raises:
            RequestError: When no peer can run it.
        """
        now_s = self._clock.now_s()
        hashes = self._hashes(work, tenant)
        memory = self._memory(work)
        recall = memory.recall(hashes, now_s)
        matched = self._matches(tenant, hashes)
        views = self._views.of(tenant, work.model, memory, now_s)
        held = {peer_id: blocks * BLOCK_TOKENS for peer_id, blocks in matched.items()}
        query = self._query(work, recall, views, excluded, variant)
        # Of this host's own cache we know, so nothing is inferred.
        inferred = {each: t for each, t in recall.inferred_tokens.items() if each != self._me}
        candidates = candidates_of(views, held, inferred)
        decision = decide(query, candidates, self.policy, self._entropy.rng)
        if decision.chosen is None and work.emitted and work.sampling.max_tokens is None:
            # An engine whose context is full with what was answered already says that it has ended.
            query = replace(query, context_tokens=self._tokens_at_least(work) + 1)
            decision = decide(query, candidates, self.policy, self._entropy.rng)
        chosen = decision.chosen
        if chosen is None:
            raise self._nobody(work, decision)
        if prefer_here and self._me in decision.ordered:
            chosen = self._me
        candidate = next(c for c in decision.candidates if c.peer_id == chosen)
        view = candidate.view
        return Route(
            peer_id=chosen,
            basis=self.basis(work),
            decision=decision,
            candidate=candidate,
            promised_tokens=candidate.matched_tokens * view.freshness,
            found_idle=view.load == 0,
            sent=memory.sent(recall, decision, chosen, now_s),
        )

    def runs_elsewhere(
        self,
        work: Work,
        tenant: TenantEpoch,
        excluded: frozenset[PeerId],
        variant: str | None,
    ) -> bool:
        """Whether any other peer could run ``work``; arguments as of :meth:`route`."""
        views = self._views.of(tenant, work.model, self._memory(work), self._clock.now_s())
        query = Query(
            prompt_tokens=0,
            expected_output_tokens=0,
            tried=excluded | {self._me},
            context_tokens=self._context_needed(work),
            variant=variant,
            beyond=work.beyond,
        )
        return bool(cost_all(candidates_of(views, {}, {}), query))

    def _nobody(self, work: Work, decision: Decision) -> RequestError:
        """Why no peer can run it: too long for all that could, or none is there."""
        excluded = decision.excluded
        contexts = [
            each.view.context_tokens
            for each in decision.candidates
            if excluded.get(each.peer_id) is Exclusion.CONTEXT
        ]
        prompt, most = self._tokens_at_least(work), max(contexts, default=0)
        if contexts and prompt + (work.sampling.max_tokens or 1) > most:
            return request_error(
                "context_length_exceeded",
                f"prompt and answer exceed the context of {most} tokens",
                param="max_tokens" if prompt < most else "prompt",
            )
        if self._views.served_here(work.model) is not None and not self._serves(work.tenant):
            return request_error("no_capable_peer", NOT_ISOLATED)
        return request_error("no_capable_peer", "no peer can run this request at present")

    def _context_needed(self, work: Work) -> int:
        """The context that a peer must have, in tokens, to give the whole answer.

        Without ``max_tokens`` an answer may go on to the end of the context that this host's own
        model has. Where it has none it promises none: then each peer's own context ends an answer.
        """
        prompt = self._tokens_at_least(work)
        if work.sampling.max_tokens is not None:
            return prompt + work.sampling.max_tokens
        ours = self._views.told_here().get(work.model)
        least = prompt + len(work.emitted) + 1
        return least if ours is None else max(ours.context_tokens, least)

    def _tokens_at_least(self, work: Work) -> int:
        """Tokens of the prompt; where they are not known, one: a guess rules nobody out."""
        return len(work.token_ids or ()) if self.basis(work) is Basis.TOKENS else 1

    def _memory(self, work: Work) -> Memory:
        key = (work.tenant, work.model)
        memory = self._memories.pop(key, None) or Memory()
        self._memories[key] = memory
        if len(self._memories) > MEMORIES_MAX:
            self._memories.popitem(last=False)
        return memory

    def expected_start_s(self, work: Work) -> float:
        """Seconds until this host's engine would start on ``work`` if it came now."""
        if self._views.served_here(work.model) is None:
            return 0.0
        expected = self._expected.expect(work.tenant, work.model, work.sampling.max_tokens)
        return self._views.here(work.model, self._clock.now_s()).start_s(expected)

    def expected_cached_tokens(self, tenant: TenantEpoch, work: Work) -> int:
        """Prompt tokens of ``work`` that this host's cache holds now."""
        return self._knowledge.match_here(tenant, self._hashes(work, tenant)) * BLOCK_TOKENS

    def _hashes(self, work: Work, tenant: TenantEpoch) -> Sequence[BlockHash]:
        model = self._views.served_here(work.model)
        if not work.token_ids or model is None:
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
        recall: Recall,
        views: Sequence[PeerView],
        excluded: frozenset[PeerId],
        variant: str | None,
    ) -> Query:
        self._turn += 1
        tokens = len(work.token_ids) if work.token_ids else len(work.body) // CHARS_PER_TOKEN
        slots = tuple(sorted((view.peer_id, view.slots) for view in views if view.capable))
        if self._ring_slots != slots:
            self._ring_slots, self._ring = slots, Ring(dict(slots))
        expected = self._expected.expect(work.tenant, work.model, work.sampling.max_tokens)
        return Query(
            prompt_tokens=tokens,
            expected_output_tokens=max(0.0, expected - len(work.emitted)),
            place=recall.place,
            ring=self._ring,
            turn=self._turn,
            tried=excluded,
            home_share=recall.home_share,
            context_tokens=self._context_needed(work),
            variant=variant,
            beyond=work.beyond,
        )

    # -- what came true

    def began(self, route: Route, now_s: float) -> BookingId:
        """A request is being sent there."""
        uncached = max(0.0, route.sent.prompt_tokens - route.sent.counted_tokens)
        self.probation.on_sent(route.peer_id, now_s)
        self._views.changed(route.peer_id)
        return self.bookings.begin(route.peer_id, uncached_tokens=uncached, now_s=now_s)

    def first_token(
        self,
        work: Work,
        route: Route,
        booking: BookingId,
        *,
        elapsed_s: float,
        start_s: float,
        cached: int,
    ) -> None:
        """Its first token came ``elapsed_s`` after it was sent."""
        now_s = self._clock.now_s()
        self.bookings.first_token(booking, now_s)
        self._memory(work).found(route.sent, cached)
        self.probation.on_success(route.peer_id)
        seen = FirstToken(
            elapsed_s=elapsed_s,
            start_s=start_s,
            prompt_tokens=route.sent.prompt_tokens,
            promised_tokens=route.promised_tokens,
            reported_tokens=cached,
            found_idle=route.found_idle,
        )
        self.measured.on_first_token(route.peer_id, seen, now_s)
        self._views.changed(route.peer_id)

    def answered_whole(self, work: Work, route: Route, booking: BookingId, cached: int) -> None:
        """Its answer came in one piece: when the first token was made is not known."""
        self.bookings.first_token(booking, self._clock.now_s())
        self._memory(work).found(route.sent, cached)
        self.probation.on_success(route.peer_id)
        self._views.changed(route.peer_id)

    def not_for(self, work: Work, peer_id: PeerId) -> None:
        """A peer says that its engine does not serve the tenant, as it cannot isolate it."""
        self._views.not_for(work.tenant, peer_id, self._clock.now_s())

    def finished(
        self, work: Work, route: Route, usage: Usage, *, tokens: int, decode_s: float
    ) -> None:
        """It ended well: ``tokens`` after the first took ``decode_s``."""
        self.probation.on_success(route.peer_id)
        self._expected.observe(work.tenant, work.model, usage.completion_tokens)
        self.measured.on_decoded(route.peer_id, tokens, decode_s, self._clock.now_s())

    def was_late(self, work: Work, route: Route, *, start_s: float, cached: int) -> None:
        """It accepted, and said that it would start after ``start_s``: the request was taken back.

        What it has cached was said as well, and what was to be cached there will not be.
        """
        now_s = self._clock.now_s()
        self._memory(work).taken_back(route.peer_id, route.sent, cached)
        self.measured.on_late(
            route.peer_id,
            start_s=start_s,
            promised_tokens=route.promised_tokens,
            reported_tokens=cached,
            now_s=now_s,
        )
        self._views.changed(route.peer_id)

    def failed(self, peer_id: PeerId, now_s: float) -> None:
        """It fell silent or broke."""
        if peer_id != self._me:
            self.probation.on_failure(peer_id, now_s)
            self._views.changed(peer_id)

    def ended(self, route: Route, booking: BookingId, now_s: float) -> None:
        """It is over, whatever became of it."""
        self.bookings.end(booking, now_s)
        if route.decision.reason is Reason.PROBE:
            self.probation.on_unfinished(route.peer_id)
        self._views.changed(route.peer_id)

    def on_load(self, peer_id: PeerId, taken_s: float) -> None:
        """A load hint came in."""
        self.bookings.on_hint(peer_id, taken_s)
        self._views.changed(peer_id)
        hint = self._knowledge.load(peer_id)
        if hint is not None:
            rates = hint.prefill_tokens_per_s, hint.decode_s_per_token
            self.measured.on_claim(peer_id, *rates, taken_s)

    def on_up(self, peer_id: PeerId, generation: int) -> None:
        """A peer connected; a new generation of it has an empty cache."""
        if self._generations.get(peer_id, generation) != generation:
            for memory in self._memories.values():
                memory.forget(peer_id)
        self._generations[peer_id] = generation
        self.probation.on_sign_of_life(peer_id, self._clock.now_s())
        self._views.changed(peer_id)

    def on_forgotten(self, peer_id: PeerId) -> None:
        """It has been silent for so long that its record is forgotten."""
        self.measured.forget(peer_id)
        self.probation.forget(peer_id)
        self.bookings.forget(peer_id)
        self._generations.pop(peer_id, None)
        for memory in self._memories.values():
            memory.forget(peer_id)
        self._views.changed(peer_id)

    def on_down(self, peer_id: PeerId) -> None:
        """A peer's connection ended."""
        self.bookings.forget(peer_id)
        self._views.changed(peer_id)
