"""Decoding what came from outside: either a value of the type, or ``MalformedObject``."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from security.errors import MalformedObject, UnsupportedVersion


class Versioned(Protocol):
    """A form on the wire that begins with its version."""

    @property
    def v(self) -> int: ...


T = TypeVar("T", bound=Versioned)


def decode(data: bytes, form: type[T], version: int, what: str) -> T:
    """Reads ``what`` from its msgpack form. The caller has checked the size.

    Raises:
        MalformedObject: when it is something else.
        UnsupportedVersion: when it is of another version.
    """
    try:
        value = msgspec.msgpack.decode(data, type=form)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # ValueError is text that is not UTF-8, which msgspec lets through as Python's own error.
        raise MalformedObject(f"not {what}") from None
    if value.v != version:
        raise UnsupportedVersion(f"{what} of version {value.v}")
    return value
