"""Faults of inference workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import NODE_AND_LIVE, NODE_ONLY, Family, Fault, Void, Where, quantity
from chaos.invariants.invariant import Id

WORKER_DOWN = (Void(Id.AVAILABLE, Where.TARGET, "engine_failed"),)
"""A node whose own engine is broken could not answer alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.WORKER


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowGpu(WorkerFault):
    """Every step takes so many times as long."""

    kind = "slow_gpu"
    modes = NODE_AND_LIVE
    voids = (Void(Id.NO_WORSE, Where.TARGET, "worker_slow"),)
    factor: float = quantity(4, unit="times", low=1, high=1000, draw=(1.5, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(WorkerFault):
    """No step ends before the fault does; the peer itself goes on."""

    kind = "stall"
    voids = (*WORKER_DOWN, Void(Id.NO_WORSE, Where.TARGET, "worker_slow"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCrash(WorkerFault):
    """What runs fails, and what is cached is lost."""

    kind = "engine_crash"
    modes = NODE_AND_LIVE
    voids = WORKER_DOWN
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionStorm(WorkerFault):
    """The cache is emptied again and again."""

    kind = "eviction_storm"
    modes = NODE_ONLY
    voids = (Void(Id.NO_WORSE, Where.TARGET, "cache_emptied"),)
    every_ms: float = quantity(500, unit="ms", low=1, high=60_000, draw=(100, 5000))


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCut(WorkerFault):
    """An answer that the target serves for another breaks after so many tokens."""

    kind = "stream_cut"
    after_tokens: float = quantity(3, unit="tokens", low=0, high=10_000, draw=(1, 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class LieCached(WorkerFault):
    """The target says that the whole prompt was cached, and computes all of it.

    Its own clients wait for that as well; others must learn from the time that it takes.
    """

    kind = "lie_cached"
    voids = (Void(Id.NO_WORSE, Where.TARGET, "lie_seen"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class OomAtStep(WorkerFault):
    """Every so-manieth step finds no memory: what runs fails, and what is cached is lost."""

    kind = "oom_at_step"
    voids = (*WORKER_DOWN, Void(Id.NO_WORSE, Where.TARGET, "engine_failed"))
    steps: float = quantity(60, unit="steps", low=2, high=1e6, draw=(20, 500))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongModel(WorkerFault):
    """The target comes back with another model under the same name, and with its own at the end.

    From 0.5 on the tokenizer is the other one, below that the weights. Its own clients get what
    that model says; nobody else may be answered by it, nor may it go on with others' answers.
    """

    kind = "wrong_model"
    voids = (
        Void(Id.OUTPUT, Where.INGRESS, "other_model_used"),
        Void(Id.NO_WORSE, Where.TARGET, "other_model"),
        Void(Id.AVAILABLE, Where.TARGET, "other_model"),
    )
    tokenizer: float = quantity(0, unit="no or yes", low=0, high=1, draw=(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCorrupt(WorkerFault):
    """One cached block is wrong until it is evicted: what is answered from it is wrong.

    Of the blocks that have so many before them, the one that most others stand on.
    """

    kind = "kv_corrupt"
    voids = (Void(Id.OUTPUT, Where.TARGET, "wrong_block_used"),)
    depth: float = quantity(0, unit="blocks", low=0, high=10_000, draw=(0, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyEos(WorkerFault):
    """The engine ends each of its answers after so many tokens."""

    kind = "early_eos"
    voids = (Void(Id.OUTPUT, Where.TARGET, "ended_early"),)
    after_tokens: float = quantity(2, unit="tokens", low=0, high=10_000, draw=(1, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRestart(WorkerFault):
    """The server beside the target goes away, and what runs there fails; it comes back empty."""

    kind = "server_restart"
    needs_remote = True
    voids = (
        Void(Id.AVAILABLE, Where.TARGET, "server_gone"),
        Void(Id.NO_WORSE, Where.TARGET, "server_gone"),
    )
