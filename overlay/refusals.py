"""Peers that refuse this host as revoked, by their own word.

Who is connected when it is revoked is shown the issuer's statement. Who comes later is refused
before anything can be shown, with a word that nobody has signed: any peer can say it.
"""

from __future__ import annotations

from overlay.errors import NotAdmitted
from security.errors import Revoked
from security.peer_id import PeerId

NAMED_MAX = 1024
SHOWN_MAX = 3


class Refusals:
    """Those that have said so since they last took this host in."""

    def __init__(self) -> None:
        self._by: dict[PeerId, None] = {}

    def refused(self, peer_id: PeerId, error: NotAdmitted) -> None:
        """A peer has refused this host for some reason; its key is proved."""
        if error.reason == Revoked.__name__ and len(self._by) < NAMED_MAX:
            self._by[peer_id] = None

    def taken_in(self, peer_id: PeerId) -> None:
        """A peer has admitted this host."""
        self._by.pop(peer_id, None)

    def posture(self) -> list[tuple[str, str]]:
        """What the owner is to know of it: one line, or none."""
        if not self._by:
            return []
        names = [f"..{peer_id[-8:]}" for peer_id in sorted(self._by)[:SHOWN_MAX]]
        more = f" and {len(self._by) - SHOWN_MAX} more" if len(self._by) > SHOWN_MAX else ""
        words = (
            f"{', '.join(names)}{more} take this host for revoked: so they say, and nothing that "
            "an issuer has signed says so here; ask the issuer's owner (rhizome revoke --list)"
        )
        return [("refused", words)]
