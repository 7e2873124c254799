"""Connections to the other peers: who is dialled, which of two connections stays, who is up.

A peer is up from its HELLO to the end of its connection, and the transport's own pings end a
connection that has fallen silent. Hints (mDNS, bootstrap, member records) only say where to dial.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from overlay import clones
from overlay.address import Address
from overlay.errors import NotAdmitted, OverlayError
from overlay.ports import Clock, Entropy, PeerHint, SecureChannel, Transport
from overlay.refusals import Refusals
from overlay.transport.connection import Connection, Handler
from overlay.transport.frame import GoawayCode
from overlay.transport.hello import FEATURE_ISSUES
from security.errors import SecurityError
from security.peer_id import PeerId

log = logging.getLogger(__name__)

KNOWN_MAX = 1024
"""Peers whose addresses are kept. Where they are more, those that were never reached go first."""

ADDRESSES_MAX = 16
"""Addresses kept of one peer, newest first."""

DIAL_TIMEOUT_S = 3.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
YIELD_S = 0.3
"""The peer that the duplicate rule would overrule waits this long before its first dial."""

FORGET_S = 600.0
"""A peer not reached for so long is no longer dialled until a new hint comes."""

DUPLICATE = "duplicate connection"
CLONE_TIMEOUT_S = 2.0
"""For an older process of a peer to take in the record of the newer one."""

Establish = Callable[[SecureChannel, PeerId | None], Awaitable[Connection]]


@dataclass(slots=True)
class Known:
    """A peer that we may dial.

    ``vouched`` says that it is one of the overlay: it has signed its record, or was reached.
    ``tried`` says that all its addresses were dialled once, ``brief`` that its last connection has
    ended as soon as it was up.
    """

    addresses: list[Address]
    heard_s: float
    vouched: bool = False
    tried: bool = False
    brief: bool = False
    wake: trio.Event = field(default_factory=trio.Event)
    dialling: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass(frozen=True, slots=True)
class Up:
    """A peer that is up, and which side dialled."""

    connection: Connection
    dialled_by_us: bool


class Peers:
    """Keeps one connection to every peer that can be reached.

    ``admit`` raises a SecurityError or OverlayError unless a connection may come up now: much may
    be revoked between the far side's handshake and its HELLO. ``on_turned_away`` is told why a peer
    that was dialled does not admit this one.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        establish: Establish,
        admit: Callable[[Connection], None],
        handlers: Mapping[str, Handler],
        client_handlers: Mapping[str, Handler],
        on_up: Callable[[Connection], None],
        on_down: Callable[[PeerId], None],
        on_self: Callable[[Connection], None],
        newer_of: Callable[[PeerId], bytes | None],
        on_turned_away: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._me = me
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._establish = establish
        self._admit = admit
        self._handlers = handlers
        self._client_handlers = client_handlers
        self._on_up = on_up
        self._on_down = on_down
        self._on_self = on_self
        self._newer_of = newer_of
        self._on_turned_away = on_turned_away
        self._up: dict[PeerId, Up] = {}
        self._known: dict[PeerId, Known] = {}
        self._dialling: set[Address] = set()
        self.refusals = Refusals()
        self._said: dict[Address, type[SecurityError]] = {}
        self._nursery: trio.Nursery | None = None
        self.failed_dials = 0
        self._sent_before = 0

    async def run(
        self,
        addresses: tuple[Address, ...],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listens, accepts and dials until cancelled; reports the bound addresses."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            bound = await nursery.start(self._transport.listen, addresses, self._accept)
            task_status.started(bound)
            await trio.sleep_forever()

    def connection(self, peer_id: PeerId) -> Connection | None:
        """The connection to a peer that is up."""
        up = self._up.get(peer_id)
        return None if up is None else up.connection

    def up(self) -> list[PeerId]:
        """Peers that are up, in a fixed order."""
        return sorted(self._up)

    def issuers(self) -> list[Connection]:
        """Connections to those peers that say that they have an issuer's desk."""
        found = [self._up[peer_id].connection for peer_id in self.up()]
        return [each for each in found if each.remote.hello.features & FEATURE_ISSUES]

    def sent_bytes(self) -> int:
        """Bytes written to peers so far, TLS records included."""
        open_now = sum(sent(up.connection) for up in self._up.values())
        return self._sent_before + open_now

    def hint(self, hint: PeerHint, *, vouched: bool = False) -> None:
        """Somebody says where a peer can be dialled; ``vouched`` that there is such a peer."""
        if self._nursery is None or hint.peer_id == self._me or not hint.addresses:
            return
        if hint.peer_id is None:
            for address in hint.addresses:
                self._dial_unknown(address)
            return
        known = self._known.get(hint.peer_id)
        if known is not None:
            fresh = [a for a in hint.addresses if a not in known.addresses]
            known.addresses[:0] = fresh
            del known.addresses[ADDRESSES_MAX:]
            known.heard_s = self._clock.now_s()
            known.vouched = known.vouched or vouched
            known.wake.set()
        elif len(self._known) < KNOWN_MAX or self._make_room(vouched=vouched):
            known = Known(
                list(hint.addresses[:ADDRESSES_MAX]), self._clock.now_s(), vouched=vouched
            )
            self._known[hint.peer_id] = known
            self._nursery.start_soon(self._keep_dialled, hint.peer_id, known)

    def _make_room(self, *, vouched: bool) -> bool:
        """Forgets one peer for another one: of those that nobody vouches for the oldest one.

        Where nobody vouches for the new one either, only for one whose addresses were all tried,
        so that made-up names do not drive out a peer before its turn; where somebody does, and for
        all others too, the one that is not up and was heard of longest ago.
        """
        goes = [
            (known.vouched, not known.tried, known.heard_s, peer_id)
            for peer_id, known in self._known.items()
            if peer_id not in self._up and (vouched or (known.tried and not known.vouched))
        ]
        if not goes:
            return False
        self._known.pop(min(goes)[-1]).dialling.cancel()
        return True

    def judge_again(
        self,
        judge: Callable[[bytes], object],
        last_words: Callable[[bytes], tuple[str, bytes] | None],
    ) -> None:
        """Ends every connection whose leaf no longer passes ``judge``.

        ``last_words`` are a protocol and a message that who had that leaf is shown.
        """
        for peer_id, up in list(self._up.items()):
            leaf = up.connection.remote.leaf
            try:
                if leaf is not None:
                    judge(leaf)
            except SecurityError as error:
                log.warning("peer %s is no longer admitted: %s", peer_id, type(error).__name__)
                up.connection.drop("not admitted", last_words(leaf) if leaf else None)

    def drop_all(self, reason: str) -> None:
        """Ends every connection; peers that can be reached are dialled again."""
        for up in list(self._up.values()):
            self._end(up.connection, reason)

    def _end(self, connection: Connection, reason: str) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(connection.aclose, 0, reason)

    async def _accept(self, channel: SecureChannel) -> None:
        connection = await self._establish(channel, None)
        if connection.remote.peer_id is None:
            await connection.run(self._client_handlers)
        else:
            await self._keep(connection, dialled_by_us=False)

    async def _keep(self, connection: Connection, *, dialled_by_us: bool) -> None:
        """Runs a connection to its end, unless another one to the same peer is to stay."""
        peer_id = connection.remote.peer_id
        if peer_id is None or peer_id == self._me:
            self._on_self(connection)
            await connection.aclose(0, "this is my own identity")
            return
        try:
            self._admit(connection)
        except (SecurityError, OverlayError) as error:
            log.warning("peer %s is admitted no longer: %s", peer_id, type(error).__name__)
            await connection.aclose(GoawayCode.REFUSED, "not admitted")
            return
        before = self._up.get(peer_id)
        if before is not None and not self._replaces(connection, before, dialled_by_us):
            if connection.remote.hello.boot_salt != before.connection.remote.hello.boot_salt:
                await self._show_newer(connection, peer_id)
            await connection.aclose(0, DUPLICATE)
            return
        mine = Up(connection, dialled_by_us)
        self._up[peer_id] = mine
        known = self._known.get(peer_id)
        if known is not None:
            known.vouched = True
        if before is not None:
            self._on_down(peer_id)
            self._sent_before += sent(before.connection)
            self._end(before.connection, DUPLICATE)
        self.refusals.taken_in(peer_id)
        log.info("peer %s is up at %s", peer_id, connection.remote.address)
        up_s = self._clock.now_s()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(connection.run, self._handlers)
                if self._up.get(peer_id) is mine:
                    self._on_up(connection)
        finally:
            if self._up.get(peer_id) is mine:
                del self._up[peer_id]
                self._sent_before += sent(connection)
                self._on_down(peer_id)
                log.info("peer %s is down: %s", peer_id, connection.closed)
                known = self._known.get(peer_id)
                if known is not None:
                    known.brief = self._clock.now_s() - up_s < BACKOFF_MAX_S
                    known.wake.set()

    async def _show_newer(self, connection: Connection, peer_id: PeerId) -> None:
        """Shows an older process of a peer the record of the newer one, which it may not know."""
        record = self._newer_of(peer_id)
        if record is None:
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run)
            with suppress(OverlayError):
                await connection.call(clones.PROTOCOL, record, timeout_s=CLONE_TIMEOUT_S)
            await connection.aclose(0, DUPLICATE)

    def _replaces(self, new: Connection, before: Up, dialled_by_us: bool) -> bool:  # noqa: FBT001
        """A newer generation wins; then the connection dialled by the smaller PeerId."""
        old_generation = before.connection.remote.hello.generation
        if new.remote.hello.generation != old_generation:
            return new.remote.hello.generation > old_generation
        peer_id = new.remote.peer_id or self._me
        return dialled_by_us == (self._me < peer_id)

    async def _keep_dialled(self, peer_id: PeerId, known: Known) -> None:
        """Dials a known peer whenever it is not up, until nothing was heard for a long time."""
        with known.dialling:
            await self._dial_again(peer_id, known)

    async def _dial_again(self, peer_id: PeerId, known: Known) -> None:
        backoff_s = BACKOFF_FIRST_S
        if self._me > peer_id:
            await trio.sleep(YIELD_S)
        while self._known.get(peer_id) is known:
            known.wake = trio.Event()
            if peer_id in self._up:
                await known.wake.wait()
                if not known.brief:
                    backoff_s = BACKOFF_FIRST_S
                known.heard_s = self._clock.now_s()
                if self._me > peer_id:
                    await trio.sleep(YIELD_S)
                continue
            if self._clock.now_s() - known.heard_s > FORGET_S:
                del self._known[peer_id]
                return
            if known.brief:
                # One that breaks the protocol whenever it is up is not to be dialled without end.
                known.brief = False
                await trio.sleep(self._jittered(backoff_s))
                backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)
                continue
            for address in tuple(known.addresses):
                if peer_id not in self._up:
                    await self._dial(address, peer_id)
            known.tried = True
            if peer_id not in self._up:
                with trio.move_on_after(self._jittered(backoff_s)):
                    await known.wake.wait()
                backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)

    def _jittered(self, pause_s: float) -> float:
        return pause_s * (0.75 + self._entropy.rng.random() / 2)

    def _dial_unknown(self, address: Address) -> None:
        reached = {up.connection.remote.address for up in self._up.values()}
        tried = address in self._dialling or len(self._dialling) >= KNOWN_MAX
        if self._nursery is not None and address not in reached and not tried:
            self._dialling.add(address)
            self._nursery.start_soon(self._dial_address, address)

    async def _dial_address(self, address: Address) -> None:
        try:
            await self._dial(address, None)
        finally:
            self._dialling.discard(address)

    async def _dial(self, address: Address, peer_id: PeerId | None) -> None:
        """One try; a connection that stands is run to its end before this returns."""
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                channel = await self._transport.dial(address, peer_id)
                connection = await self._establish(channel, peer_id)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, OverlayError) as error:
            self.failed_dials += 1
            if isinstance(error, NotAdmitted):
                if peer_id is not None:
                    self.refusals.refused(peer_id, error)
                self._on_turned_away(error.reason)
            log.debug("no connection to %s: %s", address, type(error).__name__)
        except SecurityError as error:
            self.failed_dials += 1
            self._say_refused(address, error)
        else:
            remote = connection.remote.peer_id
            if peer_id is None and remote is not None and remote not in self._known:
                self.hint(PeerHint(peer_id=remote, addresses=(address,)), vouched=True)
            await self._keep(connection, dialled_by_us=True)

    def _say_refused(self, address: Address, error: SecurityError) -> None:
        """Once for a cause: who is refused may be dialled for as long as somebody announces it."""
        said = self._said.get(address) is type(error)
        level = logging.DEBUG if said else logging.WARNING
        log.log(level, "refused the peer at %s: %s", address, error)
        if len(self._said) >= KNOWN_MAX:
            self._said.clear()
        self._said[address] = type(error)


def first_addresses(addresses: Sequence[Address], count: int) -> tuple[Address, ...]:
    """At most so many addresses to be told to others: where they are more, IPv4 before IPv6.

    A host has few IPv4 addresses and may have any number of temporary IPv6 ones. Loopback is last.
    """
    if len(addresses) <= count:
        return tuple(addresses)
    return tuple(sorted(addresses, key=lambda each: (each.is_loopback, ":" in each.host))[:count])


def sent(connection: Connection) -> int:
    """Bytes that one connection has written."""
    return connection.statistics().bytes_sent
