"""The origin's side of one stream: this host's published set for one tenant, as numbered frames.

Deltas are numbered from 1. A checkpoint of number n holds everything up to delta n. A new one is
made whenever the deltas since the last one have become many or large, so that whoever carries the
stream never needs more than a checkpoint and a short tail.
"""

from __future__ import annotations

from inference.events import BlockHash
from overlay.gossip.digest import Digest
from overlay.gossip.messages import VERSION, Content, Frame, StreamHead, encode
from overlay.gossip.tagset import pack_tags
from security.certificate import OverlayId
from security.envelope import Sealers
from security.epoch import TenantEpoch
from security.keys import HostKeys
from security.signed import Kind, sign_as_peer
from security.tags import Tagger

TAIL_FRAMES_MAX = 32
TAIL_BYTES_MIN = 4096
"""A tail may be as large as the checkpoint before it, but a small one is never too large."""

DELTA, CHECKPOINT = "delta", "checkpoint"


class OriginStream:
    """Frames of one tenant's published set. ``stream`` is the opaque name on the wire."""

    def __init__(
        self,
        keys: HostKeys,
        overlay_id: OverlayId,
        sealers: Sealers,
        tenant: TenantEpoch,
        generation: int,
        digest: Digest,
    ) -> None:
        self._keys = keys
        self._overlay_id = overlay_id
        self._sealers = sealers
        self.tenant = tenant
        self._generation = generation
        self._digest = digest
        self._tagger = Tagger(tenant.keys.tag_key)
        self.stream = tenant.keys.stream_id(keys.peer_id, generation)
        self.seq = 0
        self._checkpoint_seq = 0
        self._checkpoint_bytes = 0
        self._tail_frames = 0
        self._tail_bytes = 0
        digest.take_changes()
        self._pending_checkpoint = bool(len(digest))

    @property
    def head(self) -> StreamHead:
        return StreamHead(stream=self.stream, seq=self.seq, checkpoint=self._checkpoint_seq)

    def frames(self) -> list[tuple[bytes, bool]]:
        """The signed frames of this period, each with whether it is a checkpoint.

        Nothing where nothing changed, a delta, and sometimes a checkpoint behind it.
        """
        added, removed = self._digest.take_changes()
        made: list[tuple[bytes, bool]] = []
        if self._pending_checkpoint:
            self.seq += 1
            self._pending_checkpoint = False
            return [(self._checkpoint(), True)]
        if added or removed:
            self.seq += 1
            frame = self._frame(self._packed(added), self._packed(removed))
            self._tail_frames += 1
            self._tail_bytes += len(frame)
            made.append((frame, False))
            if self._tail_is_long():
                made.append((self._checkpoint(), True))
        return made

    def _tail_is_long(self) -> bool:
        too_large = self._tail_bytes > max(TAIL_BYTES_MIN, self._checkpoint_bytes)
        return self._tail_frames >= TAIL_FRAMES_MAX or too_large

    def _checkpoint(self) -> bytes:
        frame = self._frame(self._packed(self._digest.blocks()), b"", checkpoint=True)
        self._checkpoint_seq = self.seq
        self._checkpoint_bytes = len(frame)
        self._tail_frames = self._tail_bytes = 0
        return frame

    def _packed(self, blocks: list[BlockHash]) -> bytes:
        return pack_tags(self._tagger.tags_of(blocks)) if blocks else b""

    def _frame(self, added: bytes, removed: bytes, *, checkpoint: bool = False) -> bytes:
        content = encode(Content(added, removed, self._digest.truncated))
        header = frame_header(self.stream, self._generation, self.seq)
        kind = CHECKPOINT if checkpoint else DELTA
        envelope = self._sealers.of(self.tenant.keys).seal(kind, header, content)
        frame = Frame(
            v=VERSION,
            stream=self.stream,
            generation=self._generation,
            seq=self.seq,
            checkpoint=checkpoint,
            envelope=envelope,
        )
        return sign_as_peer(self._keys, self._overlay_id, Kind.FRAME, encode(frame))


def frame_header(stream: bytes, generation: int, seq: int) -> bytes:
    """What stands beside the envelope in a frame, and is authenticated with it."""
    return stream + generation.to_bytes(8, "big") + seq.to_bytes(8, "big")
