"""What a host needs to check everything offline: its overlay's roots and the issuers under them.

Immutable: learning of an issuer (from a record or an admission) gives a new value, and so does
another set of roots, which only ``security.root_bundle`` can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from security.certificate import Issuer, IssuerId, Leaf, OverlayId, parse_leaf, verify_issued
from security.errors import LimitExceeded, UntrustedIssuer, WrongOverlay
from security.root_bundle import Roots

ISSUERS_MAX = 64
"""One is the default, a handful is a lot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The roots in force, and every issuer that one of them has been seen to sign."""

    roots: Roots
    issuers: Mapping[IssuerId, Issuer] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, root: bytes, issuers: Sequence[bytes] = (), bundles: Iterable[bytes] = ()) -> Trust:
        """Trusts a root, what follows from it by root bundles, and issuers under these.

        Raises:
            MalformedCertificate, BadSignature: when the root is none.
            UntrustedIssuer: when no root in force signed one of the issuers.
            SecurityError: as ``Roots.learn``.
        """
        trust = cls(roots=Roots.of(root, bundles))
        for der in issuers:
            trust = trust.with_issuer(der)
        return trust

    @property
    def overlay_id(self) -> OverlayId:
        return self.roots.overlay_id

    def with_bundles(self, bundles: Iterable[bytes]) -> Trust:
        """This trust after some root bundles; issuers go whom no root in force has signed.

        Raises:
            SecurityError: as ``Roots.learn``.
        """
        roots = self.roots.learn(bundles)
        if roots == self.roots:
            return self
        kept = {id_: one for id_, one in self.issuers.items() if roots.age(one.root_id) >= 0}
        return replace(self, roots=roots, issuers=MappingProxyType(kept))

    def with_issuer(self, der: bytes) -> Trust:
        """This trust and one more issuer, or a newer certificate of one that is known.

        Of two certificates of one issuer the one by the newer root stays, and of one root's the one
        that ends last.

        Raises:
            MalformedCertificate: when it is no issuer's certificate.
            UntrustedIssuer: when no root in force signed it.
            LimitExceeded: when too many are known.
        """
        issuer = self._newest(der)
        if self.issuers.get(issuer.issuer_id) is issuer:
            return self
        issuers = {**self.issuers, issuer.issuer_id: issuer}
        return replace(self, issuers=MappingProxyType(issuers))

    def remembering(self, ders: Iterable[bytes]) -> Trust:
        """This trust, and issuers by roots that were in force before: for what was believed then.

        Raises:
            MalformedCertificate: when one is no issuer's certificate.
            UntrustedIssuer: when no root that ever was in force signed one.
        """
        former = {one.issuer_id: one for one in map(self.roots.former_issuer, ders)}
        return replace(self, issuers=MappingProxyType({**former, **self.issuers}))

    def issuer(self, issuer_id: IssuerId) -> Issuer:
        """A known issuer; its dates and revocation are not judged here.

        Raises:
            UntrustedIssuer: when it is not known.
        """
        found = self.issuers.get(issuer_id)
        if found is None:
            raise UntrustedIssuer("no such issuer is known under our roots")
        return found

    def leaf(self, der: bytes, issuer_der: bytes | None = None) -> tuple[Leaf, Issuer]:
        """Checks that a certificate was issued in this overlay. Dates are not judged.

        Args:
            der: the host's certificate.
            issuer_der: its issuer's, where that may be new to us. One by a root that was let go
                says who it is and no more: then that issuer has to be known.

        Raises:
            MalformedCertificate, IdentityMismatch, WrongOverlay: as ``verify_issued``.
            UntrustedIssuer: when nobody under our roots issued it.
            LimitExceeded: when its issuer is new and too many are known.
        """
        if issuer_der is not None:
            issuer = self._shown(issuer_der)
            return verify_issued(der, issuer), issuer
        claimed = parse_leaf(der)
        if claimed.overlay_id != self.overlay_id:
            raise WrongOverlay("the certificate is of another overlay")
        issuer = self.issuer(claimed.issuer_id)
        return verify_issued(der, issuer), issuer

    def _shown(self, der: bytes) -> Issuer:
        try:
            return self._newest(der)
        except UntrustedIssuer:
            return self.issuer(self.roots.former_issuer(der).issuer_id)

    def _newest(self, der: bytes) -> Issuer:
        """The issuer that a certificate is of, with the one of its certificates that counts."""
        known = next((one for one in self.issuers.values() if one.der == der), None)
        if known is not None:
            return known
        shown = self.roots.issuer(der)
        known = self.issuers.get(shown.issuer_id)
        if known is not None:
            return max(known, shown, key=self._rank)
        if len(self.issuers) >= ISSUERS_MAX:
            raise LimitExceeded(f"more than {ISSUERS_MAX} issuers")
        return shown

    def _rank(self, issuer: Issuer) -> tuple[int, int, int, bytes]:
        """Of an issuer's certificates the newest root's counts, of these the one that ends last."""
        dates = issuer.not_after_unix_s, issuer.not_before_unix_s
        return self.roots.age(issuer.root_id), *dates, issuer.der
