"""NO-WORSE: a request goes where it is expected to take longest."""

from __future__ import annotations

import random
from collections.abc import Sequence

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant
from overlay.node import Node
from overlay.routing.candidate import Query
from overlay.routing.cost import Costed
from overlay.routing.policies import Order, Policy, Reason


class _Dearest:
    """``overlay.routing.policies.Policy`` with the order turned round."""

    def __init__(self, inner: Policy) -> None:
        self.name = inner.name

    def order(self, query: Query, costed: Sequence[Costed], rng: random.Random) -> Order:
        del query, rng
        dear = sorted(costed, key=lambda each: (-each[0], each[1]))
        return Order(peers=tuple(peer_id for _, peer_id, *_ in dear), reason=Reason.CHEAPEST)


class DearestFirst(Plant):
    """Every node's router."""

    name = "dearest-first"
    invariant = Id.NO_WORSE

    def node(self, node: Node) -> Node:
        node.router.policy = _Dearest(node.router.policy)
        return node
