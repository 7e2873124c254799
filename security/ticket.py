"""Tickets: what a person carries from an issuer to a new host, once.

A ticket is one word: ``rhz1`` and base32 of a length, the content and a checksum, so that a cut-off
ticket and a mistyped one are told apart before anybody is asked. Case, spaces and line breaks do
not matter. It holds the overlay's root, so the new host knows whom to believe from the first byte.

The secret in it never crosses the network and is not kept by the issuer: both ends derive an
Ed25519 key from it, the new host signs its request with that key, and the issuer keeps the public
half. Whoever reads the issuer's table can join with nothing that stands in it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from security.certificate import IssuerId, OverlayId, overlay_id_of
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.errors import (
    Expired,
    LimitExceeded,
    MalformedTicket,
    SecurityError,
    TicketUnknown,
    TicketUsed,
    UnsupportedVersion,
)
from security.hosts import HostRole
from security.http_names import granted_names
from security.peer_id import PeerId
from security.tenant import NAME_PATTERN, TenantId, TenantName
from security.tenant_keys import derive

PREFIX = "rhz"
VERSION = 1
TICKET_CHARS_MAX = 8192
ADDRESSES_MAX = 16
TENANTS_MAX = 16
SECRET_BYTES = 32
TICKETS_MAX = 1024
TTL_S_MAX = 30 * 86_400
TICKET_KEPT_S = 30 * 86_400
"""An ended or used ticket is remembered so long, to say what became of it."""

TICKET_ID_BYTES = 16

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CHECKSUM_BYTES = 5
_LENGTH_BYTES = 2
_NEW_TICKET = "make a new one with 'rhizome invite' on the issuer's host"

Address = Annotated[str, Meta(min_length=1, max_length=80)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]


class TicketBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """The content, an array to be short. The role is left out where it is ``peer``."""

    root: Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
    issuer: Annotated[bytes, Meta(min_length=16, max_length=16)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    expires_unix_s: Annotated[int, Meta(ge=0, lt=1 << 40)]
    addresses: Annotated[list[Address], Meta(min_length=1, max_length=ADDRESSES_MAX)]
    tenants: Annotated[list[Name], Meta(max_length=TENANTS_MAX)]
    role: HostRole = HostRole.PEER


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Permission for one host to join, and for what.

    ``addresses`` are those of the issuer's enrolment port.
    """

    overlay_id: OverlayId
    root: bytes
    issuer_id: IssuerId
    secret: bytes = field(repr=False)
    expires_unix_s: int
    addresses: tuple[str, ...]
    tenants: tuple[TenantName, ...]
    role: HostRole = HostRole.PEER

    @property
    def ticket_id(self) -> str:
        """32 hex digits that name the ticket; they follow from the secret and do not give it."""
        return ticket_id_of(self.key().public_key().public_bytes_raw())

    def key(self) -> Ed25519PrivateKey:
        """The key with which its holder signs the request to join."""
        raw = derive(self.secret, b"ticket key", bytes.fromhex(self.overlay_id))
        return Ed25519PrivateKey.from_private_bytes(raw)

    def check_dates(self, now_unix_s: float) -> None:
        """Checks that it has not ended.

        Raises:
            Expired: when it has.
        """
        if now_unix_s > self.expires_unix_s:
            ended = datetime.fromtimestamp(self.expires_unix_s, UTC)
            raise Expired(
                f"the ticket ended {ended:%Y-%m-%d %H:%M:%S} UTC by this host's clock: set that if "
                "it is wrong, or make a new one with 'rhizome invite' on the issuer's host"
            )

    def to_text(self) -> str:
        """The word that is printed, once."""
        parts = [
            self.root,
            bytes.fromhex(self.issuer_id),
            self.secret,
            self.expires_unix_s,
            self.addresses,
            self.tenants,
        ]
        if self.role is not HostRole.PEER:
            parts.append(self.role.value)
        body = msgspec.msgpack.encode(parts)
        framed = len(body).to_bytes(_LENGTH_BYTES, "big") + body + _checksum(body)
        return f"{PREFIX}{VERSION}{_letters(framed).lower()}"

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Reads a ticket that a person gave.

        Raises:
            MalformedTicket: when it is none, was cut off or mistyped; the message says which.
            UnsupportedVersion: when another version of the program made it.
        """
        try:
            body = msgspec.msgpack.decode(_unframe(text), type=TicketBody)
            overlay_id = overlay_id_of(body.root)
        except (UnsupportedVersion, MalformedTicket):
            raise
        except (msgspec.MsgspecError, ValueError, SecurityError):
            raise MalformedTicket("the ticket's content cannot be read") from None
        return cls(
            overlay_id=overlay_id,
            root=body.root,
            issuer_id=IssuerId(body.issuer.hex()),
            secret=body.secret,
            expires_unix_s=body.expires_unix_s,
            addresses=tuple(body.addresses),
            tenants=tuple(TenantName(name) for name in body.tenants),
            role=body.role,
        )


def check_ticket(addresses: Sequence[str], tenants: Sequence[str], ttl_s: float) -> None:
    """Checks what is to go into a ticket that is good for so long.

    Raises:
        LimitExceeded: when it is more than a ticket holds, no address is given, or it is to be good
            for no time or too long.
    """
    if not 0 < ttl_s <= TTL_S_MAX:
        raise LimitExceeded("a ticket is good for more than 0 s and at most 30 days")
    if not 1 <= len(addresses) <= ADDRESSES_MAX or any(len(a) > 80 for a in addresses):
        raise LimitExceeded(f"a ticket holds 1 to {ADDRESSES_MAX} addresses")
    if len(tenants) > TENANTS_MAX:
        raise LimitExceeded(f"a ticket holds at most {TENANTS_MAX} tenants")


def ticket_id_of(verifier: bytes) -> str:
    """The id of the ticket with this public key."""
    return hashlib.sha256(b"rhizome/ticket-id/v1\0" + verifier).digest()[:TICKET_ID_BYTES].hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRow:
    """What is kept of a ticket: how to check it, not how to make it.

    ``http_names`` are granted to the host that uses it.
    """

    verifier: bytes
    tenants: tuple[TenantId, ...]
    expires_unix_s: int
    used_by: PeerId | None = None
    role: HostRole = HostRole.PEER
    http_names: tuple[str, ...] = ()

    @property
    def ticket_id(self) -> str:
        return ticket_id_of(self.verifier)

    @classmethod
    def of(
        cls, ticket: Ticket, tenants: tuple[TenantId, ...], http_names: Iterable[str]
    ) -> TicketRow:
        """What is kept of a ticket that was just made; ``tenants`` are those that it names.

        Raises:
            MalformedName, LimitExceeded: as ``granted_names``.
        """
        return cls(
            verifier=ticket.key().public_key().public_bytes_raw(),
            tenants=tenants,
            expires_unix_s=ticket.expires_unix_s,
            role=ticket.role,
            http_names=granted_names(http_names),
        )


def usable_ticket(
    rows: Mapping[str, TicketRow],
    ticket_id: str,
    now_unix_s: float,
    is_again: Callable[[TicketRow], bool],
) -> TicketRow:
    """A ticket that can be redeemed; ``is_again`` says whether who used it asks once more.

    Raises:
        TicketUnknown, TicketUsed, Expired: when it cannot.
    """
    row = rows.get(ticket_id)
    if row is None:
        raise TicketUnknown(f"the issuer does not know that ticket: {_NEW_TICKET}")
    if row.used_by is not None and not is_again(row):
        raise TicketUsed(f"the ticket has been used: {_NEW_TICKET}")
    if now_unix_s > row.expires_unix_s:
        raise Expired(f"the ticket has ended: {_NEW_TICKET}")
    return row


def with_ticket(
    rows: Mapping[str, TicketRow], row: TicketRow, now_unix_s: float
) -> Mapping[str, TicketRow]:
    """These tickets and one more, without those that are over since long.

    Raises:
        LimitExceeded: when too many are out or remembered.
    """
    kept = {
        id_: old for id_, old in rows.items() if now_unix_s <= old.expires_unix_s + TICKET_KEPT_S
    }
    if len(kept) >= TICKETS_MAX:
        raise LimitExceeded(f"more than {TICKETS_MAX} tickets are out or remembered")
    kept[row.ticket_id] = row
    return MappingProxyType(kept)


def _unframe(text: str) -> bytes:
    word = "".join(text.split()).lower()
    if len(word) > TICKET_CHARS_MAX:
        raise MalformedTicket("that is too long for a ticket")
    form = re.fullmatch(PREFIX + r"([0-9])(.*)", word)
    if form is None:
        raise MalformedTicket(f"that is not a ticket: tickets begin with {PREFIX}{VERSION}")
    if form[1] != str(VERSION):
        raise UnsupportedVersion(
            f"the ticket is of version {form[1]}, this program reads version {VERSION}: "
            "use the same version of rhizome on both hosts"
        )
    letters = form[2].upper()
    if set(letters) - set(_ALPHABET):
        raise MalformedTicket("the ticket is mistyped: it has letters that none has")
    # Base32 of whole bytes never has 1, 3 or 6 letters over: what is over has no meaning.
    usable = letters[: len(letters) // 8 * 8] if len(letters) % 8 in {1, 3, 6} else letters
    framed = base64.b32decode(usable + "=" * (-len(usable) % 8))
    size = int.from_bytes(framed[:_LENGTH_BYTES], "big") if len(framed) >= _LENGTH_BYTES else 0
    whole = _LENGTH_BYTES + size + _CHECKSUM_BYTES
    if len(framed) < whole or len(framed) < _LENGTH_BYTES:
        raise MalformedTicket("the ticket is cut off: copy all of it")
    body, checksum = framed[_LENGTH_BYTES : _LENGTH_BYTES + size], framed[_LENGTH_BYTES + size :]
    if checksum != _checksum(body) or _letters(framed) != letters:
        raise MalformedTicket("the ticket is mistyped: copy it again")
    return body


def _letters(framed: bytes) -> str:
    return base64.b32encode(framed).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"rhizome/ticket-checksum/v1\0" + body).digest()[:_CHECKSUM_BYTES]
