"""Limits of a connection between peers, each with its reason.

``Windows`` is the part that the far side must know and is told in HELLO; ``Limits`` holds all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
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


CLIENT_STREAM_WINDOW = 1 << 16
"""Of one stream of a client: its request is one message, which may go beyond; nothing follows."""

CLIENT_STREAMS_MAX = 128
"""Requests of one client under way; its further ones wait. Each costs a task and about 2 KB."""

CLIENT_BODIES_BYTES_MAX = 1 << 24
"""Requests of one client in work: 16 of the largest, 128 of a 32k-token prompt as text."""

CLIENT_IDLE_S = 180.0
"""A client without a request for so long gives its place to others (nginx ends idle HTTP/2
connections after as long). One that has not come whole is none yet: 1 MiB may come at 6 KB/s."""


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """What one side is ready to take in. A part of HELLO: unknown fields are skipped.

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
        bodies_bytes: Opening messages that have come, in part or whole, and are still kept by the
            streams' handlers; beyond, streams are refused.
        idle_s: A connection that serves no stream for so long is ended. Peers never are: gossip
            is a stream, and pings tell whether they live.
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
    idle_s: float = math.inf

    def __post_init__(self) -> None:
        times = (self.hello_s, self.ping_every_s, self.ping_timeout_s, self.close_s, self.idle_s)
        if min(times) <= 0 or min(self.bodies_bytes, self.waiting_bytes) < 1:
            raise LocalFault("limits of a connection must be positive")

    def for_client(self) -> Limits:
        """These limits for who has shown no certificate, and so far no token either.

        What a client can leave unfinished is the connection's window: the least in which a message
        of the largest size can always start.
        """
        ours = self.windows
        windows = Windows(
            frame_bytes=ours.frame_bytes,
            stream_bytes=min(ours.stream_bytes, CLIENT_STREAM_WINDOW),
            connection_bytes=CONNECTION_WINDOW_MIN,
            streams=min(ours.streams, CLIENT_STREAMS_MAX),
        )
        return replace(
            self,
            windows=windows,
            bodies_bytes=min(self.bodies_bytes, CLIENT_BODIES_BYTES_MAX),
            idle_s=min(self.idle_s, CLIENT_IDLE_S),
        )
