"""Drives what a host believes: its table, its streams, and one task for each peer that is up.

The core is sans-IO (``book.py``). A peer that comes up is asked at once, and again now and then;
what is new here is told it at once. All this goes on before this host is confirmed, too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import trio

from overlay.companions import Companions
from overlay.errors import (
    HomeError,
    OverlayError,
    Overloaded,
    PeerGone,
    ProtocolError,
    StorageError,
    StreamReset,
)
from overlay.gossip.antientropy import Allowance
from overlay.peers import Peers
from overlay.ports import Ports
from overlay.transport.connection import Connection
from overlay.transport.frame import ResetCode
from overlay.transport.stream import Stream
from overlay.trust.book import TABLE, Taken, TrustBook, mark_of, marks_in
from overlay.trust.messages import (
    PROTOCOL,
    Lacking,
    Question,
    decode_lacking,
    decode_question,
    encode,
)
from security.certificate import RENEWAL_GRACE_S, IssuerId, IssuerKey, parse_leaf
from security.errors import SecurityError
from security.issuer_card import make_card
from security.judge import is_over
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.trust import Trust

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""For one call."""

COMPARE_EVERY_S = 30.0
"""What has not come by any other way comes by this."""

CARD_EVERY_S = 10.0
"""A card of one issuer is taken from peers after so long: no key makes this host write without end.
The newest of those that came in between is told again when peers compare."""

KeepRoots = Callable[[tuple[bytes, ...]], None]
"""Stores root bundles durably."""

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0


