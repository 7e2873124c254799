"""What the gossip core wants done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.record import Record
from security.tenant import TenantId


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a connected peer; it may be lost."""

    peer_id: PeerId
    data: bytes


@dataclass(frozen=True, slots=True)
class Persist:
    """Store rows; not urgent."""

    table: str
    rows: Mapping[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class RecordLearned:
    """A newer record of a peer is known."""

    record: Record


@dataclass(frozen=True, slots=True)
class EpochLearned:
    """This host belongs to a tenant, or the tenant's roster has changed."""

    epoch: TenantEpoch


@dataclass(frozen=True, slots=True)
class EpochLost:
    """A newer roster of a tenant leaves this host out: it belongs to the tenant no longer."""

    tenant_id: TenantId


@dataclass(frozen=True, slots=True)
class RecordForgotten:
    """A peer has been silent for long; what its record said counts no more."""

    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class LoadLearned:
    """A peer's load hint came; ``taken_s`` is when it was true, by our clock."""

    peer_id: PeerId
    taken_s: float


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """Somebody else uses our identity with a generation not below ours: jump above ``above``."""

    above: int


Effect = (
    Send
    | Persist
    | RecordLearned
    | RecordForgotten
    | EpochLearned
    | EpochLost
    | LoadLearned
    | NewGeneration
)
