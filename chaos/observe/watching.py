"""What all taps of a run share: the cluster, its names, and the truths that it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chaos.history import What
from chaos.modes.node.cluster import SimCluster
from chaos.observe.ledger import Ledger
from chaos.observe.truth import CacheTruth
from overlay.gossip.publisher import Publisher
from security.peer_id import PeerId
from security.tenant import TenantId


@dataclass(eq=False)
class Watching:
    """Ground truth of one cluster.

    Attributes:
        cluster: What is watched.
        ledger: What each process has signed.
        truths: What the engine of each node holds, by name.
        tenants: Tenants' names by their ids.
        add: Writes a fact: ``History.add``.
    """

    cluster: SimCluster
    ledger: Ledger = field(default_factory=Ledger)
    truths: dict[str, CacheTruth] = field(default_factory=dict)
    tenants: Mapping[TenantId, str] = field(init=False)
    add: Callable[..., object] = field(init=False)

    def __post_init__(self) -> None:
        self.add = self.cluster.history.add
        authority = self.cluster.authority
        names = self.cluster.schedule.cluster.tenants
        self.tenants = {authority.tenant_id(name): name for name in names}

    def landmark(self, event: str, node: str) -> None:
        """A landmark has come."""
        self.add(What.LANDMARK, event, node=node)

    def tap_publishing(self, name: str, publisher: Publisher) -> None:
        """Has a landmark come whenever a node publishes something new."""
        frames = publisher.frames

        def publish() -> list[bytes]:
            made = frames()
            if made:
                self.landmark("digest_published", name)
            return made

        publisher.frames = publish  # type: ignore[method-assign]  # the tap

    def name_of(self, peer_id: PeerId) -> str:
        """The node that has or had this identity; the peer id where none had."""
        return self.cluster.name_of(peer_id)

    def tenant_name(self, tenant_id: str) -> str:
        """A tenant's name; the id where it is none of this overlay's."""
        return self.tenants.get(TenantId(tenant_id), tenant_id)

    def request_name(self, request_id: str) -> str:
        """The planned id of a request; the product's own where nobody planned it."""
        return self.cluster.request_ids.get(request_id, request_id)

    def is_outsider(self, peer_id: PeerId) -> bool:
        """Whether a peer is revoked, or has never been one of the overlay."""
        name = self.cluster.identities.get(peer_id)
        return name is None or name in self.cluster.revoked

    def truth(self, name: str) -> CacheTruth:
        """What a node's engine holds, and has held in all its boots."""
        found = self.truths.get(name)
        if found is None:
            found = self.truths[name] = CacheTruth(self.cluster.history.now)
        return found
