"""The event loop: arrivals, links with a delay, engines, digests, on one heap of virtual time."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from benchmarks.routing_study.engine import COSTS, Engine, Job
from benchmarks.routing_study.knowledge import Bundle, Digests, LoadReport
from benchmarks.routing_study.router import Router
from benchmarks.routing_study.workloads import SEED, Workload
from inference.cache import PrefixCache
from overlay.routing import Policy, Ring
from security.peer_id import PeerId

BUSY = 0.7
"""Share of the engines' time that ``random`` is to keep them busy."""

NEVER = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting, the policy apart.

    ``digest_age_s`` is the period of the bundles, so knowledge is up to that old, plus the delay;
    0: everything is known at once, ``NEVER``: nothing ever.
    """

    peers: int
    delay_s: float
    digest_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one policy did in one cell. ``hit`` is cached over prompt tokens."""

    hit: float
    ttft_p50_s: float
    ttft_p99_s: float
    completion_mean_s: float
    completion_p50_s: float
    completion_p99_s: float
    requests_per_s: float
    busy: float


def gap_s(workload: Workload, peers: int) -> float:
    """Mean gap of arrivals at which ``random`` keeps the engines as busy as wanted."""
    rng = random.Random(SEED)
    engines = [new_engine(workload) for _ in range(peers)]
    for number, request in enumerate(workload.requests):
        tokens = len(request.hashes) * workload.block_tokens
        job = Job(number, 0, request.hashes, tokens, request.output_tokens, 0.0)
        engine = engines[rng.randrange(peers)]
        engine.waiting.append(job)
        engine.prefill_free_s = 0.0
        engine.start_next(0.0)
        engine.on_first(job)
        engine.on_last(job)
    total_s = sum(engine.busy_s for engine in engines)
    return total_s / len(workload.requests) / (peers * COSTS.slots * BUSY)


def new_engine(workload: Workload) -> Engine:
    """An engine with an empty cache."""
    return Engine(PrefixCache(workload.cache_blocks), workload.block_tokens, COSTS.slots)


T = TypeVar("T")

Event = tuple[float, int, Callable[[float], None]]


