"""HELLO: the first frame each way, and what two ends agree on by it.

The one message that a later version may extend freely: unknown fields are skipped here, so that
two versions can find out what they have in common. Its size is checked before it is read.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from overlay.errors import ProtocolError, VersionMismatch
from overlay.transport import frame
from overlay.transport.limits import Windows

VERSION_MIN: Final = 1
VERSION_MAX: Final = 1
"""Versions of the multiplexer that this code speaks."""

FEATURE_ISSUES: Final = 1
"""Bit of ``features``: the sender has an issuer's desk and answers ``/rhizome/renew/1``."""

HELLO_BYTES_MAX: Final = 2048
BOOT_SALT_BYTES: Final = 16

Text = Annotated[str, Meta(max_length=128)]
Version = Annotated[int, Meta(ge=1, le=65535)]


class Role(enum.Enum):
    """What the sender of a HELLO is."""

    PEER = "peer"
    CLIENT = "client"


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """Who speaks, and what it is ready to take.

    ``overlay_id`` is empty where a client does not know it (Unix socket). ``generation`` and
    ``boot_salt`` tell one process of a peer from another; both are zero for clients. ``unix_s`` is
    the sender's clock, compared only to warn.
    """

    version_min: Version = VERSION_MIN
    version_max: Version = VERSION_MAX
    features: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    role: Role
    overlay_id: Text
    peer_id: Text | None
    generation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    boot_salt: Annotated[bytes, Meta(min_length=BOOT_SALT_BYTES, max_length=BOOT_SALT_BYTES)]
    windows: Windows
    revocations_digest: Annotated[bytes, Meta(max_length=32)]
    unix_s: Annotated[float, Meta(ge=0, le=1e12)]
    zone: Annotated[str, Meta(max_length=64)] | None = None


def client_hello(*, overlay_id: str, windows: Windows, unix_s: float) -> Hello:
    """The HELLO of a client, which has no identity of its own."""
    return Hello(
        role=Role.CLIENT,
        overlay_id=overlay_id,
        peer_id=None,
        generation=0,
        boot_salt=bytes(BOOT_SALT_BYTES),
        windows=windows,
        revocations_digest=b"",
        unix_s=unix_s,
    )


def encode_hello(hello: Hello) -> bytes:
    """The HELLO frame."""
    return frame.encode(frame.HELLO, 0, 0, msgspec.msgpack.encode(hello))


def decode_hello(payload: bytes) -> Hello:
    """Reads the payload of a HELLO frame. Raises ProtocolError, without the content."""
    if len(payload) > HELLO_BYTES_MAX:
        raise ProtocolError("a HELLO is too large")
    try:
        return msgspec.msgpack.decode(payload, type=Hello)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"malformed HELLO: {type(error).__name__}") from None


def common_version(ours: Hello, theirs: Hello) -> int:
    """The highest version that both speak. Raises VersionMismatch."""
    version = min(ours.version_max, theirs.version_max)
    if version < max(ours.version_min, theirs.version_min):
        raise VersionMismatch(
            f"the far side speaks versions {theirs.version_min} to {theirs.version_max}, "
            f"this side {ours.version_min} to {ours.version_max}"
        )
    return version
