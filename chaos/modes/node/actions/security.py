"""Attacks: by strangers, by admitted peers, and by peers that are admitted no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from chaos.adversary import Ear, own_news, tell
from chaos.cuts import cut_links
from chaos.faults import security
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.impairments import Hold
from chaos.modes.effects import Effects, Missed
from chaos.modes.lying import rng_of
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.actions.link import impaired
from chaos.modes.node.actions.metadata import listening
from chaos.modes.node.actions.probes import Prober
from chaos.modes.node.cluster import PORT, SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault
from chaos.strangers import Strangers
from overlay.address import Address
from overlay.node import Node
from security.errors import SecurityError
from security.peer_id import PeerId
from security.revocation import RevocationSet, make_revocation, open_revocation

ENFORCED = "revocation_enforced"
"""A mark: a peer that is revoked was turned away."""

TALK_EVERY_S = 1.0
"""How often a revoked peer's news is passed on for it."""

FLOOD_TICK_S = 0.05


@asynccontextmanager
async def _revoked_keeps_talking(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Revokes for good; the targets go on, and somebody admitted passes their news on."""
    for name in planned.nodes:
        _Revoked(cluster, planned, name, effects).begin()

    async def talk() -> None:
        while True:
            await trio.sleep(TALK_EVERY_S)
            for name in planned.nodes:
                host = cluster.hosts[name]
                mouth = _mouth(cluster)
                if host.node is not None and mouth is not None:
                    news = own_news(host.node, host.clock.unix_s())
                    effects.add(tell(mouth, news))

    async with beside(talk):
        yield


@asynccontextmanager
async def _revoked_in_partition(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    """Revokes for good on one of two sides, or on both; the others are told later."""
    others = [name for name in cluster.schedule.cluster.names if name not in planned.nodes]
    if len(others) < 2:
        raise Missed("there are no two others, one for each side")
    links = cut_links(planned, cluster.schedule.cluster.names)
    async with impaired(cluster, planned, links, Hold(effects.add)):
        twice = isinstance(planned.fault, security.RevokedTwice)
        for name in planned.nodes:
            for issuer in (others[0], others[-1])[: 1 + twice]:
                _Revoked(cluster, planned, name, effects, issuer=issuer).begin()
        yield


def _mouth(cluster: SimCluster) -> Node | None:
    """A node that is not revoked, and runs."""
    for host in cluster.running():
        if host.name not in cluster.revoked and not host.stopped:
            return host.node
    return None


class _Revoked:
    """One host that everybody else turns away, under whatever identity it comes.

    Where an ``issuer`` is named only that host is told, and it tells the others.
    """

    def __init__(
        self,
        cluster: SimCluster,
        planned: PlannedFault,
        name: str,
        effects: Effects,
        *,
        issuer: str | None = None,
    ) -> None:
        self._issuer = issuer
        self._cluster = cluster
        self._planned = planned
        self._name = name
        self._effects = effects
        self._marked = False
        self._leaves: set[bytes] = set()
        self._told: set[str] = set()
        self._set = RevocationSet()

    def begin(self) -> None:
        """Everybody knows from now on, in later boots too."""
        cluster = self._cluster
        cluster.on_boot.append(self._on_boot)
        self._add_identity()
        for host in cluster.running():
            if host.node is not None:
                self._tell(host, host.node)
        cluster.revoked.add(self._name)
        if self._issuer is None:
            cluster.history.add(What.REVOKED, self._name)

    def _add_identity(self) -> None:
        host, issuer = self._cluster.hosts[self._name], self._cluster.authority.issuer
        identity = host.identity
        self._leaves.add(identity.leaf)
        # Those that the host had before as well: what others carry of them is its news too.
        ids = [peer_id for peer_id, name in self._cluster.identities.items() if name == self._name]
        now_unix_s = host.clock.unix_s()
        reason = f"revoked by a fault at {self._issuer or 'every host'}"
        statements = [
            make_revocation(issuer, peer_id, now_unix_s, reason=reason)
            for peer_id in ids
            if not self._set.revokes(peer_id)
        ]
        verified = [open_revocation(statement, identity.trust) for statement in statements]
        self._set = self._set.merge(RevocationSet.of(verified))

    def _on_boot(self, host: SimHost, node: Node) -> None:
        if host.name != self._name:
            self._tell(host, node)
        elif host.identity.leaf not in self._leaves:
            # Installed anew, and revoked again before it has said a word.
            self._add_identity()
            for other in self._cluster.running():
                if other.node is not None and other.name != self._name:
                    other.node.revoke(self._set.statements)

    def _tell(self, host: SimHost, node: Node) -> None:
        if host.name == self._name:
            return
        judge = node.admission.judge

        def watched(
            der: bytes, expected: PeerId | None = None, issuer_der: bytes | None = None
        ) -> PeerId:
            try:
                return judge(der, expected, issuer_der)
            except SecurityError:
                if der in self._leaves:
                    self._turned_away()
                raise

        node.admission.judge = watched  # type: ignore[method-assign]  # the tap
        if self._issuer is not None:
            self._note_when_told(host.name, node)
        if self._is_told(host):
            node.revoke(self._set.statements)

    def _is_told(self, host: SimHost) -> bool:
        """Whether a host is told here. An issuer tells its own peer at each start."""
        return host.name != self._name if self._issuer is None else host.name == self._issuer

    def _note_when_told(self, at: str, node: Node) -> None:
        learned, identity = node.keeper._on_learned, len(self._leaves)

        def noted() -> None:
            before = at in self._told
            if not before and self._set.statements & node.revocations.statements:
                self._told.add(at)
                told = {"identity": identity, "at": at, "by": self._issuer}
                self._cluster.history.add(What.REVOKED, self._name, **told)
            learned()

        node.keeper._on_learned = noted

    def _turned_away(self) -> None:
        self._effects.add()
        if not self._marked:
            self._marked = True
            self._cluster.history.add(What.MARK, ENFORCED, node=self._name, fault=self._planned.id)


@asynccontextmanager
async def _forged_signature(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.ForgedSignature)
    rngs = {name: rng_of(cluster, planned, name) for name in planned.nodes}

    def speak(host: SimHost, node: Node, ear: Ear) -> None:
        for data in ear.forgeries(rngs[host.name]):
            effects.add(tell(node, data))

    async with listening(cluster, planned, every_s=fault.every_ms / 1000, speak=speak):
        yield


def _strangers(cluster: SimCluster, planned: PlannedFault) -> Strangers:
    overlay_id = next(iter(cluster.hosts.values())).identity.trust.overlay_id
    rng = rng_of(cluster, planned, "strangers")
    return Strangers(network=cluster.network, rng=rng, overlay_id=overlay_id)


def _addresses(cluster: SimCluster, planned: PlannedFault) -> list[Address]:
    """Where the target's peers listen, those that run."""
    hosts = [cluster.hosts[name] for name in planned.nodes]
    return [Address(host.address, PORT) for host in hosts if host.node is not None]


@asynccontextmanager
async def _garbage_bytes(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.GarbageBytes)
    strangers = _strangers(cluster, planned)

    async def come() -> None:
        async with trio.open_nursery() as nursery:
            while True:
                for address in _addresses(cluster, planned):
                    nursery.start_soon(
                        strangers.garbage, address, int(fault.size_bytes), effects.add
                    )
                await trio.sleep(1 / fault.connections_per_s)

    async with beside(come):
        yield


@asynccontextmanager
async def _slowloris(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.Slowloris)
    strangers = _strangers(cluster, planned)

    async def drip(name: str) -> None:
        address = Address(cluster.hosts[name].address, PORT)
        while True:
            await strangers.drip(address, fault.gap_ms / 1000, effects.add)

    async def come() -> None:
        async with trio.open_nursery() as nursery:
            for name in planned.nodes:
                for _ in range(int(fault.connections)):
                    nursery.start_soon(drip, name)

    async with beside(come):
        yield


@asynccontextmanager
async def _flood(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.Flood)
    strangers = _strangers(cluster, planned)

    async def come() -> None:
        due = 0.0
        async with trio.open_nursery() as nursery:
            while True:
                due += fault.connections_per_s * FLOOD_TICK_S
                for _ in range(int(due)):
                    for address in _addresses(cluster, planned):
                        nursery.start_soon(strangers.knock, address, effects.add)
                due -= int(due)
                await trio.sleep(FLOOD_TICK_S)

    async with beside(come):
        yield


@asynccontextmanager
async def _cross_tenant_probe(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.CrossTenantProbe)
    every_s = fault.every_ms / 1000

    def probing(name: str) -> Callable[[], Awaitable[None]]:
        prober = Prober(cluster, planned.id, name, rng_of(cluster, planned, name), effects.add)

        async def probe() -> None:
            while True:
                await trio.sleep(every_s)
                await prober.probe()

        return probe

    async def come() -> None:
        async with trio.open_nursery() as nursery:
            for name in planned.nodes:
                nursery.start_soon(probing(name))

    async with beside(come):
        yield


ACTIONS: dict[type[Fault], Action] = {
    security.RevokedKeepsTalking: _revoked_keeps_talking,
    security.RevokedInPartition: _revoked_in_partition,
    security.RevokedTwice: _revoked_in_partition,
    security.ForgedSignature: _forged_signature,
    security.GarbageBytes: _garbage_bytes,
    security.Slowloris: _slowloris,
    security.Flood: _flood,
    security.CrossTenantProbe: _cross_tenant_probe,
}
