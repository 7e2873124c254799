"""Faults of a peer's process and of the host it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import EVERY_MODE, Family, Fault, Void, Where, quantity
from chaos.invariants.invariant import Id

DOWN = (Void(Id.AVAILABLE, Where.TARGET, "ingress_lost"),)
"""Requests that had entered at the node itself are lost with it; those it served are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.PROCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(ProcessFault):
    """The peer ends by an error of its own: sockets close in order. It comes back at the end."""

    kind = "crash"
    voids = DOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill9(ProcessFault):
    """The process is gone at once. It comes back at the end, with what its disk held."""

    kind = "kill9"
    modes = EVERY_MODE
    voids = DOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCont(ProcessFault):
    """The process stands still, as under SIGSTOP, and goes on at the end."""

    kind = "stop_cont"
    modes = EVERY_MODE
    voids = (
        Void(Id.AVAILABLE, Where.TARGET, "ingress_silent"),
        Void(Id.NO_WORSE, Where.TARGET, "ingress_silent"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowCpu(ProcessFault):
    """Whatever the host does takes longer: every message waits before it is looked at."""

    kind = "slow_cpu"
    delay_ms: float = quantity(20, unit="ms per chunk", low=0, high=10_000, draw=(1, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartSame(ProcessFault):
    """Killed and started again at once, with its disk."""

    kind = "restart_same"
    modes = EVERY_MODE
    voids = DOWN
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartWiped(ProcessFault):
    """Killed and started again with its keys and an empty disk."""

    kind = "restart_wiped"
    modes = EVERY_MODE
    voids = DOWN
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRolledBack(ProcessFault):
    """Killed and started again with the disk as it was some time before."""

    kind = "restart_rolled_back"
    modes = EVERY_MODE
    voids = DOWN
    instant = True
    back_s: float = quantity(10, unit="s", low=0, high=86_400, draw=(1, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartNewIdentity(ProcessFault):
    """The host is installed anew: it joins again with keys that nobody has seen."""

    kind = "restart_new_identity"
    voids = DOWN
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FdExhausted(ProcessFault):
    """No file descriptor is left: no new connection, in or out."""

    kind = "fd_exhausted"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCap(ProcessFault):
    """The system ends the peer when what is buffered for it exceeds a cap; it comes back."""

    kind = "memory_cap"
    voids = DOWN
    cap_kbytes: float = quantity(512, unit="kB", low=1, high=1e6, draw=(64, 4096))
