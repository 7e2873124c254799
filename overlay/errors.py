"""Errors of the overlay. Blame is in the type: the far side, our caller, or nobody.

OverlayError
|-- PeerFault            the far side broke a rule of the protocol
|   |-- ProtocolError    malformed, out of order, over a limit; the connection ends
|   `-- VersionMismatch  no common protocol version
|-- LocalFault           our own caller did
|   |-- ConfigError      a setting is wrong; the message says what to write instead
|   |-- HomeError        the state folder cannot be used (locked, foreign, unreadable)
|   `-- RequestError     a client's request is refused; carries code, HTTP status and param
`-- Unavailable          nobody's fault
    |-- PeerGone         the connection ended while something was under way
    |   `-- NotAdmitted  the far side refuses us; carries its word for why
    |-- StreamReset      the far side reset the stream; carries its code
    |-- Deadline         it took longer than was allowed
    |-- Overloaded       a queue or quota of ours is full
    `-- StorageError     the state could not be read or written
        `-- StorageFull  no space is left
"""

from __future__ import annotations


class OverlayError(Exception):
    """Base of all errors raised by ``overlay``."""


class PeerFault(OverlayError):
    """The far side broke a rule."""


class ProtocolError(PeerFault):
    """Malformed, out of order or over a limit."""


class VersionMismatch(PeerFault):
    """No protocol version in common."""


class LocalFault(OverlayError):
    """Our own caller broke a rule."""


class ConfigError(LocalFault):
    """A setting is wrong; the message says what to write instead."""


class HomeError(LocalFault):
    """The state folder cannot be used; the message says why and what to do."""


class RequestError(LocalFault):
    """A client's request is refused or has failed.

    ``code`` is stable (``context_length_exceeded``), ``status`` the HTTP status that says the
    same, ``param`` the offending field, ``retry_after_s`` set where trying again may help.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 400,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param
        self.retry_after_s = retry_after_s


def draining() -> RequestError:
    """What a stopping peer answers to a new request."""
    return RequestError(
        "this peer is draining: ask another one, or this one when it has started again",
        code="draining",
        status=503,
        retry_after_s=5.0,
    )


class Unavailable(OverlayError):
    """Nobody's fault; it may work elsewhere or later."""


class PeerGone(Unavailable):
    """The connection ended while something was under way."""


class NotAdmitted(PeerGone):
    """The far side refuses us before its HELLO; ``reason`` is its word for why, unsigned."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the far side refuses us: {reason}")
        self.reason = reason


class StreamReset(Unavailable):
    """The far side reset the stream with ``code``."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset by the far side, code {code}")
        self.code = code


class Deadline(Unavailable):
    """It took longer than was allowed."""


class Overloaded(Unavailable):
    """A queue or quota of ours is full."""


class RostersUnheard(Unavailable):
    """Since its start this issuer has heard no other host, which may know newer rosters."""


class StorageError(Unavailable):
    """The state could not be read or written."""


class StorageFull(StorageError):
    """No space is left on the device."""
