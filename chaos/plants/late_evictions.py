"""PHANTOM: what a cache has evicted is told to the others only when nothing is asked any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, cast

from chaos.invariants.invariant import Id
from chaos.plants.plant import Host, Plant
from inference.events import BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import EngineRequest
from overlay.ports import Clock, Engine, Ports, TokenStream

IDLE_S = 12.0


class _Withholding:
    """``overlay.ports.Engine`` that keeps evictions back while requests come."""

    def __init__(self, inner: Engine, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._asked_s = clock.now_s()
        self._kept: list[BlocksEvicted] = []

    def __getattr__(self, name: str) -> Any:  # whatever an engine has
        return getattr(self._inner, name)

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[TokenStream]:
        self._asked_s = self._clock.now_s()
        return self._inner.submit(request)

    def cache_events(self) -> Sequence[CacheEvent]:
        told: list[CacheEvent] = []
        for event in self._inner.cache_events():
            match event:
                case BlocksEvicted():
                    self._kept.append(event)
                case BlocksStored():
                    self._store(event)
                    told.append(event)
                case Cleared():
                    self._kept.clear()
                    told.append(event)
        if self._clock.now_s() - self._asked_s >= IDLE_S:
            told += self._kept
            self._kept = []
        return told

    def _store(self, event: BlocksStored) -> None:
        """What is there again was never told to be gone."""
        again = set(event.blocks)
        self._kept = [
            replace(kept, blocks=tuple(block for block in kept.blocks if block not in again))
            for kept in self._kept
        ]


class LateEvictions(Plant):
    """Every node's engine port."""

    name = "late-evictions"
    invariant = Id.PHANTOM

    def ports(self, ports: Ports, host: Host) -> Ports:
        del host
        return replace(ports, engine=cast("Engine", _Withholding(ports.engine, ports.clock)))
