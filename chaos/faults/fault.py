"""What every fault of the catalogue is: a frozen dataclass of quantities with units and ranges.

A fault says which modes can do it, what it is aimed at, and which invariants it may void on which
nodes, with the detection that is expected instead. It does nothing by itself: a mode looks its kind
up among its actions and reports the ones that it has no action for as unsupported.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any, ClassVar

from chaos.errors import ScenarioError
from chaos.invariants.invariant import Id


class Mode(enum.Enum):
    """Where a scenario runs."""

    CORE = "core"
    NODE = "node"
    LIVE = "live"


class Network(enum.Enum):
    """What joins the nodes of live mode."""

    LOOPBACK = "loopback"
    """Loopback addresses, and in front of each node a relay that carries streams of bytes."""

    NAMESPACES = "namespaces"
    """A network namespace for each node, and between them a switch that carries packets."""


SIMULATED = frozenset({Mode.CORE, Mode.NODE})
NODE_ONLY = frozenset({Mode.NODE})
NODE_AND_LIVE = frozenset({Mode.NODE, Mode.LIVE})
EVERY_MODE = frozenset(Mode)
EVERY_NETWORK = frozenset(Network)
BYTES_ONLY = frozenset({Network.LOOPBACK})
PACKETS_ONLY = frozenset({Network.NAMESPACES})


class Family(enum.Enum):
    """Groups of faults that a swarm turns on or off together."""

    LINK = "link"
    TOPOLOGY = "topology"
    CLOCK = "clock"
    PROCESS = "process"
    DISK = "disk"
    METADATA = "metadata"
    SECURITY = "security"
    WORKER = "worker"
    CLIENT = "client"


class Aim(enum.Enum):
    """What a fault's ``target`` selects."""

    NODES = "nodes"
    LINKS = "links"
    GROUPS = "groups"
    REQUESTS = "requests of the nodes"


class Where(enum.Enum):
    """On which nodes an invariant is voided, seen from the fault's own nodes."""

    TARGET = "the fault's nodes"
    INGRESS = "requests that enter at the fault's nodes"
    ALL = "every node"


@dataclass(frozen=True, slots=True)
class Void:
    """An invariant that a fault may break there; ``instead`` is the mark that must be seen."""

    invariant: Id
    where: Where
    instead: str


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a quantity, both inside; a swarm draws between ``draw`` (log-uniform)."""

    unit: str
    low: float
    high: float
    draw: tuple[float, float]


def quantity(
    default: float, *, unit: str, low: float, high: float, draw: tuple[float, float]
) -> Any:  # the type checker sees the annotation of the field
    """A numeric field of a fault."""
    return field(default=default, metadata={"range": Range(unit, low, high, draw)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Base of the catalogue. Raises ``ScenarioError`` for a quantity outside its range."""

    kind: ClassVar[str]
    family: ClassVar[Family]
    aim: ClassVar[Aim] = Aim.NODES
    modes: ClassVar[frozenset[Mode]] = NODE_ONLY
    networks: ClassVar[frozenset[Network]] = EVERY_NETWORK
    """Of live mode, where it is one of ``modes``."""
    voids: ClassVar[tuple[Void, ...]] = ()
    shows: ClassVar[tuple[str, ...]] = ()
    """Marks that it writes and that stand for no void."""
    instant: ClassVar[bool] = False
    """Done at once: there is nothing to undo, and ``for_s`` has no meaning."""
    needs_remote: ClassVar[bool] = False
    """Done to the server beside a node, where it has one (``[cluster] remote``)."""

    def __post_init__(self) -> None:
        for name, limits in self.ranges():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not limits.low <= value <= limits.high:
                raise ScenarioError(
                    f"fault {self.kind}: {name} must be a number from {limits.low:g} to "
                    f"{limits.high:g} {limits.unit}, not {value!r}"
                )
            object.__setattr__(self, name, float(value))  # so that JSON gives back the same

    @classmethod
    def works_in(cls, mode: Mode, network: Network) -> bool:
        """Whether a mode can do it; in live mode that also depends on what joins the nodes."""
        return mode in cls.modes and (mode is not Mode.LIVE or network in cls.networks)

    @classmethod
    def ranges(cls) -> Iterator[tuple[str, Range]]:
        """Its quantities, in order."""
        for each in fields(cls):
            yield each.name, each.metadata["range"]

    @classmethod
    def drawn(cls, rng: Random) -> Fault:
        """One with every quantity drawn from where a swarm looks."""
        values: dict[str, float] = {}
        for name, limits in cls.ranges():
            low, high = limits.draw
            value = (
                math.exp(rng.uniform(math.log(low), math.log(high)))
                if low > 0
                else (rng.uniform(low, high))
            )
            values[name] = min(limits.high, max(limits.low, float(f"{value:.3g}")))
        return cls(**values)

    def settings(self) -> dict[str, float]:
        """Its quantities as plain data."""
        return {name: getattr(self, name) for name, _ in self.ranges()}