class TrustKeeper:
    """What one peer believes, stores, tells and hears of issuers and roots.

    ``keep`` stores root bundles in the home folder; ``on_change`` is told what was believed
    before, whenever that has changed. ``revocations`` are those that the peer knows.
    """

    def __init__(self, *, trust: Trust, ports: Ports, keep: KeepRoots = lambda _: None) -> None:
        """Begins with the trust of the home folder and what is stored.

        Raises:
            StorageError: When that cannot be read.
        """
        self._ports = ports
        self._stored = dict(ports.storage.read(TABLE))
        self.book = TrustBook(trust, self._stored)
        if self.book.unbelieved:
            log.warning("%d stored issuers are not our roots': passed over", self.book.unbelieved)
        self._keep_roots = keep
        self._card_taken_s: dict[IssuerId, float] = {}
        self.on_change: Callable[[Trust], None] = lambda _: None
        self.revocations: Callable[[], RevocationSet] = RevocationSet
        self._kept_roots = trust.roots
        self._said: str | None = None
        self._allowance = Allowance()
        self._grown = trio.Event()
        self._companions = Companions(self._accompany)
        self._knows: dict[Connection, set[bytes]] = {}
        self.refused = 0

    @property
    def now(self) -> Trust:
        """What is believed at present."""
        return self.book.now

    def learn(
        self,
        *,
        issuers: Sequence[bytes] = (),
        roots: Sequence[bytes] = (),
        cards: Sequence[bytes] = (),
    ) -> None:
        """Believes, stores and tells more, where it is new.

        A card of an issuer that is revoked or has ended is passed over.

        Raises:
            SecurityError: As ``TrustBook.learn``; what came before is believed.
        """
        self._learn(issuers, roots, cards, lambda issuer_id: not self._is_over(issuer_id))

    def _learn(
        self,
        issuers: Sequence[bytes],
        roots: Sequence[bytes],
        cards: Sequence[bytes],
        takes_card: Callable[[IssuerId], bool],
    ) -> None:
        before, cards_before = self.now, self.book.cards
        try:
            self.book.learn(issuers=issuers, roots=roots, cards=cards, takes_card=takes_card)
        finally:
            self._say_conflict()
            if self.now is not before or self.book.cards != cards_before:
                self._store()
                self._store_roots()
                self._grown.set()
                self._grown = trio.Event()
            if self.now is not before:
                self.on_change(before)

    def _is_over(self, issuer_id: IssuerId) -> bool:
        now_unix_s, revocations = self._ports.clock.unix_s(), self.revocations()
        issuer = self.now.issuer(issuer_id)
        return is_over(issuer, now_unix_s=now_unix_s, revocations=revocations)

    def _takes_card_of_peer(self, issuer_id: IssuerId) -> bool:
        now_s, taken_s = self._ports.clock.now_s(), self._card_taken_s
        too_soon = now_s - taken_s.get(issuer_id, -math.inf) < CARD_EVERY_S
        if too_soon or self._is_over(issuer_id):
            return False
        kept = {id_: at_s for id_, at_s in taken_s.items() if id_ in self.now.issuers}
        self._card_taken_s = {**kept, issuer_id: now_s}
        return True

    def enrolment_of(self, issuer_id: IssuerId) -> tuple[str, ...]:
        """Where an issuer's enrolment listener is, as it has told; nothing where it has not."""
        card = self.book.cards.get(issuer_id)
        return () if card is None else card.value.addresses

    def tell_enrolment(self, issuer: IssuerKey, addresses: Sequence[str]) -> None:
        """Where this host's own issuer can be asked now: all others are to know.

        Nobody is told of an issuer that is not to be believed, as after its root was let go.
        """
        known = self.book.cards.get(issuer.issuer_id)
        if known is not None and known.value.addresses == tuple(addresses):
            return
        after = 0 if known is None else known.value.seq + 1
        seq = max(int(self._ports.clock.unix_s()), after)
        try:
            self.learn(issuers=[issuer.der], cards=[make_card(issuer, addresses, seq)])
        except SecurityError as error:
            log.warning("nobody is told where this issuer can be asked: %s", error)

    def posture(self) -> list[tuple[str, str]]:
        """Lines for this host's owner: none while all is well."""
        if self.book.conflict is not None:
            return [("roots", f"{self.book.conflict}; what was taken first stays")]
        if self.now.roots.overlap:
            return [("roots", "two are in force: a rotation is under way (rhizome ca root status)")]
        return []

    def _say_conflict(self) -> None:
        if self.book.conflict != self._said:
            self._said = self.book.conflict
            log.error("%s; what was taken first stays", self._said)

    def _store_roots(self) -> None:
        """As :meth:`_store`, in the home folder, where the next start begins."""
        roots = self.now.roots
        if roots == self._kept_roots:
            return
        try:
            self._keep_roots(roots.bundles)
            self._kept_roots = roots
        except (StorageError, HomeError) as error:
            log.warning("roots are believed and not stored, which is tried again: %s", error)

    def _store(self) -> None:
        """What cannot be stored is believed all the same: after a start others tell it."""
        rows = self.book.rows()
        changed: dict[bytes, bytes | None] = dict.fromkeys(self._stored.keys() - rows.keys())
        changed |= {key: row for key, row in rows.items() if self._stored.get(key) != row}
        if not changed:
            return
        try:
            self._ports.storage.write(TABLE, dict(sorted(changed.items())), durable=True)
            self._stored = rows
        except StorageError as error:
            log.warning("issuers are believed and not stored, which is tried again: %s", error)

    async def run(
        self, peers: Peers, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Asks and tells peers until cancelled."""
        self._store()  # the home folder's own issuer, which may be another one next time
        await self._companions.run(peers, self.on_up, task_status=task_status)

    def on_up(self, connection: Connection) -> None:
        """A peer is up: it is asked, and told of what is new from now on."""
        # What is known here already it asks for itself.
        self._companions.begin(connection, self.book.marks())

    async def _accompany(self, connection: Connection, peer_id: PeerId, known: set[bytes]) -> None:
        self._knows[connection] = known
        pause_s = RETRY_FIRST_S
        try:
            while connection.closed is None:
                try:
                    await self._ask(connection)
                    pause_s = RETRY_FIRST_S
                    await self._something_new(self._knows[connection])
                except PeerGone:
                    return
                except StreamReset as error:
                    if error.code == ResetCode.UNSUPPORTED:
                        return  # it is of the version before, which knows one issuer
                    await trio.sleep(pause_s)
                    pause_s = min(RETRY_MAX_S, pause_s * 2)
                except (OverlayError, SecurityError) as error:
                    log.warning("the issuers that %s knows are not: %s", peer_id, error)
                    await trio.sleep(pause_s)
                    pause_s = min(RETRY_MAX_S, pause_s * 2)
        finally:
            del self._knows[connection]
            self._allowance.forget(peer_id)

    async def _something_new(self, known: set[bytes]) -> None:
        """Waits until there is something that a peer does not know, or it is time to ask again."""
        with trio.move_on_after(COMPARE_EVERY_S):
            while self.book.marks() <= known:
                await self._grown.wait()
            return
        self._store()
        self._store_roots()

    async def _ask(self, connection: Connection) -> None:
        """One question, with the news; its answer is believed."""
        question = self.book.question(self._knows[connection])
        data = await connection.call(PROTOCOL, encode(question), timeout_s=TIMEOUT_S)
        if connection.closed is not None:
            raise PeerGone(connection.closed)  # dropped while this waited
        self._knows[connection] = (self._knows[connection] | marks_in(question)) & self.book.marks()
        self._take(connection, decode_lacking(data))

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        """Answers one question of a peer."""
        peer_id = connection.remote.peer_id
        if peer_id is None:
            raise ProtocolError("a client exchanges no issuers")
        question = decode_question(stream.body)
        if connection.closed is not None:
            raise PeerGone(connection.closed)
        now_s = self._ports.clock.now_s()
        if not self._allowance.is_left(peer_id, now_s):
            raise Overloaded("a peer asks for issuers without end")
        self._allowance.spend(peer_id, len(stream.body), now_s)
        try:
            self._take(connection, question)
        except SecurityError as error:
            self.refused += 1
            raise ProtocolError(f"an issuer or root that is none: {type(error).__name__}") from None
        answer = encode(self.book.answer(question))
        if peer_id not in self.book.taken:
            self.book.forget_taken(self._is_gone)
        self.book.note_taken(peer_id, marks_in(question), _leaf_end(connection))
        self._store()
        self._allowance.spend(peer_id, len(answer), now_s)
        await stream.send(answer)
        await stream.finish()

    def _is_gone(self, peer_id: PeerId, taken: Taken) -> bool:
        """Whether a host can only join again, so that no rotation waits for it."""
        last_unix_s = taken.leaf_ends_unix_s + RENEWAL_GRACE_S
        is_late = taken.leaf_ends_unix_s > 0 and self._ports.clock.unix_s() > last_unix_s
        return is_late or self.revocations().revokes(peer_id)

    def _take(self, connection: Connection, told: Question | Lacking) -> None:
        """Believes what a peer has shown, which it need not be told again.

        What is not believed is not remembered: there is no end to what a peer can make up.
        """
        try:
            self._learn(told.issuers, told.roots, told.cards, self._takes_card_of_peer)
        finally:
            if connection in self._knows:
                objects = (*told.issuers, *told.roots, *told.cards)
                shown = {mark_of(each) for each in objects}
                self._knows[connection] |= shown & self.book.marks()


def _leaf_end(connection: Connection) -> int:
    """When the certificate ends that a peer has shown."""
    leaf = connection.remote.leaf
    return 0 if leaf is None else parse_leaf(leaf).not_after_unix_s
