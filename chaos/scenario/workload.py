"""Planned requests: Poisson arrivals, each with a random stream of its own number.

Leaving one out of a schedule re-deals nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from chaos.entropy import stream_seed
from chaos.scenario.request import PlannedRequest
from chaos.scenario.scenario import Cluster, Workload
from chaos.scenario.selectors import members

SHORTER_FRACTION = 0.2
"""Share of the requests that quote only a part of their document."""
CANCEL_AFTER_MAX_S = 2.0
STREAM_FRACTION = 0.5
"""Share of the requests with tools that ask for a stream."""
READY_S = 3.0
"""A node that starts late is an ingress from so many seconds after its start."""


def plan_requests(
    workload: Workload, cluster: Cluster, *, seed: int, duration_s: float
) -> tuple[PlannedRequest, ...]:
    """The requests of a workload in a storm of so many seconds, in the order of their arrival."""
    return tuple(_requests(workload, cluster, seed, duration_s))


def _requests(
    workload: Workload, cluster: Cluster, seed: int, duration_s: float
) -> Iterator[PlannedRequest]:
    if workload.requests_per_s == 0:
        return
    at_s, number = 0.0, 0
    while True:
        number += 1
        rng = Random(stream_seed(seed, "request", str(number)))
        at_s = round(at_s + rng.expovariate(workload.requests_per_s), 3)
        if at_s >= duration_s:
            return
        yield _request(workload, cluster, rng, number, at_s)


def _request(
    workload: Workload, cluster: Cluster, rng: Random, number: int, at_s: float
) -> PlannedRequest:
    tenant = rng.choice(cluster.tenants)
    member = members(tenant, cluster)
    ready = [n for n in member if n not in cluster.late or cluster.late[n] + READY_S <= at_s]
    ingress = rng.choice(ready or member)
    hot = rng.random() < workload.hot_fraction
    document = 0 if hot else rng.randrange(workload.documents)
    shorter = rng.random() < SHORTER_FRACTION
    part = rng.randint(1, workload.document_tokens)
    cancelled = rng.random() < workload.cancel_fraction
    cancel_after_s = round(rng.uniform(0.0, CANCEL_AFTER_MAX_S), 3)
    question = rng.randrange(1_000_000)
    question_tokens = rng.randint(1, 2 * workload.question_tokens)
    max_tokens = rng.randint(1, workload.max_tokens)
    # Drawn last: where there is no such server, nothing else is dealt anew.
    tools = bool(cluster.remote) and rng.random() < workload.tools_share
    stream = bool(cluster.remote) and (not tools or rng.random() < STREAM_FRACTION)
    return PlannedRequest(
        id=f"r{number}",
        at_s=at_s,
        ingress=ingress,
        tenant=tenant,
        document=document,
        document_tokens=part if shorter else workload.document_tokens,
        question=question,
        question_tokens=question_tokens,
        max_tokens=max_tokens,
        timeout_s=workload.timeout_s,
        cancel_after_s=cancel_after_s if cancelled else None,
        tools=tools,
        stream=stream,
    )
