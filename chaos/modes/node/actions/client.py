"""Client faults: how the clients of some ingresses behave, and what they send besides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from chaos.entropy import stream_seed
from chaos.faults import client
from chaos.faults.fault import Fault
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.clients import Clients, Manner
from chaos.modes.node.cluster import SimCluster
from chaos.scenario.prompts import words
from chaos.scenario.schedule import PlannedFault, PlannedRequest

BURST_DOCUMENT_TOKENS = 256
BURST_MAX_TOKENS = 8


def _clients(cluster: SimCluster) -> Clients:
    if cluster.clients is None:
        raise Missed("there are no clients before the storm")
    return cluster.clients


def _manner(fault: Fault, fault_id: str, effects: Effects) -> Manner:
    match fault:
        case client.DisconnectMidStream():
            return Manner(
                fault_id=fault_id,
                on_effect=effects.add,
                hang_up_after_tokens=int(fault.after_tokens),
            )
        case client.SlowReader():
            return Manner(fault_id=fault_id, on_effect=effects.add, gap_s=fault.gap_ms / 1000)
        case client.DuplicateSubmit():
            return Manner(fault_id=fault_id, on_effect=effects.add, twice=True)
        case client.Cancel():
            after_s = fault.after_ms / 1000
            return Manner(fault_id=fault_id, on_effect=effects.add, cancel_after_s=after_s)
        case _:
            raise TypeError(f"no manner for {fault.kind}")


@asynccontextmanager
async def _behave(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Changes the requests that are sent while the block lasts."""
    clients = _clients(cluster)
    manner = _manner(planned.fault, planned.id, effects)
    try:
        for name in planned.nodes:
            clients.manners.setdefault(name, {})[planned.id] = manner
        yield
    finally:
        for name in planned.nodes:
            clients.manners.get(name, {}).pop(planned.id, None)


def _extra(
    cluster: SimCluster, planned: PlannedFault, ingress: str, number: int, tokens: int
) -> PlannedRequest:
    """A request of a fault's own, drawn from a stream of its own."""
    host = cluster.host(ingress)
    rng = Random(stream_seed(cluster.schedule.seed, planned.id, f"{ingress} {number}"))
    documents = sorted({request.document for request in cluster.schedule.requests}) or [0]
    return PlannedRequest(
        id=f"{planned.id}-{ingress}-{number}",
        at_s=0.0,
        ingress=ingress,
        tenant=rng.choice(host.tenants),
        document=rng.choice(documents),
        document_tokens=tokens,
        question=rng.randrange(1_000_000),
        question_tokens=rng.randint(1, 32),
        max_tokens=BURST_MAX_TOKENS,
        stream=bool(cluster.schedule.cluster.remote),
    )


def _members(cluster: SimCluster, planned: PlannedFault) -> list[str]:
    found = [name for name in planned.nodes if cluster.host(name).tenants]
    if not found:
        raise Missed("none of its nodes serves a tenant")
    return found


@asynccontextmanager
async def _burst(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault, clients = planned.fault, _clients(cluster)
    assert isinstance(fault, client.Burst)
    ingresses = _members(cluster, planned)
    planned_tokens = [r.document_tokens for r in cluster.schedule.requests]
    tokens = min([BURST_DOCUMENT_TOKENS, *planned_tokens])
    for number in range(int(fault.requests)):
        ingress = ingresses[number % len(ingresses)]
        clients.send(_extra(cluster, planned, ingress, number, tokens))
        effects.add()
    yield


@asynccontextmanager
async def _giant_prompt(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault, clients = planned.fault, _clients(cluster)
    assert isinstance(fault, client.GiantPrompt)
    for ingress in _members(cluster, planned):
        request = _extra(cluster, planned, ingress, 0, int(fault.tokens))
        clients.send(request, words(f"giant {planned.id}", int(fault.tokens)))
        effects.add()
    yield


ACTIONS: dict[type[Fault], Action] = {
    client.DisconnectMidStream: _behave,
    client.SlowReader: _behave,
    client.DuplicateSubmit: _behave,
    client.Cancel: _behave,
    client.Burst: _burst,
    client.GiantPrompt: _giant_prompt,
}
