"""Reading one message of a wire format whose types are msgspec structs.

The version is looked at first: a later version may have other fields, and says so by its number.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from overlay.errors import ProtocolError

T = TypeVar("T")


class _Version(msgspec.Struct):
    """Any versioned map; its other fields are skipped."""

    v: Annotated[int, Meta(ge=0, le=255)]


_version = msgspec.msgpack.Decoder(_Version)


def read(
    decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str, version: int | None = None
) -> T:
    """The message in ``data``.

    Args:
        decoder: Of its type.
        data: What came.
        what: Its name for people.
        version: What its field ``v`` must be; None where it has none, or any is taken.

    Raises:
        ProtocolError: When it is not a ``what`` of this version; never quotes the content.
    """
    try:
        if version is not None and (said := _version.decode(data).v) != version:
            raise ProtocolError(f"{what} of version {said}, not {version}")
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"malformed {what}: {type(error).__name__}") from None
