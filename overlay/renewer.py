"""Keeps this host's certificate renewed: asks its issuer in time, stores the answer, shows it.

Ways, in this order: this host's own desk, where it is the issuer; peers that say in HELLO that they
have a desk (``/rhizome/renew/1``); the issuer's enrolment listener, where a host is heard whose
certificate has ended. Whoever passes an answer on, it is the issuer's signature that counts.

Where the issuer is revoked or has ended, the enrolment listeners of the others are asked, which
their cards name: one that has this host in its table makes the next certificate. A host that was
away when its issuer was revoked does not know. So when peers turn it away as revoked it asks there,
too, and believes the answer for the signed statement that comes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from overlay.address import Address
from overlay.errors import ConfigError, OverlayError
from overlay.identity import Identity
from overlay.issuer import IssuerDesk
from overlay.peers import Peers
from overlay.ports import Clock, Enrolment, Entropy
from overlay.renewal import Elsewhere, RenewalPlan
from overlay.transport.connection import Connection
from overlay.transport.hello import FEATURE_ISSUES
from overlay.transport.stream import Stream
from overlay.trust.keeper import TrustKeeper
from security.certificate import IssuerId, parse_leaf
from security.errors import Revoked, SecurityError
from security.judge import is_over
from security.renewal import (
    CHALLENGE_REQUEST,
    Renewal,
    RenewRefusal,
    make_renew_request,
    open_challenge,
    open_renewal,
    reason_in,
    refuse_renewal_as,
)
from security.revocation import RevocationSet

log = logging.getLogger(__name__)

PROTOCOL = "/rhizome/renew/1"
"""A call with an empty body: who asks, and for which key, is known from the connection."""

CALL_S = 5.0

Way = Callable[[], Awaitable[bytes]]
"""Asks somebody for a certificate; the answer is the issuer's."""

Keep = Callable[[Identity, tuple[str, ...]], None]
"""Stores a renewed identity, and addresses of the issuer where they are told, durably."""


