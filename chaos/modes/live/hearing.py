"""Taps in a live node: what it seals, accepts of others and serves, told as it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from chaos.history import What
from chaos.modes.live.orders import Accepted, Sealed, Served
from chaos.observe.hearing import _ENVELOPE, OriginsTap
from chaos.observe.ledger import body_of, tapped
from chaos.observe.serving import EngineTap
from chaos.observe.watching import Watching
from overlay.gossip.messages import Head, decode_frame
from overlay.gossip.origins import Origins, TakenFrame
from overlay.node import Node
from overlay.ports import Engine
from security.peer_id import PeerId
from security.record import Record
from security.signed import Kind


def listen_to(node: Node, tell: Callable[[Accepted | Sealed], None]) -> None:
    """Puts the taps on a node that does not run yet."""
    gossip = node.knowledge.gossip

    def on_signed(message: bytes, signature: bytes) -> None:
        del signature
        body = body_of(message, Kind.FRAME.value)
        if body is not None:
            _, epoch, counter, key = _ENVELOPE.unpack_from(decode_frame(body).envelope)
            tell(Sealed(key=f"{epoch:08x}{key.hex()}", counter=counter))

    def on_accepted(kind: str, peer_id: PeerId, data: bytes, what: Any) -> None:  # by kind
        del data
        stream = None
        match what:
            case Record(generation=generation, seq=seq):
                pass
            case Head(generation=generation, hseq=seq):
                pass
            case TakenFrame(frame=frame):
                generation, stream = frame.generation, frame.stream.hex()
                seq = gossip.origins.known[peer_id].streams[frame.stream].seq
            case _:
                raise TypeError(f"a {type(what).__name__} was accepted")
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
