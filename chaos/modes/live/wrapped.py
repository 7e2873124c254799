"""The wrapped ports of a live node, and how it carries orders out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from chaos.engine import FaultyEngine
from chaos.modes.live.orders import (
    AnyOrder,
    CrashEngine,
    Done,
    FillDisk,
    HoldDigest,
    SetClock,
    SlowEngine,
)
from inference.core import EngineCore
from inference.events import CacheEvent
from overlay.errors import StorageFull
from overlay.ports import Clock, Ports, Storage

Effects = dict[str, int]
"""How often each fault has taken effect."""


@dataclass(slots=True)
class WrongClock:
    """``overlay.ports.Clock`` whose wall clock is off; ``ahead_s`` by fault."""

    inner: Clock
    ahead_s: dict[str, float] = field(default_factory=dict)

    def now_s(self) -> float:
        return self.inner.now_s()

    def unix_s(self) -> float:
        return self.inner.unix_s() + sum(self.ahead_s.values())


@dataclass(slots=True)
class FullDisk:
    """``overlay.ports.Storage`` that refuses writes while it is filled by any fault."""

    inner: Storage
    effects: Effects
    full: dict[str, None] = field(default_factory=dict)

    def read(self, table: str) -> Mapping[bytes, bytes]:
        return self.inner.read(table)

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        if self.full:
            for fault in self.full:
                _count(self.effects, fault)
            raise StorageFull("no space is left: the harness has filled the disk")
        self.inner.write(table, rows, durable=durable)


@dataclass(eq=False)
class Wrapped:
    """Ports of one node, and what has come of the faults that they were ordered to have."""

    ports: Ports
    clock: WrongClock
    disk: FullDisk
    engine: FaultyEngine
    effects: Effects

    def carry_out(self, order: AnyOrder) -> Done:
        """Does what is ordered."""
        fault = order.fault
        match order:
            case SetClock(ahead_s=ahead_s):
                self._set_clock(fault, ahead_s)
            case FillDisk(full=full):
                if full:
                    self.disk.full[fault] = None
                else:
                    self.disk.full.pop(fault, None)
            case HoldDigest(stale=stale):
                self._hold_digest(fault, stale=stale)
            case SlowEngine(factor=factor):
                self.engine.speed_up(fault)
                if factor > 1:
                    self.engine.slow_down(fault, factor, partial(_count, self.effects, fault))
            case CrashEngine():
                self.engine.crash("the harness ordered it")
                _count(self.effects, fault)
        return Done(number=order.number, effects=self.effects.get(fault, 0))

    def _set_clock(self, fault: str, ahead_s: float) -> None:
        if ahead_s:
            self.clock.ahead_s[fault] = ahead_s
            _count(self.effects, fault)
        else:
            self.clock.ahead_s.pop(fault, None)

    def _hold_digest(self, fault: str, *, stale: bool) -> None:
        def say_nothing(events: list[CacheEvent]) -> list[CacheEvent]:
            _count(self.effects, fault, len(events))
            return []

        if stale:
            self.engine.claims[fault] = say_nothing
        elif self.engine.claims.pop(fault, None) is not None:
            self.engine.tell_anew()


def _count(effects: Effects, fault: str, count: int = 1) -> None:
    effects[fault] = effects.get(fault, 0) + count


def wrap(ports: Ports, core: EngineCore, *, in_thread: bool) -> Wrapped:
    """Puts the wrappers around real ports; ``core`` is what its engine computes with."""
    effects: Effects = {}
    clock, disk = WrongClock(ports.clock), FullDisk(ports.storage, effects)
    engine = FaultyEngine(core, in_thread=in_thread)
    wrapped = replace(ports, clock=clock, storage=disk, engine=engine)
    return Wrapped(wrapped, clock, disk, engine, effects)
