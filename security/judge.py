"""Whether to believe a host's certificate: one pure function for every place that asks.

It runs after each handshake, on a timer, on every change of the revocation set, and in simulation.
That the certificate chains to our root has been checked before (by OpenSSL, or ``Trust.leaf``).
"""

from __future__ import annotations

from security.certificate import Issuer, Leaf, OverlayId, check_dates
from security.errors import IdentityMismatch, Revoked, WrongOverlay
from security.peer_id import PeerId, public_bytes_of
from security.revocation import RevocationSet


def judge_leaf(
    leaf: Leaf,
    *,
    now_unix_s: float,
    revocations: RevocationSet,
    overlay_id: OverlayId,
    expected: PeerId | None,
    key: bytes | None,
) -> PeerId:
    """Says who a host is.

    Args:
        leaf: its certificate.
        now_unix_s: the time.
        revocations: what is revoked.
        overlay_id: our overlay.
        expected: the peer that was dialled; None when it dialled us, or for a bootstrap address.
        key: the 32 raw bytes of the key that it proved to hold, where the caller has them.

    Returns:
        Its PeerId.

    Raises:
        WrongOverlay: its certificate is of another overlay.
        IdentityMismatch: it is not the peer that was dialled, or has not the certificate's key.
        Revoked: it or its issuer is revoked.
        Expired, NotYetValid: its certificate is out of its dates.
    """
    if leaf.overlay_id != overlay_id:
        raise WrongOverlay("the far end belongs to another overlay")
    if expected is not None and leaf.peer_id != expected:
        raise IdentityMismatch("the far end is not the peer that was dialled")
    if key is not None and key != public_bytes_of(leaf.peer_id):
        raise IdentityMismatch("the far end does not hold the key of its certificate")
    if revocations.revokes(leaf.peer_id):
        raise Revoked("that host is revoked")
    if revocations.revokes(leaf.issuer_id):
        raise Revoked("the issuer of that host's certificate is revoked")
    check_dates(leaf, now_unix_s)
    return leaf.peer_id


def judge_issuer(issuer: Issuer, *, now_unix_s: float, revocations: RevocationSet) -> None:
    """Checks that what an issuer signed is to be believed now.

    Raises:
        Revoked: it is revoked.
        Expired, NotYetValid: its certificate is out of its dates.
    """
    if revocations.revokes(issuer.issuer_id):
        raise Revoked("that issuer is revoked")
    check_dates(issuer, now_unix_s)


def is_over(issuer: Issuer, *, now_unix_s: float, revocations: RevocationSet) -> bool:
    """Whether an issuer is revoked or has ended, so that what it makes is believed no more."""
    return revocations.revokes(issuer.issuer_id) or now_unix_s > issuer.not_after_unix_s
