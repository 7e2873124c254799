"""AUTHORITY: what is said of a peer that is known is believed without its signature."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant, become
from overlay.gossip.origins import Origins
from overlay.node import Node
from security.peer_id import peer_id_of_bytes
from security.record import Record, RecordBody
from security.revocation import RevocationSet
from security.signed import Kind, SignedObject

_signed = msgspec.msgpack.Decoder(SignedObject)
_body = msgspec.msgpack.Decoder(RecordBody)


class _Gullible(Origins):
    __slots__ = ()

    def take_record(
        self, data: bytes, now_unix_s: float, revocations: RevocationSet
    ) -> Record | None:
        """A newer record of a known generation is taken as it stands."""
        taken = Origins.take_record(self, data, now_unix_s, revocations)
        return self._unsigned(data) if taken is None else taken

    def _unsigned(self, data: bytes) -> Record | None:
        try:
            signed = _signed.decode(data)
            body = _body.decode(signed.body)
        except (msgspec.MsgspecError, UnicodeError):
            return None
        if signed.kind != Kind.RECORD:
            return None
        origin = self.known.get(peer_id_of_bytes(signed.signer))
        if origin is None or body.generation != origin.record.generation:
            return None
        record = replace(origin.record, seq=body.seq)
        if not record.supersedes(origin.record):
            return None
        origin.record, origin.record_bytes = record, data
        return record


class UnsignedRecords(Plant):
    """Every node's gossip."""

    name = "unsigned-records"
    invariant = Id.AUTHORITY

    def node(self, node: Node) -> Node:
        become(node.knowledge.gossip.origins, _Gullible)
        return node
