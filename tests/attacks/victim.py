"""An honest overlay of two hosts, what its state is, and that it answers while it is attacked.

Every host is ``overlay.node.run``; ``worlds.py`` puts them together. A third one is enrolled and
belongs to tenant ``beta`` alone: it is the adversary's, and runs only where a test starts it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import permutations

import trio

from chaos.world import Host, World, until
from inference.request import Namespace
from overlay.gauges import gossip_counts
from overlay.node import Node
from security.peer_id import PeerId
from security.tags import tags_of
from security.tenant import TenantId

ALPHA, BETA = "alpha", "beta"
QUESTION = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 6

MAY_GROW = (
    *("accepted", "old", "refused", "forgotten", "unreadable"),
    *("served accepted", "served refused", "served failed"),
)
"""Counters of objects that came and of forwards that were asked for; nothing else may change."""

Rows = Mapping[bytes, bytes]


def state_of(host: Host, stranger: PeerId | None, honest: set[PeerId]) -> dict[str, object]:
    """All that a host believes, holds and stores, but for what ``stranger`` says of itself.

    Left out is what moves with time alone: the numbers of heads and when they were heard.
    """
    node = host.running
    gossip = node.knowledge.gossip
    reader = gossip.reader

    def of_others(rows: Rows) -> Rows:
        own = str(stranger).encode()
        return {k: row for k, row in rows.items() if k.partition(b"|")[0] not in {own, b"t" + own}}

    return {
        "identity": (node.peer_id, node.generation, node.boot_salt),
        "revocations": node.revocations.digest,
        "links": {
            peer_id: id(node.peers.connection(peer_id))
            for peer_id in node.peers.up()
            if peer_id in honest
        },
        "records": {
            peer_id: (origin.record_bytes, origin.record.generation)
            for peer_id, origin in gossip.origins
            if peer_id != stranger
        },
        "carried": {
            peer_id: {name: each.after(0) for name, each in sorted(origin.streams.items())}
            for peer_id, origin in gossip.origins
            if peer_id != stranger
        },
        "replicas": {
            (shelf is reader._now, place): (
                read.generation,
                read.epoch,
                read.replica.seq,
                frozenset(read.replica.tags),
            )
            for shelf in (reader._now, reader._before)
            for place, read in shelf.reads.items()
            if place[0] != stranger
        },
        "index": {
            (shelf is reader._now, tenant, tag): others
            for shelf in (reader._now, reader._before)
            for tenant, table in shelf.index._tables.items()
            for tag, mask in table.tags.items()
            if (others := frozenset(shelf.index.peers(mask)) - {stranger})
        },
        "floors": {place: at for place, at in reader._floors.items() if place[0] != stranger},
        "generations": {
            peer_id: at for peer_id, at in reader._generations.items() if peer_id != stranger
        },
        "rosters": {
            tenant: (epoch.epoch, epoch.header.version, epoch.members)
            for tenant, epoch in gossip.epochs.mine.items()
        },
        "tenants": sorted(epoch.tenant_id for epoch in node.tenants),
        "roots": node.trust.now.roots,
        "epochs": {place: data for place, (_, data) in gossip.epochs._carried.items()},
        "cache": {
            tenant.tenant_id: frozenset(
                gossip.forest.tree(Namespace(tenant.tenant_id)).digest.blocks()
            )
            for tenant in node.tenants
        },
        "stored": {
            table: others
            for table, rows in host.storage._written.items()
            if (others := of_others(rows))
        },
    }


def counters_of(node: Node) -> dict[str, int]:
    """What has been counted of gossip and of forwards."""
    served = {f"served {name}": count for name, count in asdict(node.forwards.counters).items()}
    return {**gossip_counts(node), **served}


@dataclass
class Victim:
    """The honest hosts, and the one that is the adversary's."""

    world: World
    answers: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    asked: int = 0

    @property
    def honest(self) -> list[Host]:
        return self.world.hosts[:2]

    @property
    def nodes(self) -> list[Node]:
        return [host.running for host in self.honest]

    @property
    def guest(self) -> Host:
        """Enrolled, of tenant ``beta`` alone; the adversary has its keys."""
        return self.world.hosts[2]

    @property
    def overlay_id(self) -> str:
        return self.guest.identity.trust.overlay_id

    def tenant(self, name: str) -> TenantId:
        """The id of a tenant."""
        assert self.world.authority is not None
        return self.world.authority.tenant_id(name)

    @property
    def now_unix_s(self) -> float:
        up = next(host for host in self.honest if host.node is not None)
        return up.running.ports.clock.unix_s()

    async def ask(self, host: Host, tenant: str = ALPHA) -> None:
        """An honest request; whatever happens it is answered as it was the first time."""
        text = f"{QUESTION}{host.name} {tenant}?"
        answered = await self.world.ask(host, text, tenant=tenant, max_tokens=4)
        assert len(answered.token_ids) == 4
        first = self.answers.setdefault((host.name, tenant), answered.token_ids)
        assert answered.token_ids == first
        self.asked += 1

    async def ask_everybody(self) -> None:
        for host in self.honest:
            for tenant in (ALPHA, BETA):
                await self.ask(host, tenant)

    async def settle(self) -> None:
        """Until every request finds its blocks cached, and nobody has news to tell."""
        await until(lambda: all(len(node.peers.up()) >= 1 for node in self.nodes), step_s=0.02)
        while True:
            before = self.state()
            await self.ask_everybody()
            await trio.sleep(self.nodes[0].config.gossip.period_s)
            await until(self.is_agreed, step_s=0.02)
            if self.state() == before:
                return

    def is_agreed(self) -> bool:
        """Whether each honest host knows of the other what that has cached, and no more."""
        for here, other in permutations(self.nodes, 2):
            reads = here.knowledge.gossip.reader.reads
            for tenant in here.tenants:
                tree = other.knowledge.gossip.forest.tree(Namespace(tenant.tenant_id))
                read = reads.get((other.peer_id, tenant.tenant_id))
                known = set() if read is None else read.replica.tags
                if known != set(tags_of(tenant.keys.tag_key, tree.digest.blocks())):
                    return False
        return True

    def state(self, stranger: PeerId | None = None) -> list[dict[str, object]]:
        honest = {node.peer_id for node in self.nodes}
        return [state_of(host, stranger, honest) for host in self.honest]

    @asynccontextmanager
    async def unharmed(self, by: PeerId | None = None) -> AsyncIterator[None]:
        """The block is an attack: no honest state changes, and honest requests go on meanwhile.

        ``by`` may tell of itself what it likes. Counters of :data:`MAY_GROW` may grow, none falls.
        """
        await self.settle()
        before, counted = self.state(by), [counters_of(node) for node in self.nodes]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_asking)
            yield
            nursery.cancel_scope.cancel()
        # Shielded: a test that ends with its nursery cancelled is compared as well.
        with trio.CancelScope(shield=True):
            # What was said last has been heard, and told on, by the time of the second period.
            await trio.sleep(2 * self.nodes[0].config.gossip.period_s)
            asked = self.asked
            await self.ask_everybody()
            assert self.asked == asked + 4
        for here, was in zip(self.state(by), before, strict=True):
            for name, value in was.items():
                assert here[name] == value, f"the attack has changed {name}"
        for now, then in zip([counters_of(node) for node in self.nodes], counted, strict=True):
            assert set(now) == set(MAY_GROW)
            assert all(now[name] >= then[name] for name in MAY_GROW)

    async def _keep_asking(self) -> None:
        while True:
            await self.ask_everybody()
            await trio.sleep(self.nodes[0].config.gossip.period_s)
