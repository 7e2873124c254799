"""Keeps this host's certificate renewed: asks its issuer in time, stores the answer, shows it.

Ways, in this order: this host's own desk, where it is the issuer; peers that say in HELLO that they
have a desk (``/rhizome/renew/1``); the issuer's enrolment listener, where a host is heard whose
certificate has ended. Whoever passes an answer on, it is the issuer's signature that counts.
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
from overlay.renewal import RenewalPlan
from overlay.transport.connection import Connection
from overlay.transport.hello import FEATURE_ISSUES
from overlay.transport.stream import Stream
from security.certificate import parse_leaf
from security.errors import SecurityError
from security.renewal import (
    CHALLENGE_REQUEST,
    Renewal,
    RenewRefusal,
    make_renew_request,
    open_challenge,
    open_renewal,
    refuse_renewal_as,
)
from security.trust import Trust

log = logging.getLogger(__name__)

PROTOCOL = "/rhizome/renew/1"
"""A call with an empty body: who asks, and for which key, is known from the connection."""

CALL_S = 5.0

Keep = Callable[[Identity, tuple[str, ...]], None]
"""Stores a renewed identity, and addresses of the issuer where they are told, durably."""


class Renewer:
    """One host's. ``adopt`` is told of each renewed identity, after ``keep`` has stored it."""

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
        trust: Callable[[], Trust],
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
        self._keep = keep
        self._adopt = adopt
        self._wake = trio.Event()
        self.plan = RenewalPlan(parse_leaf(identity.leaf), entropy.rng)

    @property
    def ended(self) -> bool:
        """Whether this host's own certificate is past its end."""
        return self.plan.has_ended(self._clock.unix_s())

    def posture(self) -> list[tuple[str, str]]:
        """Lines for this host's owner."""
        return self.plan.posture(self._clock.unix_s())

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
        """Where the issuer's enrolment listener can be asked, as far as this host knows."""
        return self._addresses

    def on_trust(self) -> None:
        """Other roots or issuers are believed: this host shows its issuer's newest certificate.

        The leaf is as good under that, since the issuer's key is the same. Where no root in force
        has signed the issuer's certificate any more, another one is asked for at once.
        """
        trust = self._trust()
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
        task_status.started()
        while True:
            with trio.move_on_after(self.plan.wait_s(self._clock.now_s(), self._clock.unix_s())):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._renew_if_due()

    async def _renew_if_due(self) -> None:
        if self.plan.is_due(self._clock.now_s(), self._clock.unix_s()):
            await self.renew()

    async def renew(self) -> None:
        """Tries every way once."""
        causes: list[str] = []
        for way in self._ways():
            try:
                self._take(open_renewal(await way(), self._trust(), self.plan.leaf))
            except (SecurityError, OverlayError) as error:
                causes.append(str(error))
            else:
                return
        words = "; ".join(dict.fromkeys(causes)) or "nobody is known who could: start the issuer's"
        now_s, now_unix_s = self._clock.now_s(), self._clock.unix_s()
        left_s = self.left_s()
        when = f"ends in {left_s:.0f} s" if left_s >= 0 else f"ended {-left_s:.0f} s ago"
        if self.plan.failed(words, now_s, now_unix_s):
            log.warning(
                "this host's certificate %s and could not be renewed, which is tried again: %s",
                when,
                words,
            )

    def _take(self, renewal: Renewal) -> None:
        identity = self._identity.renewed(renewal.leaf.der, renewal.issuer, self._trust())
        self._keep(identity, renewal.addresses)
        if renewal.addresses:
            self._addresses = tuple(_readable(renewal.addresses)) or self._addresses
        self.plan.renewed(renewal.leaf, self._clock.now_s())
        self._take_on(identity)
        log.info("this host's certificate is renewed for %.0f s", self.left_s())

    def _take_on(self, identity: Identity) -> None:
        self._identity = identity
        if self._desk is not None:
            self._desk.adopt(identity)
        self._adopt(identity)

    def _ways(self) -> list[Callable[[], Awaitable[bytes]]]:
        ways: list[Callable[[], Awaitable[bytes]]] = []
        if self._desk is not None:
            ways.append(partial(self._desk.renew, self._identity.peer_id))
        for peer_id in self._peers.up():
            connection = self._peers.connection(peer_id)
            if connection is not None and connection.remote.hello.features & FEATURE_ISSUES:
                ways.append(partial(connection.call, PROTOCOL, b"", timeout_s=CALL_S))
        if self._enrolment is not None:
            ways += [partial(self._enrol, self._enrolment, one) for one in self._addresses]
        return ways

    async def _enrol(self, enrolment: Enrolment, address: Address) -> bytes:
        roots = self._trust().roots.in_force
        challenge = open_challenge(await enrolment.ask(address, CHALLENGE_REQUEST, roots))
        request = make_renew_request(self._identity.keys, self.plan.leaf, challenge)
        return await enrolment.ask(address, request, roots)


class RenewHandler:
    """The serving side of ``/rhizome/renew/1``."""

    def __init__(self, desk: IssuerDesk | None) -> None:
        self._desk = desk

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        peer_id = connection.remote.peer_id
        if self._desk is None or peer_id is None or connection.closed is not None:
            answer = refuse_renewal_as(RenewRefusal.NOT_ISSUER)
        else:
            answer = await self._desk.renew(peer_id)
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
