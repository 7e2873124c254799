"""Where an issuer can be asked: a small card that it signs, and that every host keeps.

A host whose own issuer is revoked or gone finds by it whom else to ask for a certificate. Of two
cards of one issuer the one with the higher number counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from security.certificate import IssuerId, IssuerKey
from security.errors import LimitExceeded
from security.signed import Kind, Verified, sign_as_issuer, verify_issuer, vouch
from security.ticket import ADDRESSES_MAX, Address
from security.trust import Trust
from security.wire import decode

VERSION = 1
CARD_BYTES_MAX = 2048


class CardBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="issuer"):
    """Signed by the issuer that it is about."""

    v: Annotated[int, Meta(ge=0, le=255)]
    seq: Annotated[int, Meta(ge=0, lt=1 << 53)]
    addresses: Annotated[list[Address], Meta(max_length=ADDRESSES_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerCard:
    """``addresses`` are those of the issuer's enrolment listener, as it tells them itself."""

    issuer_id: IssuerId
    seq: int
    addresses: tuple[str, ...]


def make_card(issuer: IssuerKey, addresses: Sequence[str], seq: int) -> bytes:
    """Signs an issuer's card.

    Raises:
        LimitExceeded: when the addresses are too many or too long, or the number is none.
    """
    body = msgspec.msgpack.encode(CardBody(v=VERSION, seq=seq, addresses=list(addresses)))
    try:
        msgspec.msgpack.decode(body, type=CardBody)
    except msgspec.ValidationError:
        raise LimitExceeded(f"a card holds at most {ADDRESSES_MAX} addresses") from None
    return sign_as_issuer(issuer, Kind.ISSUER, body)


def open_card(data: bytes, trust: Trust) -> Verified[IssuerCard]:
    """Checks a card. The issuer's dates and revocation are judged where it is used.

    Raises:
        Malformed, Refused, UnsupportedVersion: as ``verify_issuer``.
    """
    signed = verify_issuer(data, Kind.ISSUER, trust, size_max=CARD_BYTES_MAX)
    body = decode(signed.value, CardBody, VERSION, "an issuer's card")
    card = IssuerCard(
        issuer_id=IssuerId(signed.signer), seq=body.seq, addresses=tuple(body.addresses)
    )
    return vouch(card, of=signed)
