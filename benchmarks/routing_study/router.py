"""One peer's router in the simulation: real ``overlay.routing``, fed with what it would know."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from benchmarks.routing_study.engine import (
    DECODE_S_PER_TOKEN,
    PREFILL_TOKENS_PER_S,
    Engine,
    Job,
)
from benchmarks.routing_study.workloads import Expanded
from overlay.routing import (
    BookingId,
    Bookings,
    Decision,
    ExpectedOutput,
    FirstToken,
    Measured,
    PeerView,
    Places,
    Policy,
    Query,
    Ring,
    candidates_of,
    decide,
    freshness,
)
from security.peer_id import PeerId
from security.tenant import TenantId

TENANT = TenantId("0" * 32)
MODEL = "toy"
DIGEST_HALF_LIFE_S = 60.0
HOME_FLOOR = 0.0
HOME_W = 0.02
LOAD_HL = 2.0
from overlay.routing.placements import Placements
from overlay.routing.survival import Survival
from overlay.routing.policies import place_of
from overlay.routing.cost import counted_tokens
def place_home(query, decision):
    return place_of(query, [(0, c.peer_id, c) for c in decision.candidates])
LOAD_HALF_LIFE_S = 2.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A peer's load as its last bundle had it."""

    taken_s: float
    running: int
    queued: int
    queued_tokens: float


NO_REPORT = LoadReport(float("-inf"), 0, 0, 0.0)


