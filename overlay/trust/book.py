"""Whom a host believes, and what it has to show for that: sans-IO.

Rules
1. What is believed follows from the root alone: an issuer whose certificate the root has signed is
   believed whoever shows it, and nothing that an issuer or a peer says takes it away. Whether it is
   revoked, and its dates, are judged wherever something that it has signed is used.
2. Of two certificates of one issuer the one that ends last counts.
3. There are at most ``ISSUERS_MAX``; one more is refused, and those that are known stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence

from overlay.errors import ProtocolError
from overlay.trust.messages import MARK_BYTES, VERSION, Lacking, Question
from security.errors import SecurityError, UnsupportedVersion
from security.trust import Trust

TABLE = "trust"
_ISSUER = b"i"

Rows = dict[bytes, bytes | None]


class TrustBook:
    """The trust of one host, which grows. ``unbelieved`` counts stored rows that say nothing."""

    def __init__(self, trust: Trust, stored: Mapping[bytes, bytes]) -> None:
        """Begins with the trust of the home folder and what is stored.

        A stored issuer that the root has not signed is passed over: believing less harms nobody.
        """
        self.now = trust
        self.unbelieved = 0
        for key, row in sorted(stored.items()):
            try:
                if key[:1] == _ISSUER:
                    self.now = self.now.with_issuer(row)
            except SecurityError:
                self.unbelieved += 1

    def learn(self, *, issuers: Sequence[bytes] = (), roots: Sequence[bytes] = ()) -> Rows:
        """Believes more, and gives the rows to be stored: none where nothing is new.

        Args:
            issuers: Certificates of issuers, as anybody has shown them.
            roots: Signed changes of the root.

        Raises:
            SecurityError: When one is not to be believed, or there is no room; those before it are
                believed.
        """
        if roots:
            raise UnsupportedVersion("a change of the root, of which this version knows nothing")
        before = self.now
        for der in issuers:
            self.now = self.now.with_issuer(der)
        if self.now is before:
            return {}
        return {
            _ISSUER + bytes.fromhex(issuer_id): issuer.der
            for issuer_id, issuer in sorted(self.now.issuers.items())
            if before.issuers.get(issuer_id) is not issuer
        }

    def marks(self) -> set[bytes]:
        """What stands for each object that is believed here."""
        return {mark_of(each) for each in self._issuers()}

    def question(self, known: Container[bytes]) -> Question:
        """What a peer is asked and told, that is known to have the objects of these marks."""
        return Question(
            v=VERSION,
            marks=b"".join(sorted(self.marks())),
            issuers=_without(self._issuers(), known),
            roots=[],
        )

    def answer(self, question: Question) -> Lacking:
        """What the asker lacks, after its news has been taken in.

        Raises:
            ProtocolError: When the marks are no whole number of them.
        """
        return Lacking(issuers=_without(self._issuers(), marks_in(question)), roots=[])

    def _issuers(self) -> list[bytes]:
        return [issuer.der for _, issuer in sorted(self.now.issuers.items())]


def mark_of(data: bytes) -> bytes:
    """What stands for an object in a question."""
    return hashlib.sha256(data).digest()[:MARK_BYTES]


def marks_in(question: Question) -> set[bytes]:
    """The marks of a question. Raises ProtocolError when they are cut off."""
    marks = question.marks
    if len(marks) % MARK_BYTES:
        raise ProtocolError("marks of issuers that are cut off")
    return {marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES)}


def _without(objects: Iterable[bytes], known: Container[bytes]) -> list[bytes]:
    return [each for each in objects if mark_of(each) not in known]
