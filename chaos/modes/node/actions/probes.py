"""A member of one tenant that is after another's: its prompts, its name, its peers.

Three ways, in turn: the other tenant's prompts in the own tenant's name (is any of it cached?), a
request at the own ingress in the other's name, and a forward in the other's name to its members.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import trio

from chaos.history import What
from chaos.modes.node.cluster import SimCluster
from chaos.scenario.prompts import document
from chaos.scenario.schedule import PlannedRequest
from overlay.errors import OverlayError
from overlay.forward import PROTOCOL, VERSION, Accept, ForwardRequest, decode_answer, encode
from overlay.node import Node
from security.tenant import TenantId

ANSWER_S = 5.0
DEADLINE_MS = 5000
MADE_UP = TenantId("0" * 32)
"""A tenant that nobody is a member of."""


@dataclass(eq=False)
class Prober:
    """One node that probes. ``on_effect`` is called for each thing that was asked."""

    cluster: SimCluster
    fault_id: str
    name: str
    rng: Random
    on_effect: Callable[[], None]
    turn: int = 0

    async def probe(self) -> None:
        """The next attempt."""
        host = self.cluster.hosts[self.name]
        if host.node is None or host.stopped:
            return
        self.turn += 1
        tenants = self.cluster.schedule.cluster.tenants
        foreign = [tenant for tenant in tenants if tenant not in host.tenants]
        if self.turn % 3 == 0:
            await self._forward(host.node, foreign)
        elif self.turn % 3 == 1 or not foreign:
            self._ask(host.tenants)
        else:
            self._ask(foreign)

    def _ask(self, tenants: tuple[str, ...] | list[str]) -> None:
        """A prompt of some other tenant's request, in the name of one of these."""
        requests, clients = self.cluster.schedule.requests, self.cluster.clients
        if not tenants or not requests or clients is None:
            return
        tenant = self.rng.choice(tenants)
        others = [request for request in requests if request.tenant != tenant] or list(requests)
        like: PlannedRequest = self.rng.choice(others)
        name = f"{self.fault_id}-{self.name}-{self.turn}"
        clients.send(replace(like, id=name, at_s=0.0, ingress=self.name, tenant=tenant))
        self.on_effect()

    async def _forward(self, node: Node, foreign: list[str]) -> None:
        """A forward that nobody may serve."""
        tenant = self.rng.choice(foreign) if foreign else None
        tenant_id = MADE_UP if tenant is None else self.cluster.authority.tenant_id(tenant)
        for peer_id in node.peers.up():
            connection = node.peers.connection(peer_id)
            if connection is None:
                continue
            opening = encode(self._request(tenant_id))
            try:
                with trio.move_on_after(ANSWER_S):
                    async with connection.open(PROTOCOL, opening) as stream:
                        self.on_effect()
                        answer = await stream.receive()
                        if answer is not None and isinstance(decode_answer(answer), Accept):
                            where = f"a forward that {self.cluster.name_of(peer_id)} served"
                            told = tenant or "of nobody"
                            add = self.cluster.history.add
                            add(What.LEAK, self.name, tenant=told, where=where)
            except OverlayError:
                continue

    def _request(self, tenant_id: TenantId) -> ForwardRequest:
        # No canary: what the prober itself sends is no leak.
        text = document(self.rng.randrange(8), 64)
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2}
        return ForwardRequest(
            v=VERSION,
            request_id=self.rng.randbytes(16).hex(),
            attempt=0,
            tenant=tenant_id,
            token_id="chaos",  # noqa: S106 - an id, and of nothing
            chat=True,
            model="toy",
            body=json.dumps(body).encode(),
            token_ids=None,
            emitted=[],
            seed=1,
            deadline_ms=DEADLINE_MS,
            hops=1,
        )
