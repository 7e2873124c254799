"""Whether this peer may take part: after a start it may not know of everybody who is revoked.

Rules
1. Any peer that is still admitted after it has told all that it knows to be revoked confirms this
   one, confirmed itself or not. Waiting confirms nobody.
2. A host that knows of no other one that is not revoked is an overlay of one, and confirms itself.
   The issuer's knows of all that it has enrolled and would renew, members of tenants or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

from overlay.tenants import TenantBook
from security.peer_id import PeerId

LOOK_EVERY_S = 60.0

log = logging.getLogger(__name__)


class Confirmation:
    """``event`` is set once this peer is confirmed, and stays so until it ends.

    ``was_alone`` says that it knew of no other host once since its start: none knew more than it.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        expects_others: bool,
        tenants: TenantBook,
        heard_of: Callable[[], Iterable[PeerId]],
        enrolled: Callable[[], Iterable[PeerId]],
        is_revoked: Callable[[str], bool],
        on_confirmed: Callable[[], None],
    ) -> None:
        """Begins unconfirmed.

        Args:
            me: This host.
            expects_others: It has joined another host's overlay, or is told where another one is.
            tenants: Its tenants, whose rosters name other hosts.
            heard_of: Hosts that have told something once.
            enrolled: On the issuer's host: those whose certificates it would renew.
            is_revoked: Whether a host is known to be revoked.
            on_confirmed: Called once, when it is confirmed.
        """
        self._me = me
        self._expects_others = expects_others
        self._tenants = tenants
        self._heard_of = heard_of
        self._enrolled = enrolled
        self._is_revoked = is_revoked
        self._on_confirmed = on_confirmed
        self.event = trio.Event()
        self.was_alone = False

    def others(self) -> list[PeerId]:
        """Hosts of which this one knows and that are not revoked, sorted."""
        known = {peer_id for epoch in self._tenants for peer_id in epoch.members}
        known.update(self._heard_of(), self._enrolled())
        known.discard(self._me)
        return sorted(peer_id for peer_id in known if not self._is_revoked(peer_id))

    async def run(self) -> None:
        """Looks now and then, since rosters change."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Something of what is known has changed: this may be an overlay of one now."""
        if not self.others():
            self.was_alone = True
            if not self._expects_others:
                self._confirm()

    def on_merged(self, peer_id: PeerId) -> None:
        """A peer has told all that it knows to be revoked, and is admitted still."""
        if not self.event.is_set():
            log.info("peer %s has told what is revoked", peer_id)
        self._confirm()

    def _confirm(self) -> None:
        if not self.event.is_set():
            self.event.set()
            self._on_confirmed()
