"""Tags on the wire: 48 bits each, big-endian, one after the other, in ascending order."""

from __future__ import annotations

from collections.abc import Iterable

from overlay.errors import ProtocolError

TAG_BYTES = 6


def pack_tags(tags: Iterable[int]) -> bytes:
    """The bytes of some tags; the order tells nothing."""
    return b"".join([tag.to_bytes(TAG_BYTES, "big") for tag in sorted(tags)])


def unpack_tags(data: bytes) -> list[int]:
    """The tags in some bytes. Raises ProtocolError where they are no whole number of tags."""
    if len(data) % TAG_BYTES:
        raise ProtocolError("tags are six bytes each")
    return [
        int.from_bytes(data[start : start + TAG_BYTES], "big")
        for start in range(0, len(data), TAG_BYTES)
    ]
