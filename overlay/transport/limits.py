"""Limits of a connection between peers, each with its reason.

``Windows`` is the part that the far side must know and is told in HELLO; ``Limits`` holds all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.errors import LocalFault

MESSAGE_BYTES_MAX = 1 << 20
"""Largest message. A 32k-token prompt with its ids is a quarter of this."""

FRAME_BYTES_MIN = 1 << 12
STREAM_WINDOW_MIN = 1 << 12
"""A window below this would spend its time in WINDOW frames."""

CONNECTION_WINDOW_MIN = 2 * MESSAGE_BYTES_MAX
"""A message starts only when the connection has credit for all of it, and up to a quarter of the
window may be consumed but not yet returned: below this the largest message could never start."""

CONNECTION_WINDOW_MAX = 1 << 30


class Windows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one side is ready to take in.

    Args:
        frame_bytes: Largest payload of a frame. Larger ones hold up the frames behind them.
        stream_bytes: Unread bytes of one stream; one message may go beyond (it must fit whole).
        connection_bytes: Unread bytes of all streams together: bounds memory against slow readers.
        streams: Streams that the far side may have open at a time.
    """

    frame_bytes: Annotated[int, Meta(ge=FRAME_BYTES_MIN, le=1 << 20)] = 1 << 16
    stream_bytes: Annotated[int, Meta(ge=STREAM_WINDOW_MIN, le=1 << 24)] = 1 << 18
    connection_bytes: Annotated[int, Meta(ge=CONNECTION_WINDOW_MIN, le=CONNECTION_WINDOW_MAX)] = (
        1 << 23
    )
    streams: Annotated[int, Meta(ge=1, le=1 << 16)] = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Everything that is bounded on one connection.

    Args:
        windows: What we take in.
        hello_s: From the channel's start to the far side's HELLO; a silent or chattering stranger
            holds a connection no longer than this.
        ping_every_s: Pause between pings; detection of a dead peer takes up to this much longer
            than ``ping_timeout_s``, and each ping costs about 200 bytes on the wire both ways.
        ping_timeout_s: A peer that has sent nothing for so long after a ping is gone.
        close_s: For goodbye and flushing when we end a connection.
        bodies_bytes: Opening messages of the streams being handled; beyond, streams are refused.
        waiting_bytes: A stream's sender waits while so much of it is unsent (aioquic and h2 users
            settle near 64 KiB: one round trip's worth on a LAN).
    """

    windows: Windows = field(default_factory=Windows)
    hello_s: float = 5.0
    ping_every_s: float = 2.0
    ping_timeout_s: float = 3.0
    close_s: float = 0.5
    bodies_bytes: int = 1 << 26
    waiting_bytes: int = 1 << 16

    def __post_init__(self) -> None:
        times = (self.hello_s, self.ping_every_s, self.ping_timeout_s, self.close_s)
        if min(times) <= 0 or min(self.bodies_bytes, self.waiting_bytes) < 1:
            raise LocalFault("limits of a connection must be positive")
