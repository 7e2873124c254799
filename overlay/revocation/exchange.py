"""The revocation set of a host, and what it says of it: sans-IO.

Sets grow by union. Two peers that meet compare digests, and each asks for what it lacks; what is
new afterwards is told at once to every peer that is up, and told on by whoever it was new to.

Rules
1. A statement is checked before it is believed, kept or passed on: signature, and an issuer whose
   certificate a root in force has signed. An issuer that is not known here must be shown beside it.
   Its dates do not matter, and neither does that it is revoked itself: the union of two sets must
   not hang on which came first (``security/revocation.py``). What is believed stays so when the
   root is let go that has vouched for it.
2. An issuer has room for ``REVOKED_MAX`` statements here. More of it are dropped, and nothing else
   is for that: its key may be stolen, and the others must still be heard. The first statement
   against an issuer that is known here always finds room.
3. What is to be believed is stored first: :meth:`Exchange.prepare`, store, :meth:`Exchange.accept`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from overlay.errors import ProtocolError
from overlay.revocation.messages import (
    MARK_BYTES,
    MARKS_MAX,
    PART_STATEMENTS,
    VERSION,
    Compare,
    Part,
    Tell,
)
from security.certificate import Issuer, IssuerId
from security.errors import SecurityError
from security.peer_id import PeerId
from security.revocation import REVOKED_MAX, Revocation, RevocationSet, hash_of, open_revocation
from security.signed import Verified
from security.trust import Trust

TABLE = "revocations"
_ISSUER, _STATEMENT = b"i", b"s"

AGAINST_MAX = 4
"""Statements that are shown to whom they concern: one will do, if their signer is known there."""

DROPPED_MAX = 16_384
"""Dropped statements that are remembered, so that nobody sends them again."""

Rows = dict[bytes, bytes | None]


class Believed(Protocol):
    """Whom this host believes: more as it learns."""

    @property
    def now(self) -> Trust:
        """What is believed at present."""
        ...

    def learn(self, *, issuers: Sequence[bytes]) -> object:
        """Believes these issuers too. Raises SecurityError when one is not our root's."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """Statements that are new, the set with them, and the rows to be stored first."""

    fresh: tuple[Verified[Revocation], ...]
    merged: RevocationSet
    rows: Rows


@dataclass(frozen=True, slots=True)
class News:
    """One statement in the order in which it was learned; from a peer, or from this host."""

    statement: Verified[Revocation]
    source: PeerId | None


class Room:
    """Which statements fit beside what is known: each that is asked about takes its place."""

    def __init__(self, signed: Counter[str], issuers: set[str]) -> None:
        """``signed`` counts statements by signer, ``issuers`` are those not revoked yet."""
        self._signed = signed
        self._issuers = issuers

    def admits(self, statement: Verified[Revocation]) -> bool:
        """Whether its signer has room for it, or it is the first one against an issuer."""
        if statement.value.id in self._issuers:
            self._issuers.discard(statement.value.id)
            return True
        if self._signed[statement.signer] >= REVOKED_MAX:
            return False
        self._signed[statement.signer] += 1
        return True


