"""Taps on what a node believes of others: ACCEPTED for each object, CHANGED where nothing may be.

And on what it signs itself: the ledger, and SEALED for each envelope.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

from chaos.history import What
from chaos.observe.ledger import body_of, tapped
from chaos.observe.watching import Watching
from overlay.forward import Accept, decode_answer
from overlay.gossip.effects import Effect
from overlay.gossip.gossip import Gossip
from overlay.gossip.messages import Head, decode_frame
from overlay.gossip.origins import Origins, TakenFrame
from overlay.gossip.relay import Origin
from overlay.node import Node
from overlay.serve import ForwardHandler
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from security.peer_id import PeerId
from security.record import Record
from security.revocation import RevocationSet
from security.signed import Kind

_ENVELOPE = struct.Struct(">BIQ8s")
"""Version, epoch, counter and what was derived of the key (``security/envelope.py``)."""

OWN = "itself"


class OriginsTap:
    """``Origins``, whatever stands for it in a node, with every acceptance told."""

    def __init__(self, inner: Origins, accepted: Callable[[str, PeerId, bytes, Any], None]) -> None:
        self.inner = inner
        self._accepted = accepted
        # Not looked up at each call: gossip asks for these at every message.
        self.known = inner.known
        self.graves = inner.graves
        self.overlay_id = inner.overlay_id

    def __getattr__(self, name: str) -> Any:  # whatever the origins have
        return getattr(self.inner, name)

    def __iter__(self) -> Iterator[tuple[PeerId, Origin]]:
        return iter(self.inner)

    def take_record(
        self, data: bytes, now_unix_s: float, revocations: RevocationSet
    ) -> Record | None:
        record = self.inner.take_record(data, now_unix_s, revocations)
        if record is not None and record.peer_id != self.inner.me:
            self._accepted("record", record.peer_id, data, record)
        return record

    def take_head(self, data: bytes) -> tuple[PeerId, Head] | None:
        taken = self.inner.take_head(data)
        if taken is not None:
            self._accepted("head", taken[0], data, taken[1])
        return taken

    def take_frame(self, data: bytes) -> TakenFrame | None:
        taken = self.inner.take_frame(data)
        if taken is not None:
            self._accepted("frame", taken.peer_id, data, taken)
        return taken


def sealed_with(envelope: bytes) -> tuple[str, int]:
    """Name of the key that an envelope was sealed with, and the counter that was used."""
    _, epoch, counter, key = _ENVELOPE.unpack_from(envelope)
    return f"{epoch:08x}{key.hex()}", int(counter)


def reached(gossip: Gossip, peer_id: PeerId, what: object) -> tuple[int, int, str | None]:
    """Generation, number and stream that an accepted object brings its origin to.

    Of a frame the number is how far the stream is here now.
    """
    match what:
        case Record(generation=generation, seq=seq):
            return generation, seq, None
        case Head(generation=generation, hseq=seq):
            return generation, seq, None
        case TakenFrame(frame=frame):
            seq = gossip.origins.known[peer_id].streams[frame.stream].seq
            return frame.generation, seq, frame.stream.hex()
    raise TypeError(f"a {type(what).__name__} was accepted")


class Hearing:
    """The taps on one boot of one node."""

    def __init__(self, watching: Watching, name: str, node: Node) -> None:
        self._watching = watching
        self._name = name
        self._node = node
        self._gossip: Gossip = node.knowledge.gossip
        self._sender = OWN

    def install(self) -> None:
        """Puts the taps on."""
        gossip = self._gossip
        self._tap_key(gossip)
        tap = OriginsTap(gossip.origins, self._on_accepted)
        gossip.origins = cast("Origins", tap)
        deliver = gossip.on_message

        def hear(sender: PeerId, data: bytes, now_s: float, now_unix_s: float) -> list[Effect]:
            self._sender = self._watching.name_of(sender)
            try:
                if self._watching.is_outsider(sender):
                    return self._outsider(deliver, sender, data, now_s, now_unix_s)
                return deliver(sender, data, now_s, now_unix_s)
            finally:
                self._sender = OWN

        gossip.on_message = hear  # type: ignore[method-assign]  # the tap
        self._tap_forwards()

    # -- what the node signs

    def _tap_key(self, gossip: Gossip) -> None:
        publisher, ledger = gossip.publisher, self._watching.ledger
        ledger.note_object(publisher.record())

        def on_signed(message: bytes, signature: bytes) -> None:
            ledger.note(message, signature)
            body = body_of(message, Kind.FRAME.value)
            if body is not None:
                self._on_sealed(decode_frame(body).envelope)

        publisher._identity = tapped(publisher._identity, on_signed)

    def _on_sealed(self, envelope: bytes) -> None:
        key, counter = sealed_with(envelope)
        self._watching.add(What.SEALED, self._name, key=key, counter=counter)

    # -- what it believes

    def _on_accepted(self, kind: str, peer_id: PeerId, data: bytes, what: Any) -> None:  # by kind
        generation, seq, stream = reached(self._gossip, peer_id, what)
        self._watching.add(
            What.ACCEPTED,
            self._name,
            origin=self._watching.name_of(peer_id),
            identity=self._watching.cluster.identity_of(peer_id),
            object=kind,
            generation=generation,
            seq=seq,
            stream=stream,
            sender=self._sender,
            genuine=self._watching.ledger.genuine(data),
        )

    def _outsider(
        self,
        deliver: Callable[[PeerId, bytes, float, float], list[Effect]],
        sender: PeerId,
        data: bytes,
        now_s: float,
        now_unix_s: float,
    ) -> list[Effect]:
        """A message of somebody by whom nothing may change."""
        before = self._fingerprint()
        try:
            return deliver(sender, data, now_s, now_unix_s)
        finally:
            after = self._fingerprint()
            changed = [name for name, value in after.items() if before[name] != value]
            if changed:
                self._changed(", ".join(changed))

    def _fingerprint(self) -> dict[str, object]:
        gossip = self._gossip
        return {
            "records, heads or frames": gossip.origins.counters.accepted,
            "tenants": [(k.object_id, k.epoch, k.version) for k in gossip.epochs.known()],
            "index": len(gossip.reader.index),
            "graves": len(gossip.origins.graves.known()),
        }

    def _changed(self, what: str) -> None:
        self._watching.add(What.CHANGED, self._name, sender=self._sender, changed=what)

    def _tap_forwards(self) -> None:
        """A forward that an outsider's connection brings must not be served."""
        node, watching = self._node, self._watching

        def accepted(peer_id: PeerId | None) -> None:
            sender = "a client" if peer_id is None else watching.name_of(peer_id)
            watching.add(What.CHANGED, self._name, sender=sender, changed="it served a forward")

        tap = _Forwards(node.forwards, watching.is_outsider, accepted)
        node.forwards = cast("ForwardHandler", tap)


class _Forwards:
    """A forward handler that tells which outsiders' forwards it accepts."""

    def __init__(
        self,
        inner: ForwardHandler,
        is_outsider: Callable[[PeerId], bool],
        accepted: Callable[[PeerId | None], None],
    ) -> None:
        self.inner = inner
        self._is_outsider = is_outsider
        self._accepted = accepted

    def __getattr__(self, name: str) -> Any:  # whatever the handler has
        return getattr(self.inner, name)

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        peer_id = connection.remote.peer_id
        if peer_id is None or self._is_outsider(peer_id):
            overheard = _Overheard(stream, lambda: self._accepted(peer_id))
            stream = cast("Stream", overheard)
        await self.inner(connection, stream)


class _Overheard:
    """A stream on which an ``Accept`` is noticed."""

    def __init__(self, inner: Stream, accepted: Callable[[], None]) -> None:
        self.inner = inner
        self._accepted = accepted

    def __getattr__(self, name: str) -> Any:  # whatever a stream has
        return getattr(self.inner, name)

    async def send(self, message: bytes) -> None:
        if isinstance(decode_answer(message), Accept):
            self._accepted()
        await self.inner.send(message)
