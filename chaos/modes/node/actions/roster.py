"""Rosters that change: a host is taken off one, and taken in again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import trio

from chaos.faults import security
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault
from overlay.forward import decode_request
from overlay.node import Node
from overlay.serve import ForwardHandler
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from security.authority import Authority
from security.tenant import TenantId

REMOVED = "member_removed"
"""A mark: a host has learnt that it is no member any more."""

Secret = Callable[[int], bytes]

LOOK_S = 0.25
ON_ITS_WAY_S = 1.0
"""A forward may have been sent before its sender learnt of the new roster."""


@dataclass(eq=False)
class _Removal:
    """One host that is no member of one tenant for a while. ``learnt_s`` is by member."""

    cluster: SimCluster
    host: SimHost
    tenant: str
    tenant_id: TenantId
    fault_id: str
    effects: Effects
    learnt_s: dict[str, float] = field(default_factory=dict)
    marked: bool = False

    def begin(self) -> None:
        """The steward takes it off the roster."""
        authority, _ = self.cluster.authority.remove_member(
            self.tenant_id, self.host.identity.peer_id, self._entropy("remove")
        )
        self.host.left.add(self.tenant)
        _tell(self.cluster, _steward(self.cluster, self.host), authority)

    def end(self) -> None:
        """It is taken in again; it counts as a member when it has learnt so."""
        self.learnt_s.clear()
        keys = self.host.identity.keys
        authority, _ = self.cluster.authority.add_member(
            self.tenant_id, keys.peer_id, keys.sealing_public, self._entropy("add")
        )
        _tell(self.cluster, _steward(self.cluster, self.host), authority)
        self.cluster.nursery.start_soon(self._until_member)

    def _entropy(self, what: str) -> Secret:
        return _entropy(self.cluster, f"{what} {self.host.name}", self.tenant)

    async def _until_member(self) -> None:
        while self.host.node is None or self.host.node.tenants.get(self.tenant_id) is None:
            await trio.sleep(LOOK_S)
        self.host.left.discard(self.tenant)

    async def watch(self) -> None:
        """Notes who has learnt of it, and when."""
        peer_id = self.host.identity.peer_id
        while True:
            now_s = trio.current_time()
            for host in self.cluster.running():
                epoch = None if host.node is None else host.node.tenants.get(self.tenant_id)
                if host is self.host:
                    if epoch is None and host.node is not None:
                        self._noticed()
                elif epoch is None or peer_id in epoch.members:
                    self.learnt_s.pop(host.name, None)
                else:
                    self.learnt_s.setdefault(host.name, now_s)
            await trio.sleep(LOOK_S)

    def _noticed(self) -> None:
        if not self.marked:
            self.marked = True
            self.effects.add()
            self.cluster.history.add(What.MARK, REMOVED, node=self.host.name, fault=self.fault_id)

    def tap(self, _host: SimHost, node: Node) -> None:
        """Listens to what is forwarded to the host."""
        node.forwards = cast("ForwardHandler", _Incoming(node.forwards, self._came))

    def _came(self, connection: Connection, stream: Stream) -> None:
        peer_id = connection.remote.peer_id
        sender = "" if peer_id is None else self.cluster.name_of(peer_id)
        late_s = trio.current_time() - self.learnt_s.get(sender, float("inf"))
        if decode_request(stream.body).tenant == self.tenant_id and late_s > ON_ITS_WAY_S:
            where = f"a forward to {self.host.name}, which is on the roster no longer"
            self.cluster.history.add(What.LEAK, sender, tenant=self.tenant, where=where)


class _Incoming:
    """A forward handler that is listened to."""

    def __init__(self, inner: ForwardHandler, came: Any) -> None:  # called with both arguments
        self.inner = inner
        self._came = came

    def __getattr__(self, name: str) -> Any:  # whatever the handler has
        return getattr(self.inner, name)

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        self._came(connection, stream)
        await self.inner(connection, stream)


def _present(host: SimHost) -> list[str]:
    """The tenants that a host is a member of now."""
    return [tenant for tenant in host.tenants if tenant not in host.left]


def _steward(cluster: SimCluster, besides: SimHost | None = None) -> SimHost:
    """The host on whose disk the issuer's state is: the first that is not the one removed."""
    return next(host for host in cluster.hosts.values() if host is not besides)


def _entropy(cluster: SimCluster, what: str, tenant: str) -> Secret:
    """Of its own for each change of a tenant."""
    content = cluster.authority.tenants[cluster.authority.tenant_id(tenant)].content
    return cluster.entropy(f"{what} {tenant} {content.epoch}").secret


def _tell(cluster: SimCluster, steward: SimHost, authority: Authority) -> None:
    """The steward's host knows at once, and at every later start: it is on its disk."""
    cluster.authority = authority
    steward.epochs = authority.epochs
    if steward.node is not None:
        for data in authority.epochs:
            steward.node.knowledge.learn_epoch(data)


@asynccontextmanager
async def _member_removed(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    hosts = [cluster.hosts[name] for name in planned.nodes if name not in cluster.revoked]
    members = [host for host in hosts if _present(host) and len(cluster.hosts) > 1]
    if not members:
        raise Missed("of no tenant: " + ", ".join(planned.nodes))
    async with AsyncExitStack() as removals:
        for host in members:
            await removals.enter_async_context(_removed(cluster, planned, host, effects))
        yield


@asynccontextmanager
async def _removed(
    cluster: SimCluster, planned: PlannedFault, host: SimHost, effects: Effects
) -> AsyncIterator[None]:
    """One host is no member of the last of its tenants."""
    tenant = _present(host)[-1]
    tenant_id = cluster.authority.tenant_id(tenant)
    removal = _Removal(cluster, host, tenant, tenant_id, planned.id, effects)
    removal.begin()
    try:
        with cluster.each_boot([host.name], removal.tap):
            async with beside(removal.watch):
                yield
    finally:
        removal.end()


def _rotating(*, hard: bool) -> Action:
    """The last tenant of each target begins a new epoch, once where several have the same."""

    @asynccontextmanager
    async def action(
        cluster: SimCluster, planned: PlannedFault, effects: Effects
    ) -> AsyncIterator[None]:
        hosts = [cluster.hosts[name] for name in planned.nodes]
        tenants = dict.fromkeys(_present(host)[-1] for host in hosts if _present(host))
        if not tenants:
            raise Missed("of no tenant: " + ", ".join(planned.nodes))
        for tenant in tenants:
            secret = _entropy(cluster, planned.id, tenant)
            tenant_id = cluster.authority.tenant_id(tenant)
            authority, _ = cluster.authority.rotate(tenant_id, secret, hard=hard)
            _tell(cluster, _steward(cluster), authority)
            effects.add()
        yield

    return action


ACTIONS: dict[type[Fault], Action] = {
    security.MemberRemoved: _member_removed,
    security.TenantRotated: _rotating(hard=False),
    security.TenantRotatedHard: _rotating(hard=True),
}
