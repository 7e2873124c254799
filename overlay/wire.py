"""Reading one message of a wire format whose types are msgspec structs."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from overlay.errors import ProtocolError

T = TypeVar("T")


def read(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    """The message in ``data``.

    Raises:
        ProtocolError: When it is not a ``what`` of this version; never quotes the content.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"malformed {what}: {type(error).__name__}") from None
