"""The event loop: arrivals, links with a delay, engines, digests, on one heap of virtual time."""

from __future__ import annotations

import enum
import heapq
import random
from dataclasses import dataclass
from itertools import count

from benchmarks.routing_study.caches import LruCache
from benchmarks.routing_study.engine import (
    DECODE_S_PER_TOKEN,
    PREFILL_TOKENS_PER_S,
    Engine,
    Job,
)
from benchmarks.routing_study.router import LoadReport, Router
from benchmarks.routing_study.workloads import SEED, Workload
from overlay.routing import Policy, Ring
from security.peer_id import PeerId

BUSY = 0.7
"""Share of the engines' time that ``random`` is to keep them busy."""

NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting: everything but the policy. ``digest_age_s`` is the period of the bundles."""

    peers: int
    delay_s: float
    digest_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one policy did in one cell. Seconds; ``hit`` is cached over prompt tokens."""

    hit: float
    ttft_p50_s: float
    ttft_p99_s: float
    completion_p50_s: float
    completion_p99_s: float
    completion_mean_s: float
    requests_per_s: float
    busy: float
    forwarded: float


class Kind(enum.IntEnum):
    """Events; of two at one time the lower is first."""

    FIRST = 0
    LAST = 1
    CLIENT_FIRST = 2
    CLIENT_LAST = 3
    PUBLISH = 4
    DIGEST = 5
    ENQUEUE = 6
    ARRIVE = 7


def gap_s(workload: Workload, peers: int, slots: int) -> float:
    """Mean gap of arrivals at which ``random`` keeps the engines busy as much as wanted."""
    rng = random.Random(SEED)
    caches = [LruCache(workload.cache_blocks) for _ in range(peers)]
    total_s = 0.0
    for request in workload.requests:
        cache = caches[rng.randrange(peers)]
        tokens = len(request.hashes) * workload.block_tokens
        cached = min(cache.start(request.hashes) * workload.block_tokens, tokens - 1)
        cache.computed(request.hashes)
        cache.end(request.hashes)
        total_s += (tokens - cached) / PREFILL_TOKENS_PER_S
        total_s += request.output_tokens * DECODE_S_PER_TOKEN
    return total_s / len(workload.requests) / (peers * slots * BUSY)


class Simulation:
    """One policy in one cell."""

    def __init__(self, workload: Workload, cell: Cell, policy: Policy, *, gap_s: float, slots: int = 1) -> None:
        self.w, self.cell = workload, cell
        rng = random.Random(SEED)
        self.rng = rng
        self.peers = tuple(PeerId(f"12D3KooW{rng.getrandbits(128):032x}") for _ in range(cell.peers))
        ring = Ring(dict.fromkeys(self.peers, slots))
        self.engines = [Engine(LruCache(workload.cache_blocks), workload.block_tokens, slots) for _ in self.peers]
        self.routers = [
            Router(n, self.peers, slots, ring, policy, random.Random(rng.getrandbits(64)), cell.delay_s, workload.block_tokens)
            for n in range(cell.peers)
        ]
        self.known = [set() for _ in self.peers]
        self.heap = []
        self.seq = count()
        self.left = len(workload.requests)
        self.ttft, self.done = [], []
        self.cached = self.prompt = self.forwarded = 0
        self.last_s = 0.0
        arrivals = random.Random(SEED + 1)
        for number, request in enumerate(workload.requests):
            tokens = len(request.hashes) * workload.block_tokens
            at = request.at * gap_s
            job = Job(number, arrivals.randrange(cell.peers), request.hashes, tokens, request.output_tokens, at)
            self.push(at, Kind.ARRIVE, job)
        if 0 < cell.digest_age_s < NEVER:
            for n in range(cell.peers):
                self.push(cell.digest_age_s * rng.random(), Kind.PUBLISH, n)

    def push(self, at, kind, what):
        heapq.heappush(self.heap, (at, kind, next(self.seq), what))

    def run(self) -> Result:
        while self.left:
            now, kind, _, what = heapq.heappop(self.heap)
            getattr(self, "on_" + kind.name.lower())(what, now)
        d, t = sorted(self.done), sorted(self.ttft)
        n = len(d)
        return Result(hit=self.cached / self.prompt, ttft_p50_s=t[n // 2], ttft_p99_s=t[int(n * .99)],
            completion_p50_s=d[n // 2], completion_p99_s=d[int(n * .99)], completion_mean_s=sum(d) / n,
            requests_per_s=n / self.last_s, busy=sum(e.busy_s for e in self.engines) / self.last_s / len(self.engines), forwarded=self.forwarded / n)

    def on_arrive(self, job, now):
        r = self.routers[job.ingress]
        age = self.cell.digest_age_s
        if age == 0:
            matched = [e.matched_tokens(job.hashes) for e in self.engines]
            for n, e in enumerate(self.engines):
                if n != job.ingress:
                    r.on_report(n, LoadReport(now, len(e.running), len(e.waiting), e.queued_tokens(now)))
        else:
            matched = [self.depth(k, job.hashes) * self.w.block_tokens for k in self.known]
        r.route(job, matched, self.engines[job.ingress], now)
        local = job.served_by == job.ingress
        self.forwarded += not local
        self.push(now + (0 if local else self.cell.delay_s), Kind.ENQUEUE, job)

    @staticmethod
    def depth(known, hashes):
        n = 0
        for h in hashes:
            if h not in known: break
            n += 1
        return n

    def on_enqueue(self, job, now):
        self.engines[job.served_by].enqueue(job, now)
        self.start(job.served_by, now)

    def start(self, n, now):
        e = self.engines[n]
        while (s := e.start_next(now)) is not None:
            job, first, last = s
            self.push(first, Kind.FIRST, job)
            self.push(last, Kind.LAST, job)

    def on_first(self, job, now):
        self.engines[job.served_by].on_first(job)
        self.push(now + self.back(job), Kind.CLIENT_FIRST, job)

    def on_last(self, job, now):
        self.engines[job.served_by].on_last(job)
        self.push(now + self.back(job), Kind.CLIENT_LAST, job)
        self.start(job.served_by, now)

    def back(self, job):
        return 0 if job.served_by == job.ingress else self.cell.delay_s

    def on_client_first(self, job, now):
        self.ttft.append(now - job.arrived_s)
        self.routers[job.ingress].first_token(job, now)

    def on_client_last(self, job, now):
        self.left -= 1
        self.last_s = now
        self.done.append(now - job.arrived_s)
        self.cached += job.cached_tokens
        self.prompt += job.prompt_tokens
        self.routers[job.ingress].finished(job, job.output_tokens * DECODE_S_PER_TOKEN, now)

    def on_publish(self, n, now):
        e = self.engines[n]
        rep = LoadReport(now, len(e.running), len(e.waiting), e.queued_tokens(now))
        self.push(now + self.cell.delay_s, Kind.DIGEST, (n, rep, e.cache.events()))
        self.push(now + self.cell.digest_age_s, Kind.PUBLISH, n)

    def on_digest(self, what, now):
        n, rep, ev = what
        k = self.known[n]
        for add, h in ev:
            (k.add if add else k.discard)(h)
        for m, r in enumerate(self.routers):
            if m != n: r.on_report(n, rep)
