"""A peer that ends with the program that started it, even where that was killed.

The parent holds the other end of the peer's standard input. Its end, which the system brings about
for every kind of death, asks the peer to drain; one byte lets the peer live on without its parent.
"""

from __future__ import annotations

import logging
import sys

import trio

log = logging.getLogger(__name__)

LIVE_ON = b"+"


async def watch_parent(stop: trio.Event) -> None:
    """Sets ``stop`` when standard input ends before it says :data:`LIVE_ON`."""
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stream:
        try:
            said = await stream.receive_some(1)
        except trio.BrokenResourceError:
            said = b""
        if not said:
            log.info("the program that started this peer is gone: draining")
            stop.set()
