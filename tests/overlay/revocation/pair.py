"""Hosts that exchange revocations without sockets, and issuers that sign them."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.revocation.exchange import Exchange, Rows
from overlay.revocation.messages import Compare, Tell
from overlay.trust.book import TrustBook
from security.certificate import IssuerKey, make_issuer
from security.peer_id import PeerId
from security.revocation import make_revocation
from tests.security.world import NOW_S, Overlay, seeded

OVERLAY = Overlay(1)
SECOND = make_issuer(OVERLAY.root, seeded(5), NOW_S)
"""Another issuer under the same root, of which nobody has heard at first."""

ISSUERS = (OVERLAY.issuer, SECOND)


def said(id_: str, issuer: IssuerKey = OVERLAY.issuer) -> bytes:
    """The statement that an issuer has signed of an id."""
    return make_revocation(issuer, id_, NOW_S)


@dataclass(eq=False)
class Host:
    """One host: its exchange, and the rows that its disk has."""

    name: str
    rows: dict[bytes, bytes] = field(default_factory=dict)
    exchange: Exchange = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def peer_id(self) -> PeerId:
        return PeerId(self.name)

    @property
    def ids(self) -> set[str]:
        return set(self.exchange.known.ids)

    def start(self) -> None:
        """A start: everything but the disk is gone."""
        self.exchange = Exchange(TrustBook(OVERLAY.trust, {}), self.rows)

    def learn(
        self, statements: list[bytes], issuers: list[bytes], source: PeerId | None = None
    ) -> None:
        prepared = self.exchange.prepare(self.exchange.check(statements, issuers))
        self._store(prepared.rows)
        self.exchange.accept(prepared, source)

    def revoke(self, id_: str, issuer: IssuerKey = OVERLAY.issuer) -> None:
        """What its own issuer has signed."""
        self.learn([said(id_, issuer)], [issuer.der])

    def ask(self, other: Host, theirs: bytes | None = None) -> int:
        """Takes in all that another one has; how many questions that took."""
        digest, count = theirs or other.exchange.known.digest, 0
        while True:
            question: Compare = self.exchange.compare(digest)
            parts = list(other.exchange.answer(question))
            count += 1
            for part in parts:
                self.learn(part.statements, part.issuers, other.peer_id)
            if self.exchange.is_answered(question, parts[-1]):
                return count
            digest = parts[-1].digest

    def tell(self, other: Host, since: int) -> int:
        """Tells another one what was learned; until where that goes."""
        message, until = self.exchange.news(since, other.peer_id)
        if isinstance(message, Tell):
            other.learn(message.statements, message.issuers, self.peer_id)
        return until

    def _store(self, rows: Rows) -> None:
        self.rows.update({key: value for key, value in rows.items() if value is not None})


def merged(one: Host, other: Host) -> None:
    """Both have asked each other, as when a connection comes up."""
    one.ask(other)
    other.ask(one)
