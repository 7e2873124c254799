"""What the gossip core wants done."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.record import Record
from security.tenant import TenantId


class Send(msgspec.Struct, frozen=True):
    """Send a message to a connected peer; it may be lost."""

    peer_id: PeerId
    data: bytes


class Persist(msgspec.Struct, frozen=True):
    """Store rows; not urgent."""

    table: str
    rows: Mapping[bytes, bytes | None]


class RecordLearned(msgspec.Struct, frozen=True):
    """A newer record of a peer is known."""

    record: Record


class EpochLearned(msgspec.Struct, frozen=True):
    """This host belongs to a tenant, or the tenant's roster has changed."""

    epoch: TenantEpoch


class EpochLost(msgspec.Struct, frozen=True):
    """A newer roster of a tenant leaves this host out: it belongs to the tenant no longer."""

    tenant_id: TenantId


class RecordForgotten(msgspec.Struct, frozen=True):
    """A peer has been silent for long; what its record said counts no more."""

    peer_id: PeerId


class Equivocated(msgspec.Struct, frozen=True):
    """A peer was caught: it has signed two heads with one number, and is in quarantine."""

    peer_id: PeerId


class LoadLearned(msgspec.Struct, frozen=True):
    """A peer's load hint came; ``taken_s`` is when it was true, by our clock."""

    peer_id: PeerId
    taken_s: float


class NewGeneration(msgspec.Struct, frozen=True):
    """Somebody else uses our identity with a generation not below ours: jump above ``above``.

    ``boot_salt`` is that process's.
    """

    above: int
    boot_salt: bytes


Effect = (
    Send
    | Persist
    | RecordLearned
    | RecordForgotten
    | Equivocated
    | EpochLearned
    | EpochLost
    | LoadLearned
    | NewGeneration
)