class Exchange:
    """What is revoked, as far as this host knows, and who signed it.

    ``dropped`` counts the statements that found no room, by signer.
    """

    def __init__(self, trust: Believed, stored: Mapping[bytes, bytes]) -> None:
        """Begins with what is stored; ``trust`` is what this host believes, and learns.

        Raises:
            SecurityError: When a stored row is damaged, or of another overlay.
        """
        self._trust = trust
        self.known = RevocationSet()
        self._news: list[News] = []
        self._by_mark: dict[bytes, Verified[Revocation]] = {}
        self._signed: Counter[str] = Counter()
        self._dropped: set[bytes] = set()
        self.dropped: Counter[str] = Counter()
        issuers = [row for key, row in stored.items() if key[:1] == _ISSUER]
        trust.learn(issuers=issuers)
        self._dropped_under = trust.now
        # What was believed stays, though the root that vouched for its issuer was let go.
        self._then = trust.now.remembering(issuers)
        statements = [row for key, row in stored.items() if key[:1] == _STATEMENT]
        fresh = [open_revocation(each, self._then) for each in statements]
        self.accept(self._with(fresh), None)

    # -- growing

    def check(
        self, statements: Iterable[bytes], issuers: Sequence[bytes] = ()
    ) -> list[Verified[Revocation]]:
        """Those of some statements that are new here, checked.

        Args:
            statements: As they were signed.
            issuers: Certificates of issuers that may be new here.

        Raises:
            ProtocolError: When one is not to be believed.
        """
        unknown = [each for each in statements if mark_of(each) not in self._by_mark]
        if not unknown:
            return []
        try:
            self._meet(issuers)
            unknown = [each for each in unknown if mark_of(each) not in self._dropped]
            former = self._trust.now.remembering(issuers)
            opened = [open_revocation(each, former) for each in unknown]
        except SecurityError as error:
            raise ProtocolError(f"a revocation that is none: {type(error).__name__}") from None
        return [each for each in opened if self._is_vouched_for(each)]

    def _is_vouched_for(self, statement: Verified[Revocation]) -> bool:
        """False for one by an issuer whose root was let go: it says nothing here any more."""
        vouched = IssuerId(statement.signer) in self._trust.now.issuers
        if not vouched:
            self._forget(statement)
        return vouched

    def _meet(self, issuers: Sequence[bytes]) -> None:
        self._trust.learn(issuers=issuers)
        if self._trust.now is not self._dropped_under:
            self._dropped.clear()  # some may be against the new one
            self._dropped_under = self._trust.now

    def room(self) -> Room:
        """For statements that are not known here."""
        issuers: set[str] = {
            each for each in self._trust.now.issuers if not self.known.revokes(each)
        }
        return Room(Counter(self._signed), issuers)

    def drop(self, statement: Verified[Revocation]) -> None:
        """Counts one that has no room."""
        self.dropped[statement.signer] += 1
        self._forget(statement)

    def _forget(self, statement: Verified[Revocation]) -> None:
        if len(self._dropped) < DROPPED_MAX:
            self._dropped.add(mark_of(statement.data))

    def prepare(self, fresh: Sequence[Verified[Revocation]]) -> Prepared:
        """What becomes of the set with more statements, as far as there is room for them.

        Nothing is believed yet.

        Raises:
            LimitExceeded: When more are stored than a set holds.
        """
        room, fits = self.room(), []
        for each in fresh:
            if room.admits(each):
                fits.append(each)
            else:
                self.drop(each)
        return self._with(fits)

    def _with(self, fresh: Sequence[Verified[Revocation]]) -> Prepared:
        merged = self.known.merge(RevocationSet.of(fresh))
        rows: Rows = {}
        for each in fresh:
            issuer = self._issuer(each.signer)
            rows[_ISSUER + bytes.fromhex(issuer.issuer_id)] = issuer.der
            rows[_STATEMENT + hash_of(each.data)] = each.data
        return Prepared(tuple(fresh), merged, rows)

    def accept(self, prepared: Prepared, source: PeerId | None) -> None:
        """Believes what was prepared last; its rows are stored. ``source``: who told it."""
        self.known = prepared.merged
        self._then = replace(self._then, issuers={**self._then.issuers, **self._trust.now.issuers})
        for each in prepared.fresh:
            if self._by_mark.setdefault(mark_of(each.data), each) is each:
                self._signed[each.signer] += 1
                self._news.append(News(each, source))

    # -- asking and answering

    def compare(self, theirs: bytes) -> Compare:
        """The question to a peer whose digest was ``theirs`` when last seen."""
        if theirs == self.known.digest:
            return Compare(v=VERSION, digest=self.known.digest, marks=b"")
        # Nobody need send again what was dropped here.
        marks = sorted(self._by_mark.keys() | self._dropped)[:MARKS_MAX]
        return Compare(v=VERSION, digest=self.known.digest, marks=b"".join(marks))

    def answer(self, question: Compare) -> Iterator[Part]:
        """What the asker lacks, at least one part.

        Where it has told no marks it is told the digest alone, and asks again if that differs.

        Raises:
            ProtocolError: When the marks are no whole number of them.
        """
        if len(question.marks) % MARK_BYTES:
            raise ProtocolError("marks of revocations that are cut off")
        theirs = {
            question.marks[at : at + MARK_BYTES] for at in range(0, len(question.marks), MARK_BYTES)
        }
        empty_set = question.digest == RevocationSet().digest
        told = bool(theirs) or empty_set
        same = question.digest == self.known.digest
        lacking = [] if same or not told else self._lacking(theirs)
        for at in range(0, max(1, len(lacking)), PART_STATEMENTS):
            part = lacking[at : at + PART_STATEMENTS]
            yield Part(
                digest=self.known.digest,
                issuers=self._issuers_of(part),
                statements=[each.data for each in part],
                more=at + PART_STATEMENTS < len(lacking),
            )

    def is_answered(self, question: Compare, last: Part) -> bool:
        """Whether the last part of an answer ends the question, or it is to be asked with marks."""
        asked = bool(question.marks) or question.digest == RevocationSet().digest
        return asked or last.digest == question.digest

    def _lacking(self, theirs: set[bytes]) -> list[Verified[Revocation]]:
        return [each for mark, each in sorted(self._by_mark.items()) if mark not in theirs]

    # -- telling

    @property
    def end(self) -> int:
        """How many statements have been learned: where the next news will be."""
        return len(self._news)

    def news(self, since: int, peer_id: PeerId) -> tuple[Tell | None, int]:
        """What a peer is to be told of what was learned ``since``.

        Returns:
            A message, None where there is nothing; and until where that goes.
        """
        until = min(self.end, since + PART_STATEMENTS)
        told = [each.statement for each in self._news[since:until] if each.source != peer_id]
        if not told:
            return None, until
        issuers, data = self._issuers_of(told), [each.data for each in told]
        return Tell(v=VERSION, issuers=issuers, statements=data), until

    def against(self, *ids: str) -> Tell | None:
        """Some of what revokes any of some ids, for whom that concerns; None where nothing does."""
        found = [each.statement for each in self._news if each.statement.value.id in ids]
        told = found[:AGAINST_MAX]
        if not told:
            return None
        data = [each.data for each in told]
        return Tell(v=VERSION, issuers=self._issuers_of(told), statements=data)

    def _issuers_of(self, statements: Sequence[Verified[Revocation]]) -> list[bytes]:
        return [self._issuer(signer).der for signer in sorted({each.signer for each in statements})]

    def _issuer(self, signer: str) -> Issuer:
        """Who signed a statement that is believed here."""
        known = self._trust.now.issuers.get(IssuerId(signer))
        return self._then.issuer(IssuerId(signer)) if known is None else known

    def statement_of(self, id_: str) -> bytes | None:
        """A statement that revokes this id."""
        told = self.against(id_)
        return None if told is None else told.statements[0]

    def statements(self) -> list[Verified[Revocation]]:
        """All of them, in the order in which they were learned."""
        return [each.statement for each in self._news]

    def orphaned(self) -> list[Revocation]:
        """What issuers have revoked whose root was let go, and nobody else has."""
        issuers, statements = self._trust.now.issuers, self.statements()
        said = {each.value.id for each in statements if each.signer in issuers}
        return [each.value for each in statements if each.value.id not in said]


def mark_of(statement: bytes) -> bytes:
    """What stands for a statement in a question."""
    return hash_of(statement)[:MARK_BYTES]
