"""What a multiplexer tells its driver. Streams are named by keys as in ``mux.py``."""

from __future__ import annotations

from typing import NamedTuple


class Opened(NamedTuple):
    """The far side opened a stream; ``deadline_ms`` 0 means none."""

    key: int
    protocol: str
    body: bytes
    deadline_ms: int
    last: bool


class Received(NamedTuple):
    """A message came. ``cost`` is to be given to ``consumed`` once it is taken."""

    key: int
    message: bytes
    cost: int
    last: bool


class Ended(NamedTuple):
    """The far side sends no more on this stream."""

    key: int


class WasReset(NamedTuple):
    """The far side gave the stream up."""

    key: int
    code: int


class RoomAgain(NamedTuple):
    """``has_room`` was False for this stream and is True again."""

    key: int


class Ponged(NamedTuple):
    """The answer to a ping."""

    number: int


class WentAway(NamedTuple):
    """The far side says goodbye."""

    code: int
    reason: str


Event = Opened | Received | Ended | WasReset | RoomAgain | Ponged | WentAway
