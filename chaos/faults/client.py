"""What clients do. These change the requests of the target nodes while they last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import NODE_AND_LIVE, NODE_ONLY, Aim, Family, Fault, quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.CLIENT
    aim: ClassVar[Aim] = Aim.REQUESTS


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectMidStream(ClientFault):
    """The client goes away after so many tokens."""

    kind = "disconnect_mid_stream"
    modes = NODE_AND_LIVE
    after_tokens: float = quantity(2, unit="tokens", low=0, high=10_000, draw=(1, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowReader(ClientFault):
    """The client takes its time over each token."""

    kind = "slow_reader"
    modes = NODE_AND_LIVE
    gap_ms: float = quantity(200, unit="ms per token", low=0, high=60_000, draw=(20, 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateSubmit(ClientFault):
    """The client sends each request twice."""

    kind = "duplicate_submit"
    modes = NODE_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(ClientFault):
    """The client cancels after a time."""

    kind = "cancel"
    modes = NODE_ONLY
    after_ms: float = quantity(100, unit="ms", low=0, high=600_000, draw=(1, 2000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst(ClientFault):
    """Many requests at once."""

    kind = "burst"
    instant = True
    requests: float = quantity(16, unit="requests", low=1, high=1000, draw=(4, 48))


@dataclass(frozen=True, slots=True, kw_only=True)
class GiantPrompt(ClientFault):
    """A prompt of a size that must be refused by name where it exceeds the context."""

    kind = "giant_prompt"
    instant = True
    tokens: float = quantity(20_000, unit="tokens", low=1, high=1e6, draw=(2000, 40_000))
