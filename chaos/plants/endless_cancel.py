"""LIVE: once a request was cancelled, an engine does not end when its peer does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import trio

from chaos.invariants.invariant import Id
from chaos.plants.plant import Host, Plant
from inference.request import EngineRequest
from overlay.ports import Engine, Ports, TokenStream

HOLDS_S = 300.0
"""Far beyond any grace time, and not for ever: a simulation must come to its end."""


class _Clinging:
    """``overlay.ports.Engine`` whose loop outlives its cancellation."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self._cancelled = False

    def __getattr__(self, name: str) -> Any:  # whatever an engine has
        return getattr(self._inner, name)

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[TokenStream]:
        return self._submitted(request)

    @asynccontextmanager
    async def _submitted(self, request: EngineRequest) -> AsyncIterator[TokenStream]:
        try:
            async with self._inner.submit(request) as stream:
                yield stream
        except (trio.Cancelled, GeneratorExit):
            self._cancelled = True
            raise

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await self._inner.run(task_status=task_status)
        finally:
            if self._cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(HOLDS_S)


class EndlessCancel(Plant):
    """Every node's engine port."""

    name = "endless-cancel"
    invariant = Id.LIVE

    def ports(self, ports: Ports, host: Host) -> Ports:
        del host
        return replace(ports, engine=cast("Engine", _Clinging(ports.engine)))
