"""Asks for root bundles where nobody tells them: a host that was off during a whole rotation.

It trusts a root that no other host shows any more, and is trusted by none; or by those alone that
have not heard of the rotation either, or not of its end. Root bundles prove themselves, so whoever
answers at an enrolment listener's address may tell them; nothing else of the answer is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from overlay.address import Address
from overlay.errors import OverlayError
from overlay.peers import Peers
from overlay.ports import Enrolment
from overlay.trust.keeper import TrustKeeper
from security.errors import SecurityError
from security.root_bundle import ROOTS_REQUEST, decode_bundles

log = logging.getLogger(__name__)

SEEK_FIRST_S, SEEK_MAX_S, SEEK_OVERLAP_MAX_S = 5.0, 900.0, 60.0
"""How long a host is alone before it asks; and at most between two times, and in an overlap."""


class RootSeeker:
    """One host's; ``addresses`` are those of enrolment listeners that it knows."""

    def __init__(
        self,
        trust: TrustKeeper,
        peers: Peers,
        enrolment: Enrolment | None,
        addresses: Callable[[], Sequence[Address]],
    ) -> None:
        self._trust = trust
        self._peers = peers
        self._enrolment = enrolment
        self._addresses = addresses

    async def run(self) -> None:
        """Seeks until cancelled, now and then: more often while nobody would tell by himself."""
        pause_s = SEEK_FIRST_S
        while True:
            with trio.move_on_after(SEEK_MAX_S):
                await self._until_untold(pause_s)
            pause_s = SEEK_FIRST_S if await self.seek() else min(self._most_s(), pause_s * 2)

    async def _until_untold(self, pause_s: float) -> None:
        """Waits for so long, and on while an issuer's peer is up, or outside an overlap any."""
        await trio.sleep(pause_s)
        while self._is_told():
            await trio.sleep(SEEK_FIRST_S)

    def _most_s(self) -> float:
        return SEEK_OVERLAP_MAX_S if self._trust.now.roots.overlap else SEEK_MAX_S

    def _is_told(self) -> bool:
        overlap = self._trust.now.roots.overlap
        return bool(self._peers.issuers() if overlap else self._peers.up())

    async def seek(self) -> bool:
        """Asks each address once; True when other roots are in force after it."""
        before, enrolment = self._trust.now.roots, self._enrolment
        if enrolment is None:
            return False
        for address in self._addresses():
            try:
                answer = await enrolment.ask_anybody(address, ROOTS_REQUEST)
                self._trust.learn(roots=decode_bundles(answer))
            except (SecurityError, OverlayError) as error:
                log.debug("no root bundles from %s: %s", address, error)
        return self._trust.now.roots != before