class Simulation:
    """One policy in one cell. The same seed gives the same arrivals whatever the policy."""

    def __init__(self, workload: Workload, cell: Cell, policy: Policy, *, gap_s: float) -> None:
        rng = random.Random(SEED)
        self._cell = cell
        self._peers = tuple(
            PeerId(f"12D3KooW{rng.getrandbits(128):032x}") for _ in range(cell.peers)
        )
        ring = Ring(dict.fromkeys(self._peers, COSTS.slots))
        self._engines = [new_engine(workload) for _ in self._peers]
        self._routers = [
            Router(
                me=number,
                peers=self._peers,
                slots=COSTS.slots,
                ring=ring,
                policy=policy,
                rng=random.Random(rng.getrandbits(64)),
                delay_s=cell.delay_s,
                block_tokens=workload.block_tokens,
            )
            for number in range(cell.peers)
        ]
        self._digests = Digests(self._peers)
        self._heap: list[Event] = []
        self._order = count()
        self._left = len(workload.requests)
        self._ttft_s: list[float] = []
        self._completion_s: list[float] = []
        self._cached_tokens = self._prompt_tokens = 0
        self._last_s = 0.0
        for number, request in enumerate(workload.requests):
            tokens = len(request.hashes) * workload.block_tokens
            at_s, ingress = request.at * gap_s, rng.randrange(cell.peers)
            job = Job(number, ingress, request.hashes, tokens, request.output_tokens, at_s)
            self._at(at_s, self._on_arrival, job)
        if 0 < cell.digest_age_s < NEVER:
            for number in range(cell.peers):
                self._at(cell.digest_age_s * rng.random(), self._on_period, number)

    def run(self) -> Result:
        """Runs until every request is answered."""
        while self._left:
            now_s, _, happen = heapq.heappop(self._heap)
            happen(now_s)
        ttft_s, completion_s = sorted(self._ttft_s), sorted(self._completion_s)
        return Result(
            hit=self._cached_tokens / self._prompt_tokens,
            ttft_p50_s=percentile(ttft_s, 0.5),
            ttft_p99_s=percentile(ttft_s, 0.99),
            completion_mean_s=sum(completion_s) / len(completion_s),
            completion_p50_s=percentile(completion_s, 0.5),
            completion_p99_s=percentile(completion_s, 0.99),
            requests_per_s=len(completion_s) / self._last_s,
            busy=sum(each.busy_s for each in self._engines)
            / (self._last_s * COSTS.slots * len(self._engines)),
        )

    def _at(self, at_s: float, happen: Callable[[T, float], None], what: T) -> None:
        heapq.heappush(self._heap, (at_s, next(self._order), lambda now_s: happen(what, now_s)))

    # -- a request

    def _on_arrival(self, job: Job, now_s: float) -> None:
        router, engine = self._routers[job.ingress], self._engines[job.ingress]
        if self._cell.digest_age_s == 0:
            self._tell_loads(router, now_s)
        claimed = (
            self._digests.claimed_blocks(job.hashes) if self._cell.digest_age_s < NEVER else {}
        )
        router.route(job, claimed, engine, now_s)
        if job.served_by == job.ingress:
            self._on_sent(job, now_s)  # a host's engine knows of it before the next one is decided
        else:
            self._at(now_s + self._delay_s(job), self._on_sent, job)

    def _on_sent(self, job: Job, now_s: float) -> None:
        self._engines[job.served_by].enqueue(job, now_s)
        self._start(job.served_by, now_s)

    def _start(self, number: int, now_s: float) -> None:
        while (started := self._engines[number].start_next(now_s)) is not None:
            job, first_s, last_s = started
            self._at(first_s, self._on_first, job)
            self._at(last_s, self._on_last, job)
            self._tell_cache(number, now_s)

    def _on_first(self, job: Job, now_s: float) -> None:
        self._engines[job.served_by].on_first(job)
        self._tell_cache(job.served_by, now_s)
        self._at(now_s + self._delay_s(job), self._on_client_first, job)

    def _on_last(self, job: Job, now_s: float) -> None:
        self._engines[job.served_by].on_last(job)
        self._at(now_s + self._delay_s(job), self._on_client_last, job)
        self._start(job.served_by, now_s)

    def _on_client_first(self, job: Job, now_s: float) -> None:
        self._ttft_s.append(now_s - job.arrived_s)
        self._routers[job.ingress].on_first_token(job, job.arrived_s, now_s)

    def _on_client_last(self, job: Job, now_s: float) -> None:
        self._left -= 1
        self._last_s = now_s
        self._completion_s.append(now_s - job.arrived_s)
        self._cached_tokens += job.cached_tokens
        self._prompt_tokens += job.prompt_tokens
        decode_s = job.output_tokens * COSTS.decode_s_per_token
        self._routers[job.ingress].on_finished(job, decode_s, now_s)

    def _delay_s(self, job: Job) -> float:
        return 0.0 if job.served_by == job.ingress else self._cell.delay_s

    # -- what peers tell each other

    def _report(self, number: int, now_s: float) -> LoadReport:
        engine = self._engines[number]
        return LoadReport(now_s, engine.running, len(engine.waiting), engine.queued_tokens(now_s))

    def _bundle(self, number: int, now_s: float) -> Bundle:
        events = self._engines[number].events()
        return self._digests.bundle(number, events, self._report(number, now_s))

    def _tell_loads(self, router: Router, now_s: float) -> None:
        for number in range(len(self._peers)):
            if number != router.me:
                router.on_report(number, self._report(number, now_s))

    def _tell_cache(self, number: int, now_s: float) -> None:
        if self._cell.digest_age_s == 0:
            self._digests.deliver(self._bundle(number, now_s))

    def _on_period(self, number: int, now_s: float) -> None:
        self._at(now_s + self._cell.delay_s, self._on_bundle, self._bundle(number, now_s))
        self._at(now_s + self._cell.digest_age_s, self._on_period, number)

    def _on_bundle(self, bundle: Bundle, now_s: float) -> None:
        del now_s
        self._digests.deliver(bundle)
        for router in self._routers:
            if router.me != bundle.origin:
                router.on_report(bundle.origin, bundle.load)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
