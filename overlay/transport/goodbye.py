"""The last bytes of a connection that this side ends.

Nothing else goes out then: resets of handlers that were just cancelled would tell the far side's
callers of the streams instead of the connection.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from overlay.ports import ByteChannel


async def say_goodbye(channel: ByteChannel, last: bytes, *, heard: bool) -> None:
    """Sends them. With ``heard`` what comes is thrown away until the far side ends the channel.

    One that is closed at once may be so before the far side has looked at what came last. The
    caller bounds the time.
    """
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        await channel.send_all(last)
        while heard:
            heard = bool(await channel.receive_some())
