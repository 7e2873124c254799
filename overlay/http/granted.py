"""A certificate of the overlay on a host that is no issuer's: asked for, kept, renewed in time.

The names are those that an issuer has granted to this host. Key and certificate are kept in one
file, so that a restart needs nobody; each certificate has a fresh key. Where none is kept an issuer
is waited for, with the HTTP API closed, also after a no: any peer can say that it is an issuer and
say no, and the one that may say yes can be starting itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ssl import SSLContext

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlay.address import Address
from overlay.errors import HomeError, OverlayError, StorageError
from overlay.home import Files, HomeFile
from overlay.http.certificate import LOOK_S, context_of
from overlay.http.issuing import PROTOCOL
from overlay.http.names import is_address
from overlay.identity import Identity
from overlay.peers import Peers
from overlay.ports import Clock, Entropy
from overlay.renewal import RenewalPlan
from overlay.units import show_time
from security.errors import SecurityError
from security.http_certificate import HttpCertificate, read_http_certificate
from security.http_request import make_http_request, open_http_answer

log = logging.getLogger(__name__)

CALL_S = 5.0

START_S = 10.0
"""An issuer that runs is connected by then, and has answered."""

POLL_S = 0.5
"""From the first question to the second; later pauses double, up to :data:`LOOK_S`."""

CAUSES_MAX = 3
"""So many peers that say no are told of."""


class GrantedCertificate:
    """What TLS shows. ``context`` is there once ``open`` has returned.

    Args:
        names: As ``http_name`` spells them; the certificate is for all of them and no other.
        identity: Of this host now.
        peers: Among whom issuers are.
        files: Where it is kept.
        clock: For its dates.
        entropy: For its keys.
    """

    context: SSLContext

    def __init__(
        self,
        names: Sequence[str],
        *,
        identity: Callable[[], Identity],
        peers: Peers,
        files: Files,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.all_names = tuple(sorted(set(names)))
        self.names = frozenset(each for each in self.all_names if not is_address(each))
        self._identity = identity
        self._peers = peers
        self._files = files
        self._clock = clock
        self._entropy = entropy
        self._plan: RenewalPlan[HttpCertificate] | None = None
        self._trust = identity().trust
        self._lost = False
        self._trouble = ""

    async def open(self) -> None:
        """Takes the one that is kept, or waits for an issuer to make one."""
        self._take_kept()
        pause_s = POLL_S
        while self._plan is None:
            await self._ask()
            if self._plan is None:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LOOK_S)

    def addresses(self, bound: Sequence[Address]) -> tuple[Address, ...]:
        """The addresses among the names, with the ports of the HTTP API.

        Where all names are wildcards: its own, as a URL must have something.
        """
        ports = sorted({address.port for address in bound})
        own = [Address(each, port) for each in self.all_names if is_address(each) for port in ports]
        by_name = any(not each.startswith("*") for each in self.names)
        return tuple(own) if own or by_name else tuple(bound)

    async def keep(self) -> None:
        """Renews it in time, until cancelled."""
        assert self._plan is not None, "it is open"
        while True:
            wait_s = self._plan.wait_s(self._clock.now_s(), self._clock.unix_s())
            await trio.sleep(min(LOOK_S, wait_s))
            if self._identity().trust is not self._trust:
                self._follow(self._plan)
            if self._lost or self._plan.is_due(self._clock.now_s(), self._clock.unix_s()):
                await self._ask()

    def posture(self) -> list[tuple[str, str]]:
        """Lines for this host's owner: none while all is well."""
        if self._plan is None:
            return [("http", f"closed until there is a certificate: {self._trouble}")]
        ends, now_unix_s = show_time(self._plan.leaf.not_after_unix_s), self._clock.unix_s()
        if self._plan.has_ended(now_unix_s):
            return [("http", f"its certificate ended {ends}: clients refuse it; {self._trouble}")]
        if self._plan.alarmed:
            return [("http", f"its certificate ends {ends}, not renewed: {self._trouble}")]
        return []

    def _take_kept(self) -> None:
        try:
            kept = self._files.read(HomeFile.HTTP)
            if kept is None:
                return
            trust, now_unix_s = self._identity().trust, self._clock.unix_s()
            made = read_http_certificate(kept, trust, now_unix_s)
        except (SecurityError, HomeError) as error:
            log.info("the HTTP certificate that is kept is of no use: %s", error)
            return
        if made.names == self.all_names:
            self._show(made)

    def _follow(self, plan: RenewalPlan[HttpCertificate]) -> None:
        """This host believes other roots or issuers: the chain goes on with the newest of these."""
        shown = plan.leaf
        self._trust = self._identity().trust
        try:
            made = read_http_certificate(
                shown.pem.encode("ascii"), self._trust, self._clock.unix_s()
            )
        except SecurityError as error:
            self._failed(f"the one that is shown is believed no more: {error}")
            self._lost = True
            return
        if made.pem != shown.pem:
            self._keep(made)
            self.context, plan.leaf = context_of(made), made
        if self._lost:
            self._plan = RenewalPlan(made, self._entropy.rng)
            self._trouble, self._lost = "", False

    async def _ask(self) -> None:
        """Asks every issuer that is up, until one has made a certificate."""
        causes: list[str] = []
        for connection in self._peers.issuers():
            identity = self._identity()
            key = Ed25519PrivateKey.from_private_bytes(self._entropy.secret(32))
            overlay_id, me = identity.trust.overlay_id, identity.peer_id
            request = make_http_request(key, overlay_id, me, self.all_names)
            try:
                answer = await connection.call(PROTOCOL, request, timeout_s=CALL_S)
                made = open_http_answer(
                    answer, key, self.all_names, me, identity.trust, self._clock.unix_s()
                )
            except (SecurityError, OverlayError) as error:
                causes.append(f"{connection.remote.peer_id}: {error}")
            else:
                self._keep(made)
                self._show(made)
                return
        self._failed("; ".join(causes[:CAUSES_MAX]) or "no issuer's host is connected")

    def _keep(self, made: HttpCertificate) -> None:
        try:
            self._files.write(HomeFile.HTTP, made.pem.encode("ascii"))
        except (StorageError, HomeError) as error:
            log.warning("the HTTP certificate is used, and not kept for the next start: %s", error)

    def _show(self, made: HttpCertificate) -> None:
        self.context = context_of(made)
        self._trouble, self._lost = "", False
        if self._plan is None:
            self._plan = RenewalPlan(made, self._entropy.rng)
        else:
            self._plan.renewed(made, self._clock.now_s())
        log.info("the HTTP API's certificate is good until %s", show_time(made.not_after_unix_s))

    def _failed(self, words: str) -> None:
        if self._plan is not None:
            self._plan.failed(words, self._clock.now_s(), self._clock.unix_s())
        if words != self._trouble:
            log.warning("no certificate for the HTTP API, which is tried again: %s", words)
        self._trouble = words
