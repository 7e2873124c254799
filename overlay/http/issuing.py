"""``/rhizome/http-certificate/1``: an issuer's host certifies the HTTP faces of other hosts.

Who asks is known from the connection; whether it may have those names, from the issuer's state.
Nothing is stored: a certificate that was lost is asked for again, with another key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from overlay.issuer import IssuerDesk
from overlay.ports import Clock
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from security.errors import SecurityError
from security.http_request import HttpRefusal, refuse_http, refuse_http_as
from security.peer_id import PeerId

log = logging.getLogger(__name__)

PROTOCOL = "/rhizome/http-certificate/1"
"""A call; its body is the request of ``security/http_request.py``."""

EACH_S, AHEAD_S = 15.0, 120.0
"""A host gets one each so many seconds, and may be ahead by so many: nobody signs without end."""

REFUSED_S = 5.0
"""What is refused counts as so much: an honest host that waits for a grant asks less often."""

TOLD_EACH_S = 600.0
"""The log has one refusal of a host in so many seconds."""


class HttpIssuing:
    """The serving side; ``desk`` gives None on hosts that issue nothing."""

    def __init__(self, desk: Callable[[], IssuerDesk | None], clock: Clock) -> None:
        self._desk = desk
        self._clock = clock
        self._until_s: dict[PeerId, float] = {}
        self._told_until_s: dict[PeerId, float] = {}

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        """Answers one host."""
        peer_id, desk = connection.remote.peer_id, self._desk()
        if desk is None or peer_id is None or connection.closed is not None:
            answer = refuse_http_as(HttpRefusal.NOT_ISSUER)
        else:
            answer = self._answer(desk, peer_id, stream.body)
        await stream.send(answer)
        await stream.finish()

    def _answer(self, desk: IssuerDesk, peer_id: PeerId, request: bytes) -> bytes:
        now_s = self._clock.now_s()
        self._until_s = _after(self._until_s, now_s)
        until_s = self._until_s.get(peer_id, now_s)
        if until_s + EACH_S - now_s > AHEAD_S:
            return refuse_http_as(HttpRefusal.TOO_OFTEN)
        self._until_s[peer_id] = until_s + REFUSED_S
        try:
            answer = desk.certify_http(peer_id, request)
        except SecurityError as error:
            self._tell(peer_id, error, now_s)
            return refuse_http(error)
        self._until_s[peer_id] = until_s + EACH_S
        log.info("made an HTTP certificate for %s", peer_id)
        return answer

    def _tell(self, peer_id: PeerId, error: SecurityError, now_s: float) -> None:
        self._told_until_s = _after(self._told_until_s, now_s)
        if peer_id not in self._told_until_s:
            self._told_until_s[peer_id] = now_s + TOLD_EACH_S
            log.warning("no HTTP certificate for %s: %s", peer_id, error)


def _after(ends_s: Mapping[PeerId, float], now_s: float) -> dict[PeerId, float]:
    """Those that have not ended."""
    return {peer_id: end_s for peer_id, end_s in ends_s.items() if end_s > now_s}
