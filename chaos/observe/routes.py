"""A tap on a router: ROUTED for each attempt, with what was claimed and what was truly held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chaos.history import What
from chaos.observe.watching import Watching
from inference.events import BlockHash
from inference.request import BLOCK_TOKENS, Namespace
from overlay.node import Node
from overlay.route import Route
from overlay.work import Work
from security.epoch import TenantEpoch
from security.peer_id import PeerId


class Routes:
    """The tap on one boot of one node."""

    def __init__(self, watching: Watching, name: str, node: Node) -> None:
        self._watching = watching
        self._name = name
        self._node = node
        self._hashes: Sequence[BlockHash] = ()

    def install(self) -> None:
        """Puts the tap on."""
        router, knowledge = self._node.router, self._node.knowledge
        lookup, decide = knowledge.lookup, router.route

        def look(tenant: TenantEpoch, hashes: Sequence[BlockHash]) -> dict[PeerId, int]:
            self._hashes = hashes
            return lookup(tenant, hashes)

        def route(work: Work, tenant: TenantEpoch, **how: Any) -> Route:  # the router's own
            self._hashes = ()
            route = decide(work, tenant, **how)
            self._routed(work, route)
            return route

        knowledge.lookup = look  # type: ignore[method-assign]  # the tap
        router.route = route  # type: ignore[method-assign]  # the tap

    def _routed(self, work: Work, route: Route) -> None:
        watching, me = self._watching, self._node.peer_id
        here, claims = 0, {}
        for candidate in route.decision.candidates:
            if candidate.local:
                here = candidate.matched_tokens
            elif candidate.matched_tokens:
                claims[watching.name_of(candidate.peer_id)] = candidate.matched_tokens
        chosen = watching.name_of(route.peer_id)
        asked = [*claims] if route.peer_id == me or chosen in claims else [*claims, chosen]
        held = {name: self._held(work, name) for name in sorted(asked)}
        ages = {
            watching.name_of(candidate.peer_id): round(candidate.view.digest_age_s, 6)
            for candidate in route.decision.candidates
        }
        false = [name for name in claims if claims[name] > held[name]]
        explained = self._node.decisions.find(work.request_id, None)
        watching.add(
            What.ROUTED,
            watching.request_name(work.request_id),
            attempt=0 if explained is None else len(explained.routes),
            node=chosen,
            here=here,
            claims=claims,
            held=held,
            age_s={name: ages[name] for name in false},
            false_s={name: self._false_for_s(work, name, claims[name]) for name in false},
        )
        if route.peer_id != me:
            watching.landmark("forwarded", self._name)

    def _held(self, work: Work, name: str) -> int:
        namespace = Namespace(work.tenant)
        return self._watching.truth(name).match(namespace, self._hashes) * BLOCK_TOKENS

    def _false_for_s(self, work: Work, name: str, claimed_tokens: int) -> float | None:
        block = self._hashes[claimed_tokens // BLOCK_TOKENS - 1]
        gone_s = self._watching.truth(name).gone_for_s(Namespace(work.tenant), block)
        return None if gone_s is None else round(gone_s, 6)
