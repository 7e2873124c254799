"""Whom this peer admits to a connection: the one place that decides about certificates.

A leaf is judged after the handshake, again when the HELLO has come, on a timer and whenever more is
revoked. The issuer that is shown beside it may be new here; it is believed where our root has
signed it, and remembered once the peer is admitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from overlay.errors import Unavailable
from overlay.ports import Clock, Entropy, SecureChannel
from overlay.transport.connection import Connection
from overlay.transport.hello import Hello
from overlay.transport.limits import Limits
from overlay.transport.link import establish
from overlay.trust.keeper import TrustKeeper
from security.certificate import Issuer, Leaf
from security.judge import judge_issuer, judge_leaf
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.trust import Trust

log = logging.getLogger(__name__)

CLOCKS_APART_S = 60.0
LEAVES_MAX = 1024
"""That were verified and are remembered, 2 KB each: as many connections stand at most."""

ENDED = "this host's certificate has ended: peers wait for its renewal"


class Admission:
    """Decides for one peer. ``ended`` says whether its own certificate is past its end."""

    def __init__(
        self,
        *,
        trust: TrustKeeper,
        revocations: Callable[[], RevocationSet],
        ended: Callable[[], bool],
        hello: Callable[[], Hello],
        clock: Clock,
        entropy: Entropy,
        limits: Limits,
    ) -> None:
        self._trust = trust
        self._revocations = revocations
        self._ended = ended
        self._hello = hello
        self._clock = clock
        self._entropy = entropy
        self._limits = limits
        self._issued_in: Trust | None = None
        self._known: dict[tuple[bytes, bytes | None], tuple[Leaf, Issuer]] = {}

    def judge(
        self, der: bytes, expected: PeerId | None = None, issuer_der: bytes | None = None
    ) -> PeerId:
        """Decides about a peer's leaf; raises a SecurityError that says why not.

        Args:
            der: The leaf.
            expected: The peer that was dialled, if any.
            issuer_der: The issuer's certificate that was shown beside it, if any.
        """
        trust, revocations = self._trust.now, self._revocations()
        now_unix_s = self._clock.unix_s()
        leaf, issuer = self._issued(trust, der, issuer_der)
        peer_id = judge_leaf(
            leaf,
            now_unix_s=now_unix_s,
            revocations=revocations,
            overlay_id=trust.overlay_id,
            expected=expected,
            key=None,
        )
        judge_issuer(issuer, now_unix_s=now_unix_s, revocations=revocations)
        return peer_id

    def _issued(self, trust: Trust, der: bytes, issuer_der: bytes | None) -> tuple[Leaf, Issuer]:
        """As ``Trust.leaf``, remembered until the trust is another.

        Open connections are judged again and again by the same leaves, and reading and verifying
        one takes a hundred times as long as the rest.
        """
        if trust is not self._issued_in or len(self._known) >= LEAVES_MAX:
            self._issued_in, self._known = trust, {}
        found = self._known.get((der, issuer_der))
        if found is None:
            found = self._known[der, issuer_der] = trust.leaf(der, issuer_der)
        return found

    async def establish(self, channel: SecureChannel, expected: PeerId | None) -> Connection:
        """Makes a connection of a channel, as ``transport.link.establish``.

        Raises:
            Unavailable: When this host's own certificate has ended.
        """
        if channel.leaf is not None and self._ended():
            await channel.channel.aclose()
            raise Unavailable(ENDED)
        connection = await establish(
            channel,
            ours=self._hello(),
            judge=lambda der, expected: self.judge(der, expected, channel.issuer),
            expected=expected,
            clock=self._clock,
            entropy=self._entropy,
            limits=self._limits,
        )
        ahead_s = connection.remote.clock_ahead_s
        if abs(ahead_s) > CLOCKS_APART_S:
            log.warning(
                "the clock of %s is %.0f s %s ours: set one of them",
                connection.remote.peer_id or connection.remote.address,
                abs(ahead_s),
                "ahead of" if ahead_s > 0 else "behind",
            )
        return connection

    def admit(self, connection: Connection) -> None:
        """Judges a peer again when its HELLO has come, which it may have held back.

        Raises:
            SecurityError, Unavailable: It is not admitted now.
        """
        leaf, issuer = connection.remote.leaf, connection.remote.issuer
        if leaf is not None:
            if self._ended():
                raise Unavailable(ENDED)
            self.judge(leaf, None, issuer)
            if issuer is not None:
                self._trust.learn(issuers=[issuer])
