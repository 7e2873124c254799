"""Faults of directed links.

Loss and its kin act on whole gossip messages in simulation, and on packets in live mode, where the
network is one of packets; a relay of bytes can lose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chaos.faults.fault import (
    BYTES_ONLY,
    EVERY_MODE,
    NODE_AND_LIVE,
    PACKETS_ONLY,
    Aim,
    Family,
    Fault,
    quantity,
)

MS_MAX = 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFault(Fault):
    """Base of the family."""

    family: ClassVar[Family] = Family.LINK
    aim: ClassVar[Aim] = Aim.LINKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(LinkFault):
    """Everything arrives later, in order."""

    kind = "latency"
    modes = EVERY_MODE
    delay_ms: float = quantity(50, unit="ms", low=0, high=MS_MAX, draw=(1, 200))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter(LinkFault):
    """A normal delay whose draws follow each other by ``correlation``; order is kept."""

    kind = "jitter"
    modes = EVERY_MODE
    delay_ms: float = quantity(50, unit="ms", low=0, high=MS_MAX, draw=(1, 100))
    spread_ms: float = quantity(10, unit="ms", low=0, high=MS_MAX, draw=(1, 50))
    correlation: float = quantity(0.25, unit="of 1", low=0, high=1, draw=(0, 0.9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(LinkFault):
    """Gossip messages or packets vanish, in bursts of a mean length (Gilbert-Elliott)."""

    kind = "loss"
    modes = EVERY_MODE
    networks = PACKETS_ONLY
    fraction: float = quantity(0.2, unit="of messages", low=0, high=1, draw=(0.05, 0.6))
    burst: float = quantity(1, unit="messages", low=1, high=1000, draw=(1, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(LinkFault):
    """Gossip messages or packets arrive twice."""

    kind = "duplicate"
    modes = EVERY_MODE
    networks = PACKETS_ONLY
    fraction: float = quantity(0.2, unit="of messages", low=0, high=1, draw=(0.05, 0.6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorder(LinkFault):
    """A gossip message or packet is held back while later ones pass it."""

    kind = "reorder"
    modes = EVERY_MODE
    networks = PACKETS_ONLY
    fraction: float = quantity(0.2, unit="of messages", low=0, high=1, draw=(0.05, 0.6))
    gap_ms: float = quantity(3000, unit="ms", low=1, high=MS_MAX, draw=(100, 10_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupt(LinkFault):
    """A bit flips under way: TLS finds it and the connection breaks, or the packet is dropped."""

    kind = "corrupt"
    modes = NODE_AND_LIVE
    networks = PACKETS_ONLY
    fraction: float = quantity(0.02, unit="of chunks", low=0, high=1, draw=(0.001, 0.1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(LinkFault):
    """A link carries no more than so much."""

    kind = "bandwidth"
    modes = NODE_AND_LIVE
    kbytes_per_s: float = quantity(100, unit="kB/s", low=0.1, high=1e6, draw=(5, 500))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mtu(LinkFault):
    """Chunks above a size never arrive, and stall what follows, as where ICMP is filtered."""

    kind = "mtu"
    modes = NODE_AND_LIVE
    networks = PACKETS_ONLY
    size_bytes: float = quantity(1400, unit="bytes", low=64, high=65_536, draw=(500, 9000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(LinkFault):
    """Chunks arrive in small pieces with a gap between them."""

    kind = "slice"
    modes = NODE_AND_LIVE
    networks = BYTES_ONLY
    size_bytes: float = quantity(16, unit="bytes", low=1, high=65_536, draw=(16, 512))
    gap_ms: float = quantity(0.1, unit="ms", low=0, high=1000, draw=(0.01, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jam(LinkFault):
    """Everything is held, and arrives at once in the end."""

    kind = "jam"
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackhole(LinkFault):
    """What is sent is swallowed; the connections break when it ends."""

    kind = "blackhole"
    modes = EVERY_MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(LinkFault):
    """Every connection over the link breaks, once."""

    kind = "reset"
    modes = EVERY_MODE
    instant = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowClose(LinkFault):
    """The end of a connection is told late."""

    kind = "slow_close"
    delay_ms: float = quantity(5000, unit="ms", low=0, high=MS_MAX, draw=(100, 20_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitData(LinkFault):
    """A connection breaks after so many bytes."""

    kind = "limit_data"
    size_bytes: float = quantity(4096, unit="bytes", low=1, high=1e9, draw=(1000, 200_000))
