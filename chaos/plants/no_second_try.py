"""AVAILABLE: a request that a peer fails is failed, and tried nowhere else."""

from __future__ import annotations

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant, become
from overlay.ingress import PeerIngress
from overlay.node import Node
from overlay.progressed import Progressed
from overlay.route import Route
from overlay.work import AttemptEnded, request_error


class _Despairing(PeerIngress):
    async def _after_failure(self, request: Progressed, route: Route, error: AttemptEnded) -> None:
        """The first failure is the client's."""
        await PeerIngress._after_failure(self, request, route, error)
        raise request_error("no_capable_peer", "the peer that was tried failed")


class NoSecondTry(Plant):
    """Every node's ingress."""

    name = "no-second-try"
    invariant = Id.AVAILABLE

    def node(self, node: Node) -> Node:
        become(node.ingress, _Despairing)
        return node
