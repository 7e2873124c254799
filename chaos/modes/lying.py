"""What the false claims of both simulated modes are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

from chaos.claims import Churn
from chaos.entropy import stream_seed
from chaos.history import History
from chaos.modes.asked import prompt_ids, prompt_text
from chaos.modes.effects import Effects
from chaos.scenario.schedule import PlannedFault, Schedule
from inference.events import BlockHash
from inference.request import Capabilities, Namespace
from overlay.tenants import TenantBook
from security.authority import Authority

PROMPTS_MAX = 256
"""Prompts of the workload that an over-claim names, those that come next."""

EMPTY_EVERY_S = 0.5
"""How often the cache of a peer that claims too much is emptied."""


class Cluster(Protocol):
    """Of a cluster of either mode, what is needed here."""

    @property
    def schedule(self) -> Schedule: ...

    @property
    def history(self) -> History: ...

    @property
    def authority(self) -> Authority: ...


class Host(Protocol):
    """Of a host."""

    @property
    def name(self) -> str: ...

    @property
    def tenants(self) -> Sequence[str]: ...

    @property
    def starts(self) -> int: ...


class Engine(Protocol):
    """Of an engine."""

    def capabilities(self) -> Capabilities: ...


def rng_of(cluster: Cluster, planned: PlannedFault, subject: str) -> Random:
    """A random stream of a fault's own."""
    return Random(stream_seed(cluster.schedule.seed, planned.id, subject))


def coming_blocks(
    cluster: Cluster, tenants: TenantBook, engine: Engine
) -> Iterator[tuple[Namespace, Sequence[BlockHash]]]:
    """Block hashes of the workload's next prompts, of a peer's own tenants."""
    models = engine.capabilities().models
    now_s = cluster.history.now() - cluster.schedule.warm_up_s
    coming = [request for request in cluster.schedule.requests if request.at_s >= now_s]
    for request in coming[:PROMPTS_MAX]:
        tenant = tenants.get(cluster.authority.tenant_id(request.tenant))
        if tenant is not None and models:
            chain = tenants.chain(tenant, models[0].prefix)
            yield Namespace(tenant.tenant_id), chain.hashes(prompt_ids(prompt_text(request)))


def churn(
    cluster: Cluster, planned: PlannedFault, host: Host, blocks_per_s: float, effects: Effects
) -> Churn:
    """Made-up prefixes of a host's tenants, without pause."""
    ids = [cluster.authority.tenant_id(tenant) for tenant in host.tenants]
    return Churn(
        namespaces=lambda: [Namespace(tenant_id) for tenant_id in ids],
        blocks_per_s=blocks_per_s,
        rng=rng_of(cluster, planned, f"{host.name} {host.starts}"),
        now_s=cluster.history.now,
        on_effect=effects.add,
    )
