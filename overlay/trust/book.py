"""Whom a host believes, and what it has to show for that: sans-IO.

Rules
1. What is believed follows from the roots alone: an issuer whose certificate a root in force has
   signed is believed whoever shows it, and nothing that an issuer or a peer says takes it away.
   Whether it is revoked, and its dates, are judged wherever something that it has signed is used.
2. Of two certificates of one issuer the newest root's counts, of these the one that ends last.
3. Which roots are in force is said by root bundles (``security/root_bundle.py``). An issuer that no
   root in force has signed is forgotten; one that a former root has signed is no news and no lie.
4. Of two cards of one issuer the one with the higher number counts; one without its issuer is
   believed by nobody.
5. There are at most ``ISSUERS_MAX``; one more is refused, and those that are known stay.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from overlay.errors import ProtocolError
from overlay.trust.messages import MARK_BYTES, VERSION, Lacking, Question
from security.certificate import IssuerId
from security.errors import RootConflict, SecurityError, UntrustedIssuer
from security.issuer_card import IssuerCard, open_card
from security.peer_id import PeerId
from security.signed import Verified
from security.trust import Trust

TABLE = "trust"
_ISSUER, _CARD, _TAKEN = b"i", b"c", b"t"
_TAKEN_ROW = struct.Struct(">IQ")
_NUMBER_ALONE_BYTES = 4
"""As the version before wrote it."""

Rows = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Taken:
    """How far a peer is that has asked here.

    ``number`` is that of the newest root bundle that it has named, 0 for none. ``leaf_ends_unix_s``
    is the end of the certificate that it has shown, 0 where that was not written down.
    """

    number: int
    leaf_ends_unix_s: int


class TrustBook:
    """The trust of one host, which grows.

    ``cards`` say where issuers can be asked. ``unbelieved`` counts stored rows that say nothing;
    ``conflict`` are words for a person, once two root bundles of one number were seen. ``taken``
    says how far each peer is that has asked here, by its own word.
    """

    def __init__(self, trust: Trust, stored: Mapping[bytes, bytes]) -> None:
        """Begins with the trust of the home folder and what is stored.

        A stored issuer that the root has not signed is passed over: believing less harms nobody.
        """
        self.now = trust
        self.cards: dict[IssuerId, Verified[IssuerCard]] = {}
        self.unbelieved = 0
        self.conflict: str | None = None
        self.taken = taken_in(stored)
        for kind, take in ((_ISSUER, self._keep_issuer), (_CARD, self._learn_card)):
            for row in [row for key, row in sorted(stored.items()) if key[:1] == kind]:
                try:
                    take(row)
                except SecurityError:
                    self.unbelieved += 1

    def learn(
        self,
        *,
        issuers: Sequence[bytes] = (),
        roots: Sequence[bytes] = (),
        cards: Sequence[bytes] = (),
        takes_card: Callable[[IssuerId], bool] = lambda _: True,
    ) -> None:
        """Believes more.

        Args:
            issuers: Certificates of issuers, as anybody has shown them.
            roots: Root bundles.
            cards: Where issuers can be asked, as each has signed it.
            takes_card: Asked of the issuer of each card that would count from now on; one that is
                not taken is passed over.

        Raises:
            SecurityError: When one is not to be believed, or there is no room; those before it are
                believed.
        """
        self._learn_roots(roots)
        for der in issuers:
            self._learn_issuer(der)
        for card in cards:
            self._learn_card(card, takes_card)

    def _learn_roots(self, bundles: Sequence[bytes]) -> None:
        try:
            self.now = self.now.with_bundles(bundles)
        except RootConflict as error:
            # The far side may be honest: it has taken the other one.
            self.conflict = str(error)
        self.cards = {id_: card for id_, card in self.cards.items() if id_ in self.now.issuers}

    def _learn_issuer(self, der: bytes) -> None:
        try:
            self._keep_issuer(der)
        except UntrustedIssuer:
            self.now.roots.former_issuer(der)

    def _keep_issuer(self, der: bytes) -> None:
        self.now = self.now.with_issuer(der)

    def _learn_card(self, data: bytes, takes: Callable[[IssuerId], bool] = lambda _: True) -> None:
        if any(data == known.data for known in self.cards.values()):
            return
        card = open_card(data, self.now)
        issuer_id = card.value.issuer_id
        known = self.cards.get(issuer_id)
        if (known is None or _number(card) > _number(known)) and takes(issuer_id):
            self.cards = {**self.cards, issuer_id: card}

    def rows(self) -> Rows:
        """All that is believed, as it is to be stored."""
        issuers, cards = sorted(self.now.issuers.items()), sorted(self.cards.items())
        return {
            **{_ISSUER + bytes.fromhex(id_): issuer.der for id_, issuer in issuers},
            **{_CARD + bytes.fromhex(id_): card.data for id_, card in cards},
            **{
                _TAKEN + peer_id.encode(): _TAKEN_ROW.pack(one.number, one.leaf_ends_unix_s)
                for peer_id, one in sorted(self.taken.items())
            },
        }

    def marks(self) -> set[bytes]:
        """What stands for each object that is believed here."""
        return {
            mark_of(each) for each in (*self._issuers(), *self._cards(), *self.now.roots.bundles)
        }

    def note_taken(self, peer_id: PeerId, marks: Container[bytes], leaf_ends_unix_s: int) -> None:
        """Notes how far a peer is that asks.

        Args:
            peer_id: Who asks.
            marks: Those of its question.
            leaf_ends_unix_s: The end of the certificate that it has shown.
        """
        before, chain = self.taken.get(peer_id), self.now.roots.chain
        named = max((one.number for one in chain if mark_of(one.data) in marks), default=0)
        number = max(named, before.number if before else 0)
        self.taken[peer_id] = Taken(number, leaf_ends_unix_s)

    def forget_taken(self, is_gone: Callable[[PeerId, Taken], bool]) -> None:
        """Drops what is noted of peers that are gone."""
        self.taken = {id_: one for id_, one in self.taken.items() if not is_gone(id_, one)}

    def question(self, known: Container[bytes]) -> Question:
        """What a peer is asked and told, that is known to have the objects of these marks."""
        return Question(
            v=VERSION,
            marks=b"".join(sorted(self.marks())),
            issuers=_without(self._issuers(), known),
            roots=_without(self.now.roots.bundles, known),
            cards=_without(self._cards(), known),
        )

    def answer(self, question: Question) -> Lacking:
        """What the asker lacks, after its news has been taken in.

        Raises:
            ProtocolError: When the marks are no whole number of them.
        """
        marks = marks_in(question)
        return Lacking(
            issuers=_without(self._issuers(), marks),
            roots=_without(self.now.roots.bundles, marks),
            cards=_without(self._cards(), marks),
        )

    def _issuers(self) -> list[bytes]:
        return [issuer.der for _, issuer in sorted(self.now.issuers.items())]

    def _cards(self) -> list[bytes]:
        return [card.data for _, card in sorted(self.cards.items())]


def _number(card: Verified[IssuerCard]) -> tuple[int, bytes]:
    return card.value.seq, card.data


def taken_in(stored: Mapping[bytes, bytes]) -> dict[PeerId, Taken]:
    """How far each peer is that has asked here, out of the stored rows."""
    taken = {}
    for key, row in stored.items():
        peer_id = PeerId(key[1:].decode("ascii", "replace"))
        if key[:1] == _TAKEN and len(row) == _TAKEN_ROW.size:
            number, leaf_ends_unix_s = _TAKEN_ROW.unpack(row)
            taken[peer_id] = Taken(number, leaf_ends_unix_s)
        elif key[:1] == _TAKEN and len(row) == _NUMBER_ALONE_BYTES:
            taken[peer_id] = Taken(int.from_bytes(row, "big"), 0)
    return taken


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
