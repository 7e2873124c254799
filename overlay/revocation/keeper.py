"""Drives the revocation set: its table, its streams, and one task for each peer that is up.

The core is sans-IO (``exchange.py``). A peer that comes up is asked at once, and again now and
then; what is new here is told it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import trio

from overlay.companions import Companions
from overlay.errors import (
    HomeError,
    OverlayError,
    Overloaded,
    PeerGone,
    ProtocolError,
    StorageError,
)
from overlay.gossip.antientropy import Allowance
from overlay.peers import Peers
from overlay.ports import Ports
from overlay.revocation.exchange import TABLE, Exchange, Rows
from overlay.revocation.messages import (
    PROTOCOL,
    Compare,
    Part,
    Taken,
    Tell,
    decode_part,
    decode_question,
    decode_taken,
    encode,
)
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from overlay.trust.keeper import TrustKeeper
from security.certificate import parse_leaf
from security.errors import LimitExceeded, SecurityError
from security.peer_id import PeerId
from security.revocation import REVOKED_MAX, STATEMENTS_MAX, Revocation, RevocationSet
from security.signed import Verified

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""For each message of an answer."""

COMPARE_EVERY_S = 30.0
"""A set that has not come by any other way comes by this."""

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0


class RevocationKeeper:
    """The revocation set of one peer: what it believes, stores, tells and hears.

    ``on_learned`` is called when the set has grown, ``on_merged`` when a peer that is still
    admitted has told all that it had.
    """

    def __init__(
        self,
        *,
        trust: TrustKeeper,
        ports: Ports,
        on_learned: Callable[[], None],
        on_merged: Callable[[PeerId], None],
    ) -> None:
        """Reads the stored set.

        Raises:
            StorageError: When it cannot be read.
            HomeError: When what is stored is damaged: believing less would let the revoked back in.
        """
        self._ports = ports
        self._on_learned = on_learned
        self._on_merged = on_merged
        try:
            self.exchange = Exchange(trust, ports.storage.read(TABLE))
        except SecurityError as error:
            raise HomeError(
                f"the stored revocations cannot be believed ({error}): restore the home folder"
            ) from None
        self._unstored: Rows = {}
        self._allowance = Allowance()
        self._grown = trio.Event()
        self._companions = Companions(self._accompany)
        self._full: set[str] = set()
        self.refused = 0

    @property
    def known(self) -> RevocationSet:
        """What is revoked."""
        return self.exchange.known

    def revokes(self, id_: str) -> bool:
        """Whether a peer, token, ticket or issuer of this id is revoked."""
        return self.exchange.known.revokes(id_)

    def against(self, der: bytes) -> tuple[str, bytes] | None:
        """What the owner of a leaf is told whose connection ends for it: that it is revoked."""
        leaf = parse_leaf(der)
        told = self.exchange.against(leaf.peer_id, leaf.issuer_id)
        return None if told is None else (PROTOCOL, encode(told))

    async def run(
        self, peers: Peers, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Asks and tells peers until cancelled."""
        await self._companions.run(peers, self.on_up, task_status=task_status)

    # -- growing

    def learn(self, statements: Iterable[bytes], issuers: Sequence[bytes] = ()) -> bool:
        """Statements of this host's own issuer; True where some were new.

        Args:
            statements: As they were signed.
            issuers: Certificates of issuers that may be new to this host.

        Raises:
            ProtocolError: When one is not to be believed.
            LimitExceeded: When there is no room for some: the others are enforced all the same.
        """
        said = sorted(statements)
        grown = self._take(self.exchange.check(said, issuers), None)
        if not self.known.statements.issuperset(said):
            raise LimitExceeded(
                f"an issuer signs at most {REVOKED_MAX} revocations, and as many of this one are "
                "known: revoke the issuer, whose key may be stolen"
            )
        return grown

    def _take(self, fresh: Sequence[Verified[Revocation]], source: PeerId | None) -> bool:
        prepared = self.exchange.prepare(fresh)
        self._say_who_is_full()
        if not prepared.fresh:
            return False
        self._store(prepared.rows)
        self.exchange.accept(prepared, source)
        self._grown.set()
        self._grown = trio.Event()
        self._on_learned()
        return True

    def _say_who_is_full(self) -> None:
        for issuer_id in self.exchange.dropped.keys() - self._full:
            self._full.add(issuer_id)
            log.error(
                "issuer %s has signed more revocations than the %d that are taken of one: if that "
                "was not its owner, revoke it",
                issuer_id,
                REVOKED_MAX,
            )

    def _store(self, rows: Rows) -> None:
        """A set that cannot be stored is enforced all the same: after a start others tell it."""
        self._unstored = {**self._unstored, **rows}
        if not self._unstored:
            return
        try:
            self._ports.storage.write(TABLE, self._unstored, durable=True)
            self._unstored = {}
        except StorageError as error:
            log.warning("revocations are enforced and not stored, which is tried again: %s", error)

    # -- with each peer

    def on_up(self, connection: Connection) -> None:
        """A peer is up: it is asked, and told of what is new from now on."""
        self._companions.begin(connection, self.exchange.end)

    async def _accompany(self, connection: Connection, peer_id: PeerId, since: int) -> None:
        pause_s, theirs = RETRY_FIRST_S, connection.remote.hello.revocations_digest
        try:
            while connection.closed is None:
                try:
                    theirs = await self._ask(connection, peer_id, theirs)
                    pause_s = RETRY_FIRST_S
                    while await self._something_new(since):
                        since = await self._tell(connection, peer_id, since)
                except PeerGone:
                    return
                except (OverlayError, LimitExceeded) as error:
                    log.warning("revocations of %s are not known: %s", peer_id, error)
                    await trio.sleep(pause_s)
                    pause_s = min(RETRY_MAX_S, pause_s * 2)
        finally:
            self._allowance.forget(peer_id)

    async def _something_new(self, since: int) -> bool:
        """Waits until there is news after ``since``; False when it is time to compare again."""
        with trio.move_on_after(COMPARE_EVERY_S):
            while self.exchange.end <= since:
                await self._grown.wait()
            return True
        self._store({})
        return False

    async def _ask(self, connection: Connection, peer_id: PeerId, theirs: bytes) -> bytes:
        """Takes in all that a peer has and this host lacks; from its digest then to that of now."""
        while True:
            question = self.exchange.compare(theirs)
            last = await self._put(connection, peer_id, question)
            theirs = last.digest
            if self.exchange.is_answered(question, last):
                break
        if connection.closed is None:
            self._on_merged(peer_id)
        return theirs

    async def _put(self, connection: Connection, peer_id: PeerId, question: Compare) -> Part:
        """One question; what its parts bring is believed together, and the last one returned."""
        fresh: dict[bytes, Verified[Revocation]] = {}
        room, told = self.exchange.room(), 0
        last: Part | None = None
        async with connection.open(PROTOCOL, encode(question), wait_s=TIMEOUT_S) as stream:
            await stream.finish()
            while data := await stream.receive(by_s=trio.current_time() + TIMEOUT_S):
                if last is not None and not (last.more and last.statements):
                    raise ProtocolError("an answer about revocations that goes on behind its end")
                last = decode_part(data)
                for each in self._checked(last.statements, last.issuers):
                    if each.data in fresh or room.admits(each):
                        fresh[each.data] = each
                    else:
                        self.exchange.drop(each)
                told += len(last.statements)
                if told > STATEMENTS_MAX:
                    raise ProtocolError("more revocations than a set holds")
        if last is None or last.more:
            raise ProtocolError("an answer about revocations that is cut off")
        self._take([each for each in fresh.values() if self._is_new(each)], peer_id)
        return last

    def _is_new(self, statement: Verified[Revocation]) -> bool:
        return statement.data not in self.known.statements

    async def _tell(self, connection: Connection, peer_id: PeerId, since: int) -> int:
        message, until = self.exchange.news(since, peer_id)
        if message is not None:
            data = await connection.call(PROTOCOL, encode(message), timeout_s=TIMEOUT_S)
            decode_taken(data)
        return until

    # -- what others ask and tell

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        """Answers one question of a peer."""
        peer_id = connection.remote.peer_id
        if peer_id is None:
            raise ProtocolError("a client exchanges no revocations")
        match decode_question(stream.body):
            case Compare() as compare:
                await self._answer(stream, peer_id, compare)
            case Tell() as told:
                if connection.closed is not None:
                    raise PeerGone(connection.closed)  # dropped while this waited
                self._hear(told, peer_id)
                await stream.send(encode(Taken(digest=self.known.digest)))
        await stream.finish()

    async def _answer(self, stream: Stream, peer_id: PeerId, compare: Compare) -> None:
        if not self._allowance.is_left(peer_id, self._ports.clock.now_s()):
            raise Overloaded("a peer asks for revocations without end")
        for part in self.exchange.answer(compare):
            data = encode(part)
            self._allowance.spend(peer_id, len(data), self._ports.clock.now_s())
            await stream.send(data)

    def _hear(self, told: Tell, peer_id: PeerId) -> None:
        fresh = self._checked(told.statements, told.issuers)
        try:
            self._take(fresh, peer_id)
        except LimitExceeded as error:
            log.warning("what %s says to be revoked is not enforced: %s", peer_id, error)
            raise Overloaded(str(error)) from None

    def _checked(
        self, statements: Sequence[bytes], issuers: Sequence[bytes]
    ) -> list[Verified[Revocation]]:
        try:
            return self.exchange.check(statements, issuers)
        except ProtocolError:
            self.refused += 1
            raise
