"""ACCOUNT: an answer that goes on elsewhere says its last token again."""

from __future__ import annotations

from dataclasses import replace

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant, become
from overlay.forward import Tokens
from overlay.ingress import PeerIngress
from overlay.node import Node
from overlay.progressed import Attempt, Progressed
from overlay.request import Delta


class _Stuttering(PeerIngress):
    def _delta(self, request: Progressed, attempt: Attempt, piece: Tokens) -> Delta:
        last = request.emitted[-1:]
        delta = PeerIngress._delta(self, request, attempt, piece)
        if not request.resumes or attempt.pieces > 1 or delta.token_ids is None:
            return delta
        return replace(delta, token_ids=(*last, *delta.token_ids))


class TokenTwice(Plant):
    """Every node's ingress."""

    name = "token-twice-on-resume"
    invariant = Id.ACCOUNT

    def node(self, node: Node) -> Node:
        become(node.ingress, _Stuttering)
        return node
