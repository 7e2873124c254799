"""Whether replicas equal what their origins have published, and that what the engines hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chaos.modes.node.cluster import SimHost
from chaos.observe.watching import Watching
from inference.events import BlockHash
from inference.request import Namespace
from overlay.gossip.gossip import Gossip
from overlay.node import Node
from security.peer_id import PeerId
from security.tags import tags_of
from security.tenant import TenantId

Mark = tuple[int, bytes, int]
"""Generation, stream and number: how far something is published."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One observer's picture of what one origin publishes for one tenant."""

    observer: SimHost
    origin: SimHost
    tenant: TenantId


@dataclass(frozen=True, slots=True)
class Claims:
    """What a node publishes for one tenant, against what its engine holds."""

    phantom: int
    unpublished: int
    truncated: bool

    @property
    def hold(self) -> bool:
        """Whether it publishes what it holds, as far as there is room."""
        return not self.phantom and (self.truncated or not self.unpublished)


class Agreement:
    """Compares the nodes of one cluster."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    def pairs(self) -> Iterator[Pair]:
        """Every pair of core nodes that run and are admitted, for each tenant of both."""
        running = [host for host in self._watching.cluster.core() if self._counts(host)]
        for observer in running:
            for origin in running:
                if observer is origin:
                    continue
                for tenant_id, tenant in self._watching.tenants.items():
                    if tenant in observer.tenants and tenant in origin.tenants:
                        yield Pair(observer, origin, tenant_id)

    def agreed(self) -> tuple[int, int]:
        """How many pairs there are, and how many of them agree: as :meth:`agree` has it."""
        running = [host for host in self._watching.cluster.core() if self._counts(host)]
        total = agreeing = 0
        for tenant_id, tenant in self._watching.tenants.items():
            members = [host for host in running if tenant in host.tenants]
            gossips = [gossip_of(host) for host in members]
            for origin, told in zip(members, gossips, strict=True):
                place, mark = (origin.identity.peer_id, tenant_id), _mark(told, tenant_id)
                agree = [_agrees(known, place, mark) for known in gossips if known is not told]
                total += len(agree)
                agreeing += sum(agree)
        return total, agreeing

    def all_run(self) -> bool:
        """Whether every core node runs that is not revoked."""
        cluster = self._watching.cluster
        return all(host.node is not None or host.name in cluster.revoked for host in cluster.core())

    def _counts(self, host: SimHost) -> bool:
        return host.node is not None and host.name not in self._watching.cluster.revoked

    def agree(self, pair: Pair) -> bool:
        """Whether the replica is as new as its origin; a look at two numbers."""
        place = (pair.origin.identity.peer_id, pair.tenant)
        return _agrees(gossip_of(pair.observer), place, _mark(gossip_of(pair.origin), pair.tenant))

    def difference(self, pair: Pair) -> tuple[int, int]:
        """Tags that the replica lacks of what its origin has published, and has too many."""
        published = published_tags(gossip_of(pair.origin), pair.tenant)
        origin_id = pair.origin.identity.peer_id
        known = replica_tags(gossip_of(pair.observer), origin_id, pair.tenant)
        return len(published - known), len(known - published)

    def claims(self, host: SimHost, tenant_id: TenantId) -> Claims:
        """What a running node publishes against what is held."""
        truth, namespace = self._watching.truth(host.name), Namespace(tenant_id)
        gossip = gossip_of(host)
        published = published_blocks(gossip, tenant_id)
        held = truth.held(namespace)
        return Claims(
            phantom=len(published - held),
            unpublished=len(truth.ends(namespace) - published),
            truncated=gossip.forest.tree(namespace).digest.truncated,
        )

    def all_claims(self) -> Iterator[tuple[SimHost, str, Claims]]:
        """Of every core node that counts, for each of its tenants."""
        for host in self._watching.cluster.core():
            if self._counts(host):
                for tenant_id, tenant in self._watching.tenants.items():
                    if tenant in host.tenants:
                        yield host, tenant, self.claims(host, tenant_id)

    def converged(self) -> bool:
        """Whether all is known and so: the cheap look first, then every tag."""
        if not self.all_run():
            return False
        pairs = list(self.pairs())
        if not all(self.agree(pair) for pair in pairs):
            return False
        if any(self.difference(pair) != (0, 0) for pair in pairs):
            return False
        return all(claims.hold for _, _, claims in self.all_claims())


def gossip_of(host: SimHost) -> Gossip:
    """The gossip of a running node."""
    node: Node = host.running
    return node.knowledge.gossip


def _mark(origin: Gossip, tenant: TenantId) -> Mark | None:
    """How far an origin has published for a tenant; None where it has published nothing."""
    stream = origin.publisher._streams.get(tenant)
    if stream is None or stream.seq == 0:
        return None
    return origin.publisher.generation, stream.stream, stream.seq


def _agrees(observer: Gossip, place: tuple[PeerId, TenantId], mark: Mark | None) -> bool:
    """Whether an observer's replica of an origin's stream is as far as the mark."""
    read = observer.reader.reads.get(place)
    if read is None:
        return mark is None
    if mark is None:
        return not read.replica.tags
    return read.replica.visible and (read.generation, read.stream, read.replica.seq) == mark


def published_blocks(gossip: Gossip, tenant: TenantId) -> set[BlockHash]:
    """What an origin has published: its digest, less what the next frame will tell."""
    stream = gossip.publisher._streams.get(tenant)
    if stream is None or stream.seq == 0:
        return set()
    digest = stream._digest
    return {*digest.blocks()}.difference(digest._added).union(digest._removed)


def published_tags(gossip: Gossip, tenant: TenantId) -> set[int]:
    """The tags of what an origin has published."""
    stream = gossip.publisher._streams.get(tenant)
    blocks = published_blocks(gossip, tenant)
    if stream is None or not blocks:
        return set()
    return set(tags_of(stream.tenant.keys.tag_key, sorted(blocks)))


def replica_tags(gossip: Gossip, origin: PeerId, tenant: TenantId) -> set[int]:
    """What an observer believes that an origin has published."""
    read = gossip.reader.reads.get((origin, tenant))
    if read is None or not read.replica.visible:
        return set()
    return set(read.replica.tags)
