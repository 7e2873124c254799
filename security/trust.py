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
        """This trust and one more issuer.

        Raises:
            MalformedCertificate: when it is no issuer's certificate.
            UntrustedIssuer: when our root did not sign it.
            LimitExceeded: when too many are known.
        """
        if any(der == known.der for known in self.issuers.values()):
            return self
        issuer = parse_issuer(der, self.root)
        if issuer.issuer_id not in self.issuers and len(self.issuers) >= ISSUERS_MAX:
            raise LimitExceeded(f"more than {ISSUERS_MAX} issuers")
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
        """
        known = next((i for i in self.issuers.values() if i.der == issuer_der), None)
        if issuer_der is not None and known is None:
            known = parse_issuer(issuer_der, self.root)
        if known is not None:
            return verify_issued(der, known), known
        for issuer in self.issuers.values():
            try:
                return verify_issued(der, issuer), issuer
            except UntrustedIssuer:
                continue
        raise UntrustedIssuer("no issuer that is known here issued that certificate")
