"""What a tenant's members derive from its two secrets.

The *chain secret* stays over epochs until a hard rotation: block hashes and the engine's cache
salt hang on it. The *epoch key* changes when a member leaves: tags, stream ids and all sealing hang
on it. Everything is HKDF-SHA256 with a label of its own. After "sender keys":
each host seals with keys that no other host, process start or kind shares.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from security.peer_id import PeerId, public_bytes_of
from security.tenant import TenantId

SECRET_BYTES = 32
STREAM_ID_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantKeys:
    """The keys of one tenant in one epoch.

    ``chain_key`` keys block hashes (32 bytes), ``salt`` is the engine's cache salt (32 bytes),
    ``tag_key`` makes tags of block hashes (16 bytes).
    """

    tenant_id: TenantId
    epoch: int
    chain_key: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    tag_key: bytes = field(repr=False)
    _epoch_key: bytes = field(repr=False)
    _stream_key: bytes = field(repr=False)

    @classmethod
    def derive(
        cls, *, tenant_id: TenantId, epoch: int, epoch_key: bytes, chain_secret: bytes
    ) -> TenantKeys:
        """Derives them from the secrets that an EPOCH object carries."""
        tenant = bytes.fromhex(tenant_id)
        return cls(
            tenant_id=tenant_id,
            epoch=epoch,
            chain_key=derive(chain_secret, b"chain", tenant),
            salt=derive(chain_secret, b"cache salt", tenant),
            tag_key=derive(epoch_key, b"tag", tenant, size_bytes=16),
            _epoch_key=epoch_key,
            _stream_key=derive(epoch_key, b"stream", tenant),
        )

    def stream_id(self, origin: PeerId, generation: int) -> bytes:
        """8 bytes that name a stream on the wire and tell non-members nothing about its tenant."""
        message = public_bytes_of(origin) + struct.pack(">Q", generation)
        return hmac.digest(self._stream_key, message, "sha256")[:STREAM_ID_BYTES]

    def sealing_key(self, kind: str, peer: PeerId, generation: int, boot_salt: bytes) -> bytes:
        """The 32 byte key with which ``peer`` seals ``kind`` in one start of its process."""
        context = (
            bytes.fromhex(self.tenant_id)
            + struct.pack(">IQ", self.epoch, generation)
            + public_bytes_of(peer)
            + boot_salt
            + kind.encode()
        )
        return derive(self._epoch_key, b"seal", context)


def derive(secret: bytes, label: bytes, context: bytes, *, size_bytes: int = SECRET_BYTES) -> bytes:
    """HKDF-SHA256 of a secret for one purpose."""
    info = b"rhizome/" + label + b"/v1\0" + context
    return HKDF(hashes.SHA256(), size_bytes, salt=None, info=info).derive(secret)
