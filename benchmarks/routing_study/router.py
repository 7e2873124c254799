"""One peer's router in the simulation: real ``overlay.routing``, fed with what it would know."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.routing_study.engine import COSTS, Engine, Job
from benchmarks.routing_study.knowledge import TENANT, LoadReport
from benchmarks.routing_study.workloads import Expanded
from overlay.routing import (
    BookingId,
    Bookings,
    Decision,
    ExpectedOutput,
    FirstToken,
    Measured,
    Memory,
    PeerView,
    Policy,
    Query,
    Ring,
    candidates_of,
    decide,
)
from security.peer_id import PeerId

MODEL = COSTS.model
NO_REPORT = LoadReport(float("-inf"), 0, 0, 0.0)


@dataclass(slots=True)
class Router:
    """Decides for the clients of one peer. ``me`` is that peer's number."""

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
    memory: Memory = field(default_factory=Memory)
    outputs: ExpectedOutput = field(default_factory=ExpectedOutput)
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

    def route(
        self, job: Job, claimed: Mapping[PeerId, int], engine: Engine, now_s: float
    ) -> Decision:
        """Decides where ``job`` runs and books it there.

        Args:
            job: The request.
            claimed: Blocks that each peer is said to hold; of ours we know better.
            engine: This host's own.
            now_s: Virtual time.
        """
        recall = self.memory.recall(Expanded(job.hashes, self.block_tokens), now_s)
        held = {peer_id: blocks * self.block_tokens for peer_id, blocks in claimed.items()}
        me = self.peers[self.me]
        held[me] = engine.matched_tokens(job.hashes)
        inferred = {
            peer_id: tokens for peer_id, tokens in recall.inferred_tokens.items() if peer_id != me
        }
        views = [self._view_here(engine, now_s)]
        views += [self._view(n, now_s) for n in range(len(self.peers)) if n != self.me]
        query = Query(
            prompt_tokens=job.prompt_tokens,
            expected_output_tokens=self.outputs.expect(TENANT, MODEL, None),
            place=recall.place,
            ring=self.ring,
            turn=self.turn,
            home_share=recall.home_share,
        )
        self.turn += 1
        decision = decide(query, candidates_of(views, held, inferred), self.policy, self.rng)
        assert decision.chosen is not None
        job.sent = self.memory.sent(recall, decision, decision.chosen, now_s)
        self._book(job, decision, now_s)
        return decision

    def _book(self, job: Job, decision: Decision, now_s: float) -> None:
        chosen = decision.candidate
        assert chosen is not None
        job.promised_tokens = chosen.matched_tokens * chosen.view.freshness
        job.found_idle = chosen.view.load == 0
        uncached = decision.query.prompt_tokens - (job.sent.counted_tokens if job.sent else 0.0)
        job.booking = self.bookings.begin(chosen.peer_id, uncached_tokens=uncached, now_s=now_s)
        job.served_by = self.peers.index(chosen.peer_id)

    def _view_here(self, engine: Engine, now_s: float) -> PeerView:
        me = self.peers[self.me]
        return PeerView(
            peer_id=me,
            local=True,
            slots=self.slots,
            running=engine.running,
            queued=len(engine.waiting),
            queued_tokens=engine.queued_tokens(now_s),
            prefill_tokens_per_s=self._prefill_rate(me, now_s),
            decode_s_per_token=self._decode_s(me, now_s),
            rtt_s=0.0,
        )

    def _view(self, number: int, now_s: float) -> PeerView:
        peer_id = self.peers[number]
        report = self.reports[number]
        booked = self.bookings.booked(peer_id, now_s)
        age_s = now_s - report.taken_s
        return PeerView(
            peer_id=peer_id,
            local=False,
            slots=self.slots,
            running=report.running,
            queued=report.queued,
            queued_tokens=report.queued_tokens,
            prefill_tokens_per_s=self._prefill_rate(peer_id, now_s),
            decode_s_per_token=self._decode_s(peer_id, now_s),
            rtt_s=self.measured.rtt_s(peer_id),
            age_s=age_s,
            digest_age_s=age_s,
            freshness=self.memory.freshness(age_s),
            load_freshness=self.measured.load_freshness(age_s),
            trust=self.measured.trust(peer_id),
            observed_wait_s=self.measured.observed_wait_s(peer_id, now_s),
            booked_requests=booked.requests,
            booked_tokens=booked.queued_tokens,
            in_flight=booked.in_flight,
        )

    def _prefill_rate(self, peer_id: PeerId, now_s: float) -> float:
        return self.measured.prefill_tokens_per_s(peer_id, COSTS.prefill_tokens_per_s, now_s)

    def _decode_s(self, peer_id: PeerId, now_s: float) -> float:
        return self.measured.decode_s_per_token(peer_id, COSTS.decode_s_per_token, now_s)

    def on_first_token(self, job: Job, sent_s: float, now_s: float) -> None:
        """The client got its first token of a request sent at ``sent_s``."""
        assert job.sent is not None
        self.bookings.first_token(BookingId(job.booking), now_s)
        self.memory.found(job.sent, job.cached_tokens)
        seen = FirstToken(
            elapsed_s=now_s - sent_s,
            start_s=job.expected_start_s,
            prompt_tokens=job.prompt_tokens,
            promised_tokens=job.promised_tokens,
            reported_tokens=job.cached_tokens,
            found_idle=job.found_idle,
        )
        self.measured.on_first_token(self.peers[job.served_by], seen, now_s)

    def on_finished(self, job: Job, decode_s: float, now_s: float) -> None:
        """The client has the whole answer."""
        self.bookings.end(BookingId(job.booking), now_s)
        self.outputs.observe(TENANT, MODEL, job.output_tokens)
        self.measured.on_decoded(self.peers[job.served_by], job.output_tokens, decode_s, now_s)
