"""Something that goes on beside a fault's block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Runs ``work`` until the block is left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
