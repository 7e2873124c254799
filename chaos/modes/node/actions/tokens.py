"""A client's token that is revoked while the client goes on asking with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random

import trio

from chaos.clock import VirtualClock
from chaos.faults import security
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.modes.effects import Effects, Missed
from chaos.modes.lying import rng_of
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.clients import Token
from chaos.modes.node.cluster import SimCluster
from chaos.scenario.schedule import PlannedFault, PlannedRequest
from overlay.node import Node
from overlay.request import Scope
from security.revocation import make_revocation
from security.token import issue_token

REFUSED = "token_refused"
"""A mark: a request with a token that was revoked has been refused."""

ANSWERS_S = 1.0
"""How long the token is good before it is revoked."""

TOKEN_S = 40 * 86_400.0
"""Before and after now: no clock fault takes a host out of it."""


@dataclass(eq=False)
class _Client:
    """Asks one node with one token."""

    cluster: SimCluster
    planned: PlannedFault
    name: str
    token: str
    token_id: str
    rng: Random
    effects: Effects
    turn: int = 0
    marked: bool = False

    def ask(self) -> None:
        """One request like one of the schedule's."""
        requests, clients = self.cluster.schedule.requests, self.cluster.clients
        if clients is None or not requests:
            return
        self.turn += 1
        like: PlannedRequest = self.rng.choice(requests)
        name = f"{self.planned.id}-{self.name}-{self.turn}"
        tenant = self.cluster.hosts[self.name].tenants[0]
        clients.tokens[name] = Token(
            text=self.token, on_taken=self._taken, on_refused=self._refused
        )
        clients.send(replace(like, id=name, at_s=0.0, ingress=self.name, tenant=tenant))

    def _taken(self, node: Node) -> None:
        if node.keeper.revokes(self.token_id):
            self.cluster.history.add(
                What.CHANGED,
                self.name,
                sender="the client of a revoked token",
                changed="it took a request",
            )

    def _refused(self) -> None:
        self.effects.add()
        if not self.marked:
            self.marked = True
            self.cluster.history.add(What.MARK, REFUSED, node=self.name, fault=self.planned.id)


def _client(cluster: SimCluster, planned: PlannedFault, name: str, effects: Effects) -> _Client:
    """One of the node's first tenant."""
    token_id = cluster.entropy(f"token {planned.id} {name}").secret(16).hex()
    now_unix_s = VirtualClock().unix_s()
    token = issue_token(
        cluster.authority.issuer,
        tenant_id=cluster.authority.tenant_id(cluster.hosts[name].tenants[0]),
        name="chaos",
        scopes=[Scope.INFER.value],
        token_id=token_id,
        now_unix_s=now_unix_s - TOKEN_S,
        expires_unix_s=now_unix_s + TOKEN_S,
    )
    rng = rng_of(cluster, planned, name)
    return _Client(cluster, planned, name, token, token_id, rng, effects)


def _revoke(cluster: SimCluster, planned: PlannedFault, token_ids: list[str]) -> None:
    """The issuer does, at a node beside the targets where one runs; the others are told."""
    running = [host for host in cluster.running() if host.name not in cluster.revoked]
    hosts = sorted(running, key=lambda host: host.name in planned.nodes or bool(host.stopped))
    issuer, now_unix_s = cluster.authority.issuer, VirtualClock().unix_s()
    for host in hosts[:1]:
        host.running.revoke([make_revocation(issuer, each, now_unix_s) for each in token_ids])


@asynccontextmanager
async def _token_revoked(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.TokenRevoked)
    members = [name for name in planned.nodes if cluster.hosts[name].tenants]
    clients = [_client(cluster, planned, name, effects) for name in members]
    if not clients:
        raise Missed("of no tenant: " + ", ".join(planned.nodes))

    async def go_on(client: _Client) -> None:
        while True:
            client.ask()
            await trio.sleep(fault.every_ms / 1000)

    async def come() -> None:
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(go_on, client)
            await trio.sleep(ANSWERS_S)
            _revoke(cluster, planned, [client.token_id for client in clients])

    async with beside(come):
        yield


ACTIONS: dict[type[Fault], Action] = {security.TokenRevoked: _token_revoked}