@dataclass(slots=True)
class Router:
    """Decides for the clients of one peer."""

    me: int
    peers: tuple[PeerId, ...]
    slots: int
    ring: Ring
    policy: Policy
    rng: random.Random
    delay_s: float
    block_tokens: int
    bookings: Bookings = field(default_factory=Bookings)
    measured: Measured = field(default_factory=Measured)
    places: Places = field(default_factory=Places)
    outputs: ExpectedOutput = field(default_factory=ExpectedOutput)
    placements: Placements = field(default_factory=Placements)
    digest_survival: Survival = field(default_factory=Survival)
    placed_survival: Survival = field(default_factory=lambda: Survival(20.0))
    home_share: float = 0.5
    reports: list[LoadReport] = field(default_factory=list)
    turn: int = 0

    def __post_init__(self) -> None:
        self.reports = [NO_REPORT] * len(self.peers)
        for number, peer_id in enumerate(self.peers):
            self.measured.on_rtt(peer_id, 0.0 if number == self.me else 2 * self.delay_s)

    def on_report(self, number: int, report: LoadReport) -> None:
        """A bundle's load hint came in."""
        self.reports[number] = report
        self.bookings.on_hint(self.peers[number], report.taken_s)

    def route(self, job: Job, matched: list[int], engine: Engine, now_s: float) -> Decision:
        """Decides where ``job`` runs and books it there.

        Args:
            job: The request.
            matched: Tokens that each peer is said to hold; ours is replaced by what is so.
            engine: This host's own.
            now_s: Virtual time.
        """
        hashes = Expanded(job.hashes, self.block_tokens)
        self.places.observe(hashes)
        load = LoadReport(
            now_s, len(engine.running), len(engine.waiting), engine.queued_tokens(now_s)
        )
        self.on_report(self.me, load)
        views = [self.view(number, now_s) for number in range(len(self.peers))]
        held = {self.peers[n]: tokens for n, tokens in enumerate(matched) if tokens}
        held[self.peers[self.me]] = engine.matched_tokens(job.hashes)
        placed = {
            peer_id: each
            for peer_id, each in self.placements.lookup(hashes, now_s).items()
            if peer_id != self.peers[self.me]
        }
        inferred = {
            peer_id: each.tokens * self.placed_survival.expect(each.age_s)
            for peer_id, each in placed.items()
        }
        query = Query(
            home_share=max(HOME_FLOOR, self.home_share),
            prompt_tokens=job.prompt_tokens,
            expected_output_tokens=self.outputs.expect(TENANT, MODEL, None),
            place=self.places.key(hashes),
            ring=self.ring,
            turn=self.turn,
        )
        self.turn += 1
        decision = decide(query, candidates_of(views, held, inferred), self.policy, self.rng)
        self._book(job, decision, now_s)
        chosen = decision.candidate
        job.placed = placed.get(chosen.peer_id)
        job.digest_age = max(0.0, now_s - self.reports[job.served_by].taken_s)
        job.claim = chosen.matched_tokens
        job.at_home = chosen.peer_id == place_home(query, decision)
        job.counted = counted_tokens(chosen, query)
        self.placements.record(chosen.peer_id, hashes, now_s)
        return decision

    def _book(self, job: Job, decision: Decision, now_s: float) -> None:
        chosen = decision.candidate
        assert chosen is not None
        job.promised_tokens = chosen.matched_tokens * chosen.view.freshness
        job.found_idle = chosen.view.load == 0
        job.sent_s = now_s
        uncached = job.prompt_tokens - min(job.promised_tokens, job.prompt_tokens - 1)
        job.booking = self.bookings.begin(chosen.peer_id, uncached_tokens=uncached, now_s=now_s)
        job.served_by = self.peers.index(chosen.peer_id)

    def service(self):
        s = self.measured.service
        return (s.value if s else 0.5) + self.outputs.expect(TENANT, MODEL, None) * DECODE_S_PER_TOKEN

    def view(self, number: int, now_s: float) -> PeerView:
        """What this router knows of one peer."""
        peer_id = self.peers[number]
        report, here = self.reports[number], number == self.me
        booked = self.bookings.booked(peer_id, now_s)
        age_s = now_s - report.taken_s
        return PeerView(
            peer_id=peer_id,
            local=here,
            slots=self.slots,
            running=report.running,
            queued=report.queued,
            queued_tokens=report.queued_tokens,
            prefill_tokens_per_s=self.measured.prefill_tokens_per_s(
                peer_id, PREFILL_TOKENS_PER_S, now_s
            ),
            decode_s_per_token=self.measured.decode_s_per_token(
                peer_id, DECODE_S_PER_TOKEN, now_s
            ),
            rtt_s=self.measured.rtt_s(peer_id),
            freshness=1.0 if here else self.digest_survival.expect(max(0.0, age_s)) if age_s < 1e9 else 0.0,
            load_freshness=1.0 if here else freshness(age_s, LOAD_HL * self.service()), load_age_s=0.0 if here else max(0,min(age_s,1e9)),
            trust=self.measured.trust(peer_id),
            observed_wait_s=0.0 if here else self.measured.observed_wait_s(peer_id, now_s),
            booked_requests=0 if here else booked.requests,
            booked_tokens=0.0 if here else booked.queued_tokens,
            in_flight=0 if here else booked.in_flight,
        )

    def first_token(self, job: Job, now_s: float) -> None:
        """The client got its first token."""
        if job.served_by != self.me:
            if job.placed is not None:
                self.placed_survival.observe(job.placed.age_s, job.cached_tokens / job.placed.tokens)
            if job.claim:
                self.digest_survival.observe(job.digest_age, job.cached_tokens / job.claim)
            if job.at_home:
                left = job.prompt_tokens - job.counted
                self.home_share += HOME_W * (max(0, job.cached_tokens - job.counted) / left - self.home_share)
        self.bookings.first_token(BookingId(job.booking), now_s)
        seen = FirstToken(
            elapsed_s=now_s - job.sent_s,
            start_s=job.expected_start_s,
            prompt_tokens=job.prompt_tokens,
            promised_tokens=job.promised_tokens,
            reported_tokens=job.cached_tokens,
            found_idle=job.found_idle,
        )
        self.measured.on_first_token(self.peers[job.served_by], seen, now_s)

    def finished(self, job: Job, decode_s: float, now_s: float) -> None:
        """The client has the whole answer."""
        self.bookings.end(BookingId(job.booking), now_s)
        self.outputs.observe(TENANT, MODEL, job.output_tokens)
        self.measured.on_decoded(self.peers[job.served_by], job.output_tokens, decode_s, now_s)
