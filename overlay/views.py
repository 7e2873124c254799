"""What this router sees of each peer apart from any request, from all that it knows of it.

Load hints and digests' ages (``overlay/knowledge.py``), the connection's round trip, this router's
own bookings and measurements (``overlay/routing/``). A view is kept until something is noted of its
peer, and for :data:`KEPT_S` at most, since everything in it fades.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from inference.request import Capabilities, ServedModel
from overlay.knowledge import Knowledge, LoadPicture
from overlay.peers import Peers
from overlay.ports import Engine
from overlay.routing.booking import Bookings
from overlay.routing.candidate import PeerView
from overlay.routing.measured import Measured
from overlay.routing.memory import Memory
from overlay.routing.probation import Probation
from overlay.served import Advertised, advertised
from overlay.zone import ZoneRule, may_forward
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tenant import TenantId

UNHEARD_AGE_S = 3600.0
"""Age of what is known of a peer that has told nothing yet."""

STALLED_WAIT_S = 30.0
"""What a request is taken to wait at this host while its engine hangs."""

KEPT_S = 0.05
"""The shortest half-life that goes into a view is of some seconds."""

REFUSAL_S = 60.0
"""How long a peer is left out for a tenant that its engine does not serve: rosters change."""

REFUSALS_MAX = 4096

KINDS_MAX = 64
"""Pairs of tenant and model whose views are kept."""


class Views:
    """Views of this host and of the peers that are up."""

    def __init__(
        self,
        *,
        me: PeerId,
        engine: Engine,
        knowledge: Knowledge,
        peers: Peers,
        bookings: Bookings,
        measured: Measured,
        probation: Probation,
        zone: str | None,
        zone_rules: Sequence[ZoneRule],
        serves: Callable[[TenantId], bool],
        confirmed: Callable[[], bool],
        allow_variants: bool,
    ) -> None:
        self._serves = serves
        self._confirmed = confirmed
        self._allow_variants = allow_variants
        self._refusals: dict[tuple[TenantId, PeerId], float] = {}
        self._me = me
        self._engine = engine
        self._knowledge = knowledge
        self._peers = peers
        self._bookings = bookings
        self._measured = measured
        self._probation = probation
        self._zone = zone
        self._zone_rules = zone_rules
        self._told_of: Capabilities | None = None
        self._told: dict[str, Advertised] = {}
        self._served: dict[str, ServedModel] = {}
        self._kept: dict[tuple[TenantId, str], dict[PeerId, tuple[float, PeerView]]] = {}

    def of(self, tenant: TenantEpoch, model: str, memory: Memory, now_s: float) -> list[PeerView]:
        """Every member of the tenant that is up, and this host where it serves the model.

        Before this host is confirmed it does not know which of the others are revoked.
        """
        kept = self._kept_of((tenant.tenant_id, model))
        same = self.told_here().get(model)
        views = []
        for peer_id in self._peers.up() if self._confirmed() else ():
            if peer_id not in tenant.members:
                continue
            if self._refused((tenant.tenant_id, peer_id), now_s):
                continue
            until_s, view = kept.get(peer_id, (0.0, None))
            if view is None or now_s >= until_s:
                same = same or self._usual(model)
                view = self._there(peer_id, self._served_there(peer_id, model, same), memory, now_s)
                kept[peer_id] = (now_s + KEPT_S, view)
            views.append(view)
        if self.served_here(model) is not None and self._serves(tenant.tenant_id):
            views.append(self.here(model, now_s))
        return views

    def not_for(self, tenant: TenantId, peer_id: PeerId, now_s: float) -> None:
        """A peer's engine keeps no tenants apart and is another's: it is left out for a while."""
        if len(self._refusals) >= REFUSALS_MAX:
            self._refusals.clear()
        self._refusals[tenant, peer_id] = now_s + REFUSAL_S

    def _refused(self, key: tuple[TenantId, PeerId], now_s: float) -> bool:
        if key not in self._refusals:
            return False
        if now_s >= self._refusals[key]:
            del self._refusals[key]
            return False
        return True

    def _kept_of(self, kind: tuple[TenantId, str]) -> dict[PeerId, tuple[float, PeerView]]:
        if kind not in self._kept and len(self._kept) >= KINDS_MAX:
            self._kept.clear()
        return self._kept.setdefault(kind, {})

    def changed(self, peer_id: PeerId) -> None:
        """Something was noted of a peer: its views are made anew."""
        for kept in self._kept.values():
            kept.pop(peer_id, None)

    def served_here(self, name: str) -> ServedModel | None:
        """This host's own model of that name."""
        self._look()
        return self._served.get(name)

    def told_here(self) -> Mapping[str, Advertised]:
        """This host's own models as they are told to others, by name."""
        self._look()
        return self._told

    def _look(self) -> None:
        """What the engine serves is looked at anew where it says something new."""
        capabilities = self._engine.capabilities()
        if self._told_of is not capabilities:
            self._told_of = capabilities
            self._served = {model.name: model for model in reversed(capabilities.models)}
            self._told = {model.name: advertised(model) for model in capabilities.models}

    def _served_there(
        self, peer_id: PeerId, name: str, same: Advertised | None
    ) -> Advertised | None:
        """A peer's model of that name, if it is the same one as ours.

        Where there is none here it is to be the one that most peers serve: two that differ must not
        answer for one name in turn.
        """
        theirs = self._told_of_peer(peer_id, name)
        if theirs is None or same is None or theirs.variant == same.variant:
            return theirs
        return theirs if self._allow_variants and theirs.prefix == same.prefix else None

    def _told_of_peer(self, peer_id: PeerId, name: str) -> Advertised | None:
        return next((m for m in self._knowledge.models(peer_id) if m.name == name), None)

    def _usual(self, name: str) -> Advertised | None:
        """The model of that name that most peers serve; of equally many the least by its digests.

        Peers see the same records, so that two routers without an engine agree.
        """
        told = [self._told_of_peer(peer_id, name) for peer_id in self._peers.up()]
        counted = Counter(each.variant for each in told if each is not None)
        if not counted:
            return None
        usual = min(counted, key=lambda variant: (-counted[variant], variant))
        return next(each for each in told if each is not None and each.variant == usual)

    def here(self, model: str, now_s: float) -> PeerView:
        """This host, for a model that it serves."""
        load = self._engine.load()
        rates = load.prefill_tokens_per_s, load.decode_s_per_token
        self._measured.on_claim(self._me, *rates, now_s)
        told = self._told[model]
        capabilities = self._engine.capabilities()
        stalled = self._engine.stalled()
        return PeerView(
            peer_id=self._me,
            local=True,
            slots=max(1, capabilities.slots),
            running=load.running,
            queued=load.queued,
            queued_tokens=load.queued_tokens,
            prefill_tokens_per_s=self._measured.prefill_tokens_per_s(
                self._me, load.prefill_tokens_per_s, now_s
            ),
            decode_s_per_token=self._measured.decode_s_per_token(
                self._me, load.decode_s_per_token, now_s
            ),
            rtt_s=0.0,
            # Of an engine that hangs nobody knows when it goes on.
            load_freshness=0.0 if stalled else 1.0,
            observed_wait_s=STALLED_WAIT_S if stalled else 0.0,
            in_flight=self._bookings.booked(self._me, now_s).in_flight,
            context_tokens=told.context_tokens,
            variant=told.variant,
            dtype=told.dtype,
            passes_bodies=told.passes_bodies,
            estimated=told.estimated,
            standing=self._probation.standing(self._me, now_s),
        )

    def _there(
        self, peer_id: PeerId, served: Advertised | None, memory: Memory, now_s: float
    ) -> PeerView:
        picture = self._knowledge.load(peer_id)
        connection = self._peers.connection(peer_id)
        zone = None if connection is None else connection.remote.hello.zone
        rtt_s = None if connection is None else connection.rtt_s
        heard_s = now_s if connection is None else connection.last_heard_s
        if rtt_s is not None:
            self._measured.on_rtt(peer_id, rtt_s)
        booked = self._bookings.booked(peer_id, now_s)
        hint = LoadPicture(taken_s=now_s - UNHEARD_AGE_S) if picture is None else picture
        age_s = now_s - hint.taken_s
        as_of_s = self._knowledge.digest_as_of(peer_id)
        digest_age_s = UNHEARD_AGE_S if as_of_s is None else now_s - as_of_s
        return PeerView(
            peer_id=peer_id,
            local=False,
            slots=max(1, hint.slots),
            running=hint.running,
            queued=hint.queued,
            queued_tokens=hint.queued_tokens,
            prefill_tokens_per_s=self._measured.prefill_tokens_per_s(
                peer_id, hint.prefill_tokens_per_s, now_s
            ),
            decode_s_per_token=self._measured.decode_s_per_token(
                peer_id, hint.decode_s_per_token, now_s
            ),
            rtt_s=self._measured.rtt_s(peer_id),
            age_s=age_s,
            digest_age_s=digest_age_s,
            freshness=memory.freshness(digest_age_s),
            load_freshness=self._measured.load_freshness(age_s),
            trust=self._measured.trust(peer_id),
            observed_wait_s=self._measured.observed_wait_s(peer_id, now_s),
            told_wait_s=self._measured.told_wait_s(peer_id, hint.taken_s, now_s),
            booked_requests=booked.requests,
            booked_tokens=booked.queued_tokens,
            in_flight=booked.in_flight,
            zone_allowed=may_forward(self._zone_rules, self._zone, zone, rtt_s),
            capable=served is not None,
            context_tokens=0 if served is None else served.context_tokens,
            variant="" if served is None else served.variant,
            dtype="" if served is None else served.dtype,
            passes_bodies=served is not None and served.passes_bodies,
            estimated=served is not None and served.estimated,
            standing=self._probation.standing(peer_id, now_s, heard_s),
        )
