"""CONVERGE: nobody answers what others lack, so that what was lost once stays lost."""

from __future__ import annotations

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant, become
from overlay.gossip.antientropy import lacks
from overlay.gossip.effects import Effect
from overlay.gossip.gossip import Gossip
from overlay.gossip.messages import Heads
from overlay.node import Node
from security.peer_id import PeerId


class _Mute(Gossip):
    def _answer(self, sender: PeerId, heads: Heads, now_s: float) -> list[Effect]:
        """Asks for what is lacking here, and gives nothing."""
        if not heads.answer and lacks(heads, self.epochs, self._me, self.origins):
            return self._ask(sender, now_s)
        return []


class NoRepairs(Plant):
    """Every node's gossip."""

    name = "no-repairs"
    invariant = Id.CONVERGE

    def node(self, node: Node) -> Node:
        become(node.knowledge.gossip, _Mute)
        return node
