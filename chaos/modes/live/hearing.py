"""Taps in a live node: what it seals, accepts of others and serves, told as it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from chaos.history import What
from chaos.modes.live.orders import Accepted, Sealed, Served
from chaos.observe.hearing import OriginsTap, reached, sealed_with
from chaos.observe.ledger import body_of, tapped
from chaos.observe.serving import EngineTap
from chaos.observe.watching import Watching
from overlay.gossip.messages import decode_frame
from overlay.gossip.origins import Origins
from overlay.node import Node
from overlay.ports import Engine
from security.peer_id import PeerId
from security.signed import Kind


def listen_to(node: Node, tell: Callable[[Accepted | Sealed], None]) -> None:
    """Puts the taps on a node that does not run yet."""
    gossip = node.knowledge.gossip

    def on_signed(message: bytes, signature: bytes) -> None:
        del signature
        body = body_of(message, Kind.FRAME.value)
        if body is not None:
            key, counter = sealed_with(decode_frame(body).envelope)
            tell(Sealed(key=key, counter=counter))

    def on_accepted(kind: str, peer_id: PeerId, data: bytes, what: Any) -> None:  # by kind
        del data
        generation, seq, stream = reached(gossip, peer_id, what)
        tell(Accepted(origin=peer_id, object=kind, generation=generation, seq=seq, stream=stream))

    gossip.publisher._identity = tapped(gossip.publisher._identity, on_signed)
    gossip.origins = cast("Origins", OriginsTap(gossip.origins, on_accepted))


class _Telling:
    """The part of a run's ``Watching`` that a tap on an engine needs; names are made elsewhere."""

    def __init__(self, tell: Callable[[Served], None]) -> None:
        self._tell = tell

    def add(self, what: What, node: str, **data: Any) -> None:  # as in Event
        del what, node
        self._tell(Served(**data))

    def request_name(self, request_id: str) -> str:
        return request_id

    def tenant_name(self, tenant_id: str) -> str:
        return tenant_id


def listen_to_engine(engine: Engine, tell: Callable[[Served], None]) -> Engine:
    """The engine with a tap on it."""
    return cast("Engine", EngineTap(engine, cast("Watching", _Telling(tell)), "", None))
