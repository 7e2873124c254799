"""Decoding what came from outside: a value of the type, or one of two errors.

The version is looked at first: a later version may have other fields, and says so by its number.
"""

from __future__ import annotations

from typing import Annotated, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from security.errors import MalformedObject, UnsupportedVersion

_ARRAYS: Final = frozenset({*range(0x90, 0xA0), 0xDC, 0xDD})
"""First bytes of a msgpack array."""

_Number = Annotated[int, Meta(ge=0, le=255)]


class _InMap(msgspec.Struct):
    """Any versioned map; its other fields are skipped."""

    v: _Number


class _InArray(msgspec.Struct, array_like=True):
    """Any array that begins with its version; its other fields are skipped."""

    v: _Number


_in_map = msgspec.msgpack.Decoder(_InMap)
_in_array = msgspec.msgpack.Decoder(_InArray)


class Versioned(Protocol):
    """A form on the wire that carries its version."""

    @property
    def v(self) -> int: ...


T = TypeVar("T", bound=Versioned)


def decode(data: bytes, form: type[T], version: int, what: str) -> T:
    """Reads ``what`` from its msgpack form. The caller has checked the size.

    Raises:
        MalformedObject: when it is something else.
        UnsupportedVersion: when it is of another version, whatever else it holds.
    """
    try:
        said = (_in_array if data[:1] and data[0] in _ARRAYS else _in_map).decode(data).v
        if said != version:
            raise UnsupportedVersion(f"{what} of version {said}")
        return msgspec.msgpack.decode(data, type=form)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # ValueError is text that is not UTF-8, which msgspec lets through as Python's own error.
        raise MalformedObject(f"not {what}") from None
