"""What peers say on ``/rhizome/trust/1``: one call, one answer.

A :class:`Question` names what the asker has and brings what is new to it; :class:`Lacking` answers
with what the asker lacks. All of it is as the root or the issuers have signed it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.wire import read
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.issuer_card import CARD_BYTES_MAX
from security.root_bundle import Bundles
from security.trust import ISSUERS_MAX

PROTOCOL = "/rhizome/trust/1"
VERSION = 1

MARK_BYTES = 12
"""Of an object's SHA-256."""

MARKS_MAX = 4 * ISSUERS_MAX
"""More than anybody holds."""

Version = Annotated[int, Meta(ge=0, le=255)]
Marks = Annotated[bytes, Meta(max_length=MARK_BYTES * MARKS_MAX)]
Issuers = Annotated[
    list[Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]], Meta(max_length=ISSUERS_MAX)
]
Cards = Annotated[
    list[Annotated[bytes, Meta(max_length=CARD_BYTES_MAX)]], Meta(max_length=ISSUERS_MAX)
]


class Question(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="question"
):
    """I have the objects of these marks, sorted and joined; the others here are new to me."""

    v: Version
    marks: Marks
    issuers: Issuers
    roots: Bundles
    cards: Cards


class Lacking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lacking"):
    """What the asker has not named and the answerer has."""

    issuers: Issuers
    roots: Bundles
    cards: Cards


_encoder = msgspec.msgpack.Encoder()
_question = msgspec.msgpack.Decoder(Question)
_lacking = msgspec.msgpack.Decoder(Lacking)


def encode(message: Question | Lacking) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_question(data: bytes) -> Question:
    """Reads a question. Raises ProtocolError, also for another version."""
    return read(_question, data, "question about issuers", VERSION)


def decode_lacking(data: bytes) -> Lacking:
    """Reads an answer. Raises ProtocolError, without the content."""
    return read(_lacking, data, "answer about issuers")
