"""What an issuer keeps of each tenant and ticket."""

from __future__ import annotations

from dataclasses import dataclass

from security.epoch import EpochContent
from security.peer_id import PeerId
from security.tenant import TenantId
from security.ticket import ticket_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTenant:
    """A tenant and the EPOCH object that its members have now."""

    content: EpochContent
    epoch_object: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRow:
    """What is kept of a ticket: how to check it, not how to make it."""

    verifier: bytes
    tenants: tuple[TenantId, ...]
    expires_unix_s: int
    used_by: PeerId | None = None

    @property
    def ticket_id(self) -> str:
        return ticket_id_of(self.verifier)