class Renewer:
    """One host's. ``adopt`` is told of each renewed identity, after ``keep`` has stored it.

    ``learn_revoked`` takes statements in that an answer brings; it raises when they are none.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        addresses: Sequence[Address],
        clock: Clock,
        entropy: Entropy,
        enrolment: Enrolment | None,
        desk: IssuerDesk | None,
        peers: Peers,
        trust: TrustKeeper,
        revocations: Callable[[], RevocationSet],
        learn_revoked: Callable[[Sequence[bytes]], None],
        keep: Keep,
        adopt: Callable[[Identity], None],
    ) -> None:
        self._identity = identity
        self._addresses = tuple(addresses)
        self._clock = clock
        self._enrolment = enrolment
        self._desk = desk
        self._peers = peers
        self._trust = trust
        self._revocations = revocations
        self._learn_revoked = learn_revoked
        self._keep = keep
        self._adopt = adopt
        self._wake = trio.Event()
        self._rng = entropy.rng
        self._elsewhere = Elsewhere(self._rng)
        self._said: str | None = None
        self.plan = RenewalPlan(parse_leaf(identity.leaf), entropy.rng)

    @property
    def ended(self) -> bool:
        """Whether this host's own certificate is past its end."""
        return self.plan.has_ended(self._clock.unix_s())

    def posture(self) -> list[tuple[str, str]]:
        """Lines for this host's owner."""
        lines = self.plan.posture(self._clock.unix_s())
        if self._desk is not None and self._revocations().revokes(self._desk.issuer_id):
            lines.append(("issuer", "this host's own is revoked: what it signs is void"))
        return lines

    def left_s(self) -> float:
        """Seconds that the certificate is still good for."""
        return self.plan.left_s(self._clock.unix_s())

    def counts(self) -> dict[str, int]:
        """Renewals by result."""
        return {"renewed": self.plan.renewals, "failed": self.plan.failures}

    def on_up(self, connection: Connection) -> None:
        """A peer is up, perhaps the issuer's host."""
        if connection.remote.hello.features & FEATURE_ISSUES and self.plan.alarmed:
            self.plan.hurry()
            self._wake.set()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where issuers' enrolment listeners can be asked, its own issuer's first."""
        issuers = sorted(self._trust.now.issuers)
        others = [one for id_ in issuers for one in _readable(self._trust.enrolment_of(id_))]
        return tuple(dict.fromkeys((*self._addresses, *others)))

    def on_trust(self) -> None:
        """Other roots or issuers are believed: this host shows its issuer's newest certificate.

        The leaf is as good under that, since the issuer's key is the same. Where no root in force
        has signed the issuer's certificate any more, another one is asked for at once.
        """
        trust = self._trust.now
        known = trust.issuers.get(self.plan.leaf.issuer_id)
        self._identity = replace(self._identity, trust=trust)
        if known is None:
            self.plan.hurry_for_root(self._clock.unix_s())
            self._wake.set()
        elif known.der != self._identity.issuer:
            self._show_issuer(known.der)

    def _show_issuer(self, der: bytes) -> None:
        identity = replace(self._identity, issuer=der)
        try:
            self._keep(identity, ())
        except OverlayError as error:
            log.warning("the issuer's new certificate is not stored: %s", error)
            return
        self._take_on(identity)
        log.info("this host shows its issuer's new certificate")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Renews until cancelled; on the issuer's host once before it reports that it runs."""
        if self._desk is not None:
            await self._renew_if_due()
        if self._is_over():
            self.look_elsewhere()  # it was told before it started: nobody tells it again
        task_status.started()
        while True:
            now_s = self._clock.now_s()
            wait_s = self.plan.wait_s(now_s, self._clock.unix_s())
            with trio.move_on_after(min(wait_s, self._elsewhere.wait_s(now_s))):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._renew_if_due()

    def on_turned_away(self, reason: str) -> None:
        """A peer does not admit this one: perhaps its issuer is revoked, and nobody has told."""
        if reason == Revoked.__name__:
            self.look_elsewhere()

    def look_elsewhere(self) -> None:
        """This host's issuer may be revoked: the others are asked, after a pause at most."""
        self._elsewhere.want(self._clock.now_s(), lasting=self._is_over())
        self._wake.set()

    async def _renew_if_due(self) -> None:
        now_s = self._clock.now_s()
        if self._elsewhere.is_due(now_s):
            self._elsewhere.begin(now_s, lasting=self._is_over())
            await self._renew_elsewhere()
        elif self.plan.is_due(now_s, self._clock.unix_s()):
            await self.renew()

    async def renew(self) -> None:
        """Tries every way once."""
        causes = await self._try([*self._ways(), *(self._other_ways() if self._is_over() else [])])
        if causes is None:
            return
        words = "; ".join(causes) or "nobody is known who could: start the issuer's"
        now_s, now_unix_s = self._clock.now_s(), self._clock.unix_s()
        left_s = self.left_s()
        when = f"ends in {left_s:.0f} s" if left_s >= 0 else f"ended {-left_s:.0f} s ago"
        if self.plan.failed(words, now_s, now_unix_s):
            log.warning(
                "this host's certificate %s and could not be renewed, which is tried again: %s",
                when,
                words,
            )

    async def _renew_elsewhere(self) -> None:
        causes = await self._try(self._other_ways())
        if not causes:
            return
        words = "; ".join(causes)
        log.log(
            logging.DEBUG if words == self._said else logging.WARNING,
            "other hosts say that this one or its issuer is revoked, and no other issuer makes it "
            "a certificate: %s",
            words,
        )
        self._said = words

    async def _try(self, ways: Sequence[Way]) -> list[str] | None:
        """Tries ways in turn; None once one has worked, else why not."""
        causes: dict[str, None] = {}
        for way in ways:
            try:
                self._take(self._opened(await way()))
            except (SecurityError, OverlayError) as error:
                causes[str(error)] = None
            else:
                return None
        return list(causes)

    def _opened(self, answer: bytes) -> Renewal:
        statement = reason_in(answer)
        if statement:
            self._learn_revoked([statement])
        renewal = open_renewal(answer, self._trust.now, self.plan.leaf, is_over=self._is_over())
        if self._revocations().revokes(renewal.leaf.issuer_id):
            raise Revoked("the issuer that answers is revoked itself")
        return renewal

    def _is_over(self) -> bool:
        """Whether this host's issuer makes no more certificates that others believe."""
        issuer = self._trust.now.issuers.get(self.plan.leaf.issuer_id)
        return issuer is not None and is_over(
            issuer, now_unix_s=self._clock.unix_s(), revocations=self._revocations()
        )

    def _take(self, renewal: Renewal) -> None:
        identity = self._identity.renewed(renewal.leaf.der, renewal.issuer, self._trust.now)
        self._keep(identity, renewal.addresses)
        if renewal.addresses:
            self._addresses = tuple(_readable(renewal.addresses)) or self._addresses
        self.plan.renewed(renewal.leaf, self._clock.now_s())
        self._elsewhere, self._said = Elsewhere(self._rng), None
        self._take_on(identity)
        log.info("this host's certificate is renewed for %.0f s", self.left_s())

    def _take_on(self, identity: Identity) -> None:
        self._identity = identity
        if self._desk is not None:
            self._desk.adopt(identity)
        self._adopt(identity)

    def _ways(self) -> list[Way]:
        ways: list[Way] = []
        if self._desk is not None:
            ways.append(partial(self._desk.renew, self._identity.peer_id))
        asked = filter(self._is_ours, self._peers.issuers())
        ways += [partial(one.call, PROTOCOL, b"", timeout_s=CALL_S) for one in asked]
        if self._enrolment is not None:
            ours = self.plan.leaf.issuer_id
            ways += [partial(self._enrol, self._enrolment, one, ours) for one in self._addresses]
        return ways

    def _is_ours(self, connection: Connection) -> bool:
        """Whether that peer is the host of this one's issuer, which makes its own certificate."""
        remote = connection.remote
        if remote.leaf is None:
            return False
        return parse_leaf(remote.leaf).issuer_id == self.plan.leaf.issuer_id

    def _other_ways(self) -> list[Way]:
        """The enrolment listeners of the other issuers that are believed."""
        ways: list[Way] = []
        now_unix_s, revocations = self._clock.unix_s(), self._revocations()
        for issuer_id, issuer in sorted(self._trust.now.issuers.items()):
            over = is_over(issuer, now_unix_s=now_unix_s, revocations=revocations)
            if over or issuer_id == self.plan.leaf.issuer_id or self._enrolment is None:
                continue
            addresses = _readable(self._trust.enrolment_of(issuer_id))
            ways += [partial(self._enrol, self._enrolment, one, issuer_id) for one in addresses]
        return ways

    async def _enrol(self, enrolment: Enrolment, address: Address, at: IssuerId) -> bytes:
        roots = self._trust.now.roots.in_force
        challenge = open_challenge(await enrolment.ask(address, CHALLENGE_REQUEST, roots))
        request = make_renew_request(self._identity.keys, self.plan.leaf, challenge, at=at)
        return await enrolment.ask(address, request, roots)


class RenewHandler:
    """The serving side of ``/rhizome/renew/1``."""

    def __init__(self, desk: IssuerDesk | None) -> None:
        self._desk = desk

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        leaf = connection.remote.leaf
        asker = None if leaf is None or connection.closed is not None else parse_leaf(leaf)
        if self._desk is None or asker is None or asker.issuer_id != self._desk.issuer_id:
            answer = refuse_renewal_as(RenewRefusal.NOT_ISSUER)
        else:
            answer = await self._desk.renew(asker.peer_id)
        await stream.send(answer)
        await stream.finish()


def _readable(texts: Sequence[str]) -> list[Address]:
    found = []
    for text in texts:
        try:
            found.append(Address.parse(text))
        except ConfigError:
            log.debug("the issuer tells an address that is none")
    return found
