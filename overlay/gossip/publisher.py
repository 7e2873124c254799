"""What this host tells the others: its record, its head, and a stream for each of its tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from inference.request import Namespace
from overlay.gossip.blocktree import BlockForest
from overlay.gossip.messages import (
    FRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    STREAMS_MAX,
    VERSION,
    Head,
    Known,
    LoadHint,
)
from overlay.gossip.messages import encode as encode_gossip
from overlay.gossip.relay import CarriedStream, Origin
from overlay.gossip.stream import OriginStream
from overlay.identity import Identity
from security.certificate import parse_leaf
from security.envelope import Sealers
from security.epoch import TenantEpoch
from security.record import Record, sign_record
from security.signed import Kind, sign_as_peer
from security.tenant import TenantId

BUNDLE_BYTES_MAX = MESSAGE_BYTES_MAX - FRAME_BYTES_MAX // 2
"""Frames of one period beyond this are left to anti-entropy."""


class Publisher:
    """This host as an origin. Sequence numbers are those of one generation."""

    def __init__(self, identity: Identity, generation: int, boot_salt: bytes) -> None:
        self._identity = identity
        self._boot_salt = boot_salt
        self._leaf = parse_leaf(identity.leaf)
        self._addresses: tuple[str, ...] = ()
        self._zone: str | None = None
        self._models: tuple[str, ...] = ()
        self.load = LoadHint()
        self.restart(generation)

    def restart(self, generation: int) -> None:
        """Begins a generation: numbers, streams and sealing keys are new."""
        self.generation = generation
        self._sealers = Sealers(self._identity.peer_id, generation, self._boot_salt)
        self._streams: dict[TenantId, OriginStream] = {}
        self._carried: dict[bytes, CarriedStream] = {}
        self._hseq = 0
        self._record_seq = 0
        self._record = self._sign_record()
        self._record_changed = True

    # -- the record

    def describe(self, addresses: Sequence[str], zone: str | None, models: Sequence[str]) -> None:
        """A new record, if anything in it is new."""
        new = (tuple(addresses), zone, tuple(models))
        if new != (self._addresses, self._zone, self._models):
            self._addresses, self._zone, self._models = new
            self._record_seq += 1
            self._record = self._sign_record()
            self._record_changed = True

    def adopt(self, leaf: bytes, issuer: bytes) -> None:
        """This host has another certificate: a new record shows it."""
        self._identity = replace(self._identity, leaf=leaf, issuer=issuer)
        self._leaf = parse_leaf(leaf)
        self._record_seq += 1
        self._record = self._sign_record()
        self._record_changed = True

    def record(self) -> bytes:
        """The record as it is now."""
        return self._record

    def record_changed(self) -> bool:
        """Whether the record is new since the last call."""
        changed, self._record_changed = self._record_changed, False
        return changed

    def is_other(self, record: Record) -> bool:
        """Whether a record of our name is another process's, and not older than ours."""
        return record.boot_salt != self._boot_salt and record.generation >= self.generation

    def _sign_record(self) -> bytes:
        return sign_record(
            self._identity.keys,
            self._identity.trust.overlay_id,
            leaf=self._identity.leaf,
            issuer=self._identity.issuer,
            addresses=self._addresses,
            generation=self.generation,
            boot_salt=self._boot_salt,
            seq=self._record_seq,
            zone=self._zone,
            models=self._models,
        )

    # -- the streams

    def sync(self, tenants: Mapping[TenantId, TenantEpoch], forest: BlockForest) -> None:
        """One stream for each tenant, in its present epoch; the first ones where they are many."""
        tenants = dict(sorted(tenants.items())[:STREAMS_MAX])
        for tenant in [tenant for tenant in self._streams if tenant not in tenants]:
            del self._carried[self._streams.pop(tenant).stream]
        for tenant_id, epoch in tenants.items():
            stream = self._streams.get(tenant_id)
            if stream is not None and stream.tenant.epoch == epoch.epoch:
                stream.tenant = epoch
                continue
            if stream is not None:
                del self._carried[stream.stream]
            digest = forest.tree(Namespace(tenant_id)).digest
            stream = OriginStream(
                self._identity.keys,
                self._identity.trust.overlay_id,
                self._sealers,
                epoch,
                self.generation,
                digest,
            )
            self._streams[tenant_id] = stream
            self._carried[stream.stream] = CarriedStream()

    def frames(self) -> list[bytes]:
        """The new frames of this period, kept for repairs too."""
        told: list[bytes] = []
        for _, stream in sorted(self._streams.items()):
            for data, checkpoint in stream.frames():
                self._carried[stream.stream].add(stream.seq, data, checkpoint=checkpoint)
                size = sum(map(len, told)) + len(data)
                if size <= BUNDLE_BYTES_MAX and len(told) < STREAMS_MAX:
                    told.append(data)
        return told

    # -- the head

    def head(self, now_unix_s: float) -> bytes:
        """A new signed head."""
        self._hseq += 1
        head = Head(
            v=VERSION,
            generation=self.generation,
            hseq=self._hseq,
            unix_ms=max(0, int(now_unix_s * 1000)),
            load=self.load,
            streams=[stream.head for _, stream in sorted(self._streams.items())],
        )
        overlay_id = self._identity.trust.overlay_id
        return sign_as_peer(self._identity.keys, overlay_id, Kind.HEAD, encode_gossip(head))

    def known(self) -> Known:
        """This host, as one of those that it knows."""
        return self.as_origin().known(self._identity.peer_id)

    def as_origin(self) -> Origin:
        """This host as an origin among others, for repairs."""
        leaf = self._leaf
        record = Record(
            peer_id=self._identity.peer_id,
            leaf=leaf,
            issuer_id=leaf.issuer_id,
            issuer_der=self._identity.issuer,
            addresses=self._addresses,
            generation=self.generation,
            boot_salt=self._boot_salt,
            seq=self._record_seq,
            zone=self._zone,
            models=self._models,
        )
        return Origin(record, self._record, streams=self._carried)
