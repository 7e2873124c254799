"""What an issuer keeps of each tenant and ticket."""

from __future__ import annotations

from dataclasses import dataclass

from security.epoch import MEMBERS_MAX, EpochContent
from security.peer_id import PeerId
from security.tenant import TenantId
from security.ticket import ticket_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTenant:
    """A tenant and the EPOCH object that its members have now."""

    content: EpochContent
    epoch_object: bytes

    def has_room(self, peer_id: PeerId) -> bool:
        """Whether that host is on the roster, or can come on it."""
        members = self.content.members
        return peer_id in members or len(members) < MEMBERS_MAX


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
