"""MONOTONE: a head is taken in without asking whether a newer one was."""

from __future__ import annotations

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant, become
from overlay.gossip.messages import Head
from overlay.gossip.origins import Origins
from overlay.node import Node
from security.peer_id import PeerId


class _Forgetful(Origins):
    __slots__ = ()

    def take_head(self, data: bytes) -> tuple[PeerId, Head] | None:
        """Of every origin the last head that came, whatever its number."""
        before = {peer_id: origin.head for peer_id, origin in self}
        for origin in self.known.values():
            origin.head = None
        taken = Origins.take_head(self, data)
        for peer_id, origin in self:
            if origin.head is None:
                origin.head = before.get(peer_id)
        return taken


class OldHeads(Plant):
    """Every node's gossip."""

    name = "old-heads"
    invariant = Id.MONOTONE

    def node(self, node: Node) -> Node:
        become(node.knowledge.gossip.origins, _Forgetful)
        return node
