"""Revocation: a grow-only set of statements, each signed by an issuer for itself.

Sets are merged by union, so two issuers on the two sides of a partition cannot undo each other, and
any order of merging gives the same set and digest. What is revoked is an id: of a peer, client
token, ticket or issuer; a host is revoked by its key and not by one of its certificates (Nebula's
GHSA-69x3-g4r3-p962). A statement stays in force if its issuer is revoked later: otherwise whoever
revoked an issuer would let back in everybody whom that issuer had put out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from security.certificate import IssuerKey
from security.errors import LimitExceeded
from security.signed import Kind, Verified, sign_as_issuer, verify_issuer, vouch
from security.trust import ISSUERS_MAX, Trust
from security.wire import decode

VERSION = 1
STATEMENT_BYTES_MAX = 1024
REVOKED_MAX = 16_384
"""Statements of one issuer: it stores them whole with each one, and others take no more of it."""

STATEMENTS_MAX = ISSUERS_MAX * (REVOKED_MAX + 1)
"""All that every issuer may say, and one statement more against each of them."""

_DIGEST_BYTES = 16


class Revocation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="revocation"
):
    """``id`` (a PeerId, or the id of a token, ticket or issuer) is no longer to be believed."""

    v: Annotated[int, Meta(ge=0, le=255)]
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    since_unix_s: Annotated[int, Meta(ge=0)]
    reason: Annotated[str, Meta(max_length=128)]


def make_revocation(issuer: IssuerKey, id_: str, now_unix_s: float, *, reason: str = "") -> bytes:
    """Signs the statement that ``id_`` is revoked.

    Raises:
        LimitExceeded: when the id is no id, or the reason is too long.
    """
    statement = Revocation(v=VERSION, id=id_, since_unix_s=int(now_unix_s), reason=reason)
    body = msgspec.msgpack.encode(statement)
    try:
        msgspec.msgpack.decode(body, type=Revocation)
    except msgspec.ValidationError:
        raise LimitExceeded("an id has 1 to 64 characters, a reason at most 128") from None
    return sign_as_issuer(issuer, Kind.REVOCATION, body)


def open_revocation(data: bytes, trust: Trust) -> Verified[Revocation]:
    """Checks a statement.

    Raises:
        Malformed, Refused, UnsupportedVersion: as ``verify_issuer``.
    """
    signed = verify_issuer(data, Kind.REVOCATION, trust, size_max=STATEMENT_BYTES_MAX)
    return vouch(decode(signed.value, Revocation, VERSION, "a revocation"), of=signed)


@dataclass(frozen=True, slots=True)
class RevocationSet:
    """All statements that this host has seen. ``digest`` is equal where the sets are.

    ``hashes`` are the statements' SHA-256, by which two hosts compare what they have.
    """

    statements: frozenset[bytes] = frozenset()
    ids: frozenset[str] = frozenset()
    hashes: frozenset[bytes] = field(default=frozenset(), repr=False)
    digest: bytes = field(default=bytes(_DIGEST_BYTES))

    @classmethod
    def of(cls, statements: Iterable[Verified[Revocation]]) -> RevocationSet:
        """The set of these statements.

        Raises:
            LimitExceeded: when they are too many.
        """
        checked = list(statements)
        return cls._of(
            frozenset(one.data for one in checked),
            frozenset(one.value.id for one in checked),
            frozenset(hash_of(one.data) for one in checked),
        )

    @classmethod
    def _of(
        cls, statements: frozenset[bytes], ids: frozenset[str], hashes: frozenset[bytes]
    ) -> RevocationSet:
        if len(statements) > STATEMENTS_MAX:
            raise LimitExceeded(
                f"more than {STATEMENTS_MAX} revocations: the set only grows; begin a new overlay"
            )
        if not statements:
            return cls()
        digest = hashlib.blake2b(b"".join(sorted(hashes)), digest_size=_DIGEST_BYTES).digest()
        return cls(statements, ids, hashes, digest)

    def merge(self, other: RevocationSet) -> RevocationSet:
        """Everything that either holds.

        Raises:
            LimitExceeded: when that is too much.
        """
        if other.statements <= self.statements:
            return self
        return self._of(
            self.statements | other.statements,
            self.ids | other.ids,
            self.hashes | other.hashes,
        )

    def revokes(self, id_: str) -> bool:
        """True when a peer, token, ticket or issuer of this id is revoked."""
        return id_ in self.ids


def hash_of(statement: bytes) -> bytes:
    """By what a statement is known: SHA-256 of it as it was signed."""
    return hashlib.sha256(statement).digest()
