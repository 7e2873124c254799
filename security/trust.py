"""What a host needs to check everything offline: its overlay's root and the issuers under it.

Immutable: learning of an issuer (from a record or an admission) gives a new value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from security.certificate import (
    Issuer,
    IssuerId,
    Leaf,
    OverlayId,
    overlay_id_of,
    parse_issuer,
    parse_leaf,
    verify_issued,
)
from security.errors import LimitExceeded, UntrustedIssuer

ISSUERS_MAX = 64
"""One is the default, a handful is a lot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The root, and every issuer that it has been seen to sign."""

    overlay_id: OverlayId
    root: bytes
    issuers: Mapping[IssuerId, Issuer] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, root: bytes, issuers: Sequence[bytes] = ()) -> Trust:
        """Trusts a root, and those issuers that it signed.

        Raises:
            MalformedCertificate, BadSignature: when the root is none.
            UntrustedIssuer: when it did not sign one of the issuers.
        """
        trust = cls(overlay_id=overlay_id_of(root), root=root)
        for der in issuers:
            trust = trust.with_issuer(der)
        return trust

    def with_issuer(self, der: bytes) -> Trust:
        """This trust and one more issuer, or a newer certificate of one that is known.

        Raises:
            MalformedCertificate: when it is no issuer's certificate.
            UntrustedIssuer: when our root did not sign it.
            LimitExceeded: when too many are known.
        """
        issuer = self._newest(der)
        if self.issuers.get(issuer.issuer_id) is issuer:
            return self
        issuers = {**self.issuers, issuer.issuer_id: issuer}
        return replace(self, issuers=MappingProxyType(issuers))

    def issuer(self, issuer_id: IssuerId) -> Issuer:
        """A known issuer; its dates and revocation are not judged here.

        Raises:
            UntrustedIssuer: when it is not known.
        """
        found = self.issuers.get(issuer_id)
        if found is None:
            raise UntrustedIssuer("no such issuer is known under our root")
        return found

    def leaf(self, der: bytes, issuer_der: bytes | None = None) -> tuple[Leaf, Issuer]:
        """Checks that a certificate was issued in this overlay. Dates are not judged.

        Args:
            der: the host's certificate.
            issuer_der: its issuer's, where that may be new to us.

        Raises:
            MalformedCertificate, IdentityMismatch, WrongOverlay: as ``verify_issued``.
            UntrustedIssuer: when nobody under our root issued it.
            LimitExceeded: when its issuer is new and too many are known.
        """
        if issuer_der is None:
            issuer = self.issuer(parse_leaf(der).issuer_id)
        else:
            issuer = self._newest(issuer_der)
        return verify_issued(der, issuer), issuer

    def _newest(self, der: bytes) -> Issuer:
        """The issuer that a certificate is of, with the one of its certificates that ends last."""
        known = next((one for one in self.issuers.values() if one.der == der), None)
        if known is not None:
            return known
        shown = parse_issuer(der, self.root)
        known = self.issuers.get(shown.issuer_id)
        if known is not None:
            return max(known, shown, key=_end_of)
        if len(self.issuers) >= ISSUERS_MAX:
            raise LimitExceeded(f"more than {ISSUERS_MAX} issuers")
        return shown


def _end_of(issuer: Issuer) -> tuple[int, int, bytes]:
    return issuer.not_after_unix_s, issuer.not_before_unix_s, issuer.der
