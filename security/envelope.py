"""Envelopes: what one member of a tenant says to the others, carried by hosts that cannot read it.

Rules
1. The key is HKDF(epoch key; kind, sealing peer, generation, boot salt): no two hosts, starts of a
   process or kinds share one, and a cloned or restored host has another: its boot salt is fresh.
2. The nonce is a counter of its own for each (key, kind), and never repeats; when it ends, sealing
   ends (``SealerExhausted``). One :class:`Sealers` per process start owns all counters: asked again
   for the same tenant and epoch (a roster of a new version, say) it gives the same sealer.
3. The header of the frame is authenticated (associated data). ChaCha20-Poly1305 does not commit to
   its key, so the envelope carries 8 bytes derived from it, checked first.
4. ``BadSeal`` says no more than that it could not be opened.

On the wire: version (1 byte), epoch (4), counter (8), commitment (8), ciphertext and tag.
"""

from __future__ import annotations

import hmac
import re
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from security.errors import BadSeal, LimitExceeded, SealerExhausted
from security.peer_id import PeerId
from security.tenant import TenantId
from security.tenant_keys import TenantKeys

VERSION = 1
ENVELOPE_BYTES_MAX = 512 << 10
COUNTER_MAX = (1 << 32) - 1
"""68 years at two frames a second; far below what the cipher allows."""

SEALERS_MAX = 4096
BOOT_SALT_BYTES = 16

_PREFIX = struct.Struct(">BIQ8s")
_TAG_BYTES = 16
_COMMITMENT_BYTES = 8
OVERHEAD_BYTES = _PREFIX.size + _TAG_BYTES
_KIND = re.compile(r"[a-z][a-z-]{0,15}")


class Sealer:
    """Seals what this host says to one tenant in one epoch, in one start of its process."""

    def __init__(self, keys: TenantKeys, peer: PeerId, generation: int, boot_salt: bytes) -> None:
        """Begins all counters at zero: make one per process start only (see ``Sealers``).

        Raises:
            LimitExceeded: when the boot salt has not 16 bytes.
        """
        self._keys = _KindKeys(keys, peer, generation, boot_salt)
        self._counters: dict[str, int] = {}

    def seal(self, kind: str, header: bytes, plaintext: bytes) -> bytes:
        """Seals ``plaintext`` under the next nonce of ``kind``.

        Args:
            kind: what is sealed, ``[a-z-]``, at most 16 letters; each has a key of its own.
            header: travels beside the envelope in the clear, and is authenticated.
            plaintext: only members read it.

        Raises:
            LimitExceeded: when it is too large, or the kind is none.
            SealerExhausted: when the counter has ended.
        """
        if len(plaintext) + OVERHEAD_BYTES > ENVELOPE_BYTES_MAX:
            raise LimitExceeded(f"{len(plaintext)} bytes are too many for an envelope")
        key = self._keys.of(kind)
        counter = self._counters.get(kind, 0)
        if counter > COUNTER_MAX:
            raise SealerExhausted("this sealing key has no nonces left")
        self._counters[kind] = counter + 1
        prefix = _PREFIX.pack(VERSION, self._keys.epoch, counter, key.commitment)
        return prefix + key.cipher.encrypt(_nonce(counter), plaintext, prefix + header)


class Opener:
    """Opens what one host sealed for one tenant, in one epoch and one start of its process."""

    def __init__(self, keys: TenantKeys, origin: PeerId, generation: int, boot_salt: bytes) -> None:
        """Takes what the origin's record says of it.

        Raises:
            LimitExceeded: when the boot salt has not 16 bytes.
        """
        self._keys = _KindKeys(keys, origin, generation, boot_salt)

    def open(self, kind: str, header: bytes, envelope: bytes) -> bytes:
        """Returns what was sealed.

        Raises:
            BadSeal: when it was not sealed so, by that host, with that header.
        """
        if not _PREFIX.size + _TAG_BYTES <= len(envelope) <= ENVELOPE_BYTES_MAX:
            raise BadSeal("not an envelope")
        version, epoch, counter, commitment = _PREFIX.unpack_from(envelope)
        key = self._keys.of(kind)
        if (version, epoch) != (VERSION, self._keys.epoch):
            raise BadSeal("an envelope of another version or epoch")
        if not hmac.compare_digest(commitment, key.commitment):
            raise BadSeal("an envelope of another key")
        prefix, sealed = envelope[: _PREFIX.size], envelope[_PREFIX.size :]
        try:
            return key.cipher.decrypt(_nonce(counter), sealed, prefix + header)
        except InvalidTag:
            raise BadSeal("an envelope that was altered") from None


class Sealers:
    """All sealers of one start of this host's process: the owner of every nonce counter."""

    def __init__(self, peer: PeerId, generation: int, boot_salt: bytes) -> None:
        self._peer = peer
        self._generation = generation
        self._boot_salt = boot_salt
        self._sealers: dict[tuple[TenantId, int], Sealer] = {}

    def of(self, keys: TenantKeys) -> Sealer:
        """The one sealer for a tenant's epoch.

        Raises:
            LimitExceeded: after too many epochs; counters are never forgotten.
        """
        place = (keys.tenant_id, keys.epoch)
        sealer = self._sealers.get(place)
        if sealer is None:
            if len(self._sealers) >= SEALERS_MAX:
                raise LimitExceeded(f"more than {SEALERS_MAX} epochs in one process")
            sealer = Sealer(keys, self._peer, self._generation, self._boot_salt)
            self._sealers[place] = sealer
        return sealer


class _Key:
    __slots__ = ("cipher", "commitment")

    def __init__(self, key: bytes) -> None:
        self.cipher = ChaCha20Poly1305(key)
        self.commitment = hmac.digest(key, b"rhizome/commit/v1\0", "sha256")[:_COMMITMENT_BYTES]


class _KindKeys:
    def __init__(self, keys: TenantKeys, peer: PeerId, generation: int, boot_salt: bytes) -> None:
        if len(boot_salt) != BOOT_SALT_BYTES:
            raise LimitExceeded(f"a boot salt has {BOOT_SALT_BYTES} bytes")
        self.epoch = keys.epoch
        self._tenant_keys = keys
        self._peer = peer
        self._generation = generation
        self._boot_salt = boot_salt
        self._by_kind: dict[str, _Key] = {}

    def of(self, kind: str) -> _Key:
        key = self._by_kind.get(kind)
        if key is None:
            if not _KIND.fullmatch(kind):
                raise LimitExceeded("a kind has 1 to 16 small letters and hyphens")
            raw = self._tenant_keys.sealing_key(kind, self._peer, self._generation, self._boot_salt)
            key = self._by_kind[kind] = _Key(raw)
        return key


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
