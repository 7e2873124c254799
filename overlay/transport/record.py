"""What both ends of one stream have done so far, as this end knows it."""

from __future__ import annotations

from collections import deque

from overlay.transport.frame import Opening


class StreamRecord:
    """The state of one stream. ``key`` is positive where we opened it."""

    __slots__ = (
        "body_bytes",
        "charged",
        "closed",
        "credit",
        "fin_in",
        "fin_queued",
        "fin_sent",
        "held",
        "key",
        "left",
        "opening_in",
        "opening_out",
        "out",
        "outstanding",
        "parts",
        "parts_cost",
        "queued",
        "sent_bytes",
        "unreturned",
        "unsent_bytes",
    )

    def __init__(self, key: int, credit: int) -> None:
        self.key = key
        self.credit = credit
        """What the far side will still take of this stream."""
        self.opening_out: bytes | None = None
        self.opening_in: Opening | None = None
        self.out: deque[bytes] = deque()
        self.sent_bytes = 0
        self.charged = 0
        """Cost of the started message that is not yet sent."""
        self.unsent_bytes = 0
        self.queued = False
        self.fin_queued = False
        self.fin_sent = False
        self.parts: bytearray | None = None
        self.parts_cost = 0
        self.held = 0
        """Cost of what came and was not consumed."""
        self.unreturned = 0
        self.outstanding = 0
        self.fin_in = False
        self.closed = False
        self.left = False
        self.body_bytes = 0
        """Bytes of the far side's opening message that have come and are still kept."""
