"""Whether the others take this host in, as far as it knows: it or its issuer may be revoked."""

from __future__ import annotations

import logging
from collections.abc import Callable

from overlay.identity import Identity
from security.certificate import IssuerId, parse_leaf

log = logging.getLogger(__name__)


class Standing:
    """Of one host."""

    def __init__(self, identity: Callable[[], Identity], revokes: Callable[[str], bool]) -> None:
        """``identity`` is the host's now; ``revokes`` says what is known to be revoked."""
        self._identity = identity
        self._revokes = revokes

    def issuer(self) -> IssuerId:
        """Who made this host's certificate."""
        return parse_leaf(self._identity().leaf).issuer_id

    @property
    def is_revoked(self) -> bool:
        """Whether this host itself is revoked."""
        return self._revokes(self._identity().peer_id)

    @property
    def is_issuer_revoked(self) -> bool:
        """Whether the issuer of this host's certificate is revoked."""
        return self._revokes(self.issuer())

    @property
    def is_out(self) -> bool:
        """Whether a signed statement keeps this host out."""
        return self.is_revoked or self.is_issuer_revoked

    def look(self) -> bool:
        """More is revoked: tells the owner; True where another issuer may help."""
        if self.is_revoked:
            log.error(
                "this host is revoked, so that no other takes it in any more: let it join again "
                "with a new ticket and a fresh --home"
            )
            return False
        if self.is_issuer_revoked:
            log.error(
                "this host's issuer is revoked: the other issuers are asked for a certificate"
            )
            return True
        return False
