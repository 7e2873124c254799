"""What peers say on ``/rhizome/revocations/1``. One stream is one question and its answer.

:class:`Compare` asks for what the asker lacks, :class:`Tell` brings what is new. Statements travel
as their issuers signed them, with the certificates of issuers that the far side may not know.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.wire import read
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.revocation import STATEMENT_BYTES_MAX
from security.trust import ISSUERS_MAX

PROTOCOL = "/rhizome/revocations/1"
VERSION = 1

MARK_BYTES = 12
"""Of a statement's hash. Only an issuer could make two statements of one mark, both its own."""

MARKS_MAX = 65_536
"""In one question. Of a set that is larger the rest is told again, and changes nothing."""

PART_STATEMENTS = 128
"""Statements in one message: some 15 ms of checking signatures."""

Version = Annotated[int, Meta(ge=0, le=255)]
Digest = Annotated[bytes, Meta(min_length=16, max_length=16)]
Marks = Annotated[bytes, Meta(max_length=MARK_BYTES * MARKS_MAX)]
Certificates = Annotated[
    list[Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]], Meta(max_length=ISSUERS_MAX)
]
Statements = Annotated[
    list[Annotated[bytes, Meta(max_length=STATEMENT_BYTES_MAX)]], Meta(max_length=PART_STATEMENTS)
]


class Compare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="compare"):
    """I have the set of this digest. ``marks`` are those of my statements, sorted and joined.

    They are left out where the far side's digest was the same when last seen.
    """

    v: Version
    digest: Digest
    marks: Marks


class Tell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tell"):
    """Statements that are new here."""

    v: Version
    issuers: Certificates
    statements: Statements


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="part"):
    """Answers Compare: what the asker lacks of the set of ``digest``; with ``more`` not yet all."""

    digest: Digest
    issuers: Certificates
    statements: Statements
    more: bool


class Taken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="taken"):
    """Answers Tell: they are in the set, which has this digest now."""

    digest: Digest


Question = Compare | Tell
Answer = Part | Taken

_encoder = msgspec.msgpack.Encoder()
_question: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_part = msgspec.msgpack.Decoder(Part)
_taken = msgspec.msgpack.Decoder(Taken)


def encode(message: Question | Answer) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_question(data: bytes) -> Question:
    """Reads an opening message. Raises ProtocolError, also for another version."""
    return read(_question, data, "question about revocations", VERSION)


def decode_part(data: bytes) -> Part:
    """Reads an answer to Compare. Raises ProtocolError, without the content."""
    return read(_part, data, "part of a revocation set")


def decode_taken(data: bytes) -> Taken:
    """Reads an answer to Tell. Raises ProtocolError, without the content."""
    return read(_taken, data, "answer about revocations")
