"""Who this host is: its keys, its certificate, and whom it believes. Lives in the home folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overlay.address import Address
from overlay.errors import ConfigError, HomeError
from overlay.gossip.epochs import place_of
from overlay.home import Files, Home, HomeFile
from overlay.ports import Entropy
from overlay.transport.tls import Credentials
from security.certificate import RENEWAL_GRACE_S, Issuer, parse_leaf, verify_issued
from security.enrolment import Admission
from security.epoch import read_epoch
from security.errors import IdentityMismatch, UntrustedIssuer
from security.hosts import Grant
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.root_bundle import Roots, decode_bundles, encode_bundles
from security.ticket import ADDRESSES_MAX
from security.trust import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One host of one overlay."""

    keys: HostKeys
    leaf: bytes
    issuer: bytes
    trust: Trust

    @property
    def peer_id(self) -> PeerId:
        return self.keys.peer_id

    @property
    def credentials(self) -> Credentials:
        """What TLS shows of it."""
        return Credentials(
            keys=self.keys, leaf=self.leaf, issuer=self.issuer, roots=self.trust.roots.in_force
        )

    @property
    def shown(self) -> tuple[bytes, bytes, tuple[bytes, ...]]:
        """Its chain, and the roots that others are held against, for ``Transport.show``."""
        return self.leaf, self.issuer, self.trust.roots.in_force

    def check_dates(self, now_unix_s: float, *, issues: bool = False) -> str | None:
        """What a person should do about the certificate's dates, None when nothing.

        One that has ended of late is renewed by the running peer, that of a host that issues them
        at any time.
        """
        leaf = parse_leaf(self.leaf)
        if now_unix_s < leaf.not_before_unix_s:
            return "this host's clock is before its certificate's start: set the clock"
        if now_unix_s > leaf.not_after_unix_s + RENEWAL_GRACE_S and not issues:
            return (
                "this host's certificate ended more than 30 days ago: set the clock if it is "
                "wrong, or get a ticket with 'rhizome invite' on the issuer's host and join with "
                "a fresh --home"
            )
        return None

    def renewed(self, leaf: bytes, issuer: bytes, trust: Trust) -> Identity:
        """This host with another certificate, in this trust.

        Raises:
            SecurityError: When it is none of its own, or not to be believed.
        """
        trust = trust.with_issuer(issuer)
        if trust.leaf(leaf, issuer)[0].peer_id != self.peer_id:
            raise IdentityMismatch("that certificate is another host's")
        return replace(self, leaf=leaf, issuer=issuer, trust=trust)


def load_identity(home: Home) -> Identity:
    """Reads a host's identity.

    Raises:
        HomeError: When the folder holds none,
            or its files are not of one host and overlay.
        SecurityError: When what it holds is damaged.
    """
    leaf = home.need(HomeFile.LEAF)
    trust = Trust.of(home.need(HomeFile.ROOT), bundles=read_bundles(home))
    issuer, issued_by = _issuer_of(home, leaf, trust.roots)
    with contextlib.suppress(UntrustedIssuer):  # its root may be let go since the last renewal
        trust = trust.with_issuer(issuer)
    identity = Identity(
        keys=HostKeys.from_bytes(home.need(HomeFile.HOST_KEYS)),
        leaf=leaf,
        issuer=issuer,
        trust=trust,
    )
    home.claim(identity.trust.overlay_id)
    if verify_issued(leaf, issued_by).peer_id != identity.peer_id:
        raise HomeError(
            f"{home.path}: {HomeFile.LEAF.value} and {HomeFile.HOST_KEYS.value} are of two hosts: "
            "restore the whole folder, or join again with another --home"
        )
    return identity


def read_bundles(files: Files) -> tuple[bytes, ...]:
    """The root bundles that a host has taken; none where the root was never changed.

    Raises:
        SecurityError: When they are damaged.
    """
    found = files.read(HomeFile.ROOTS)
    return () if found is None else decode_bundles(found)


def store_bundles(files: Files, bundles: Sequence[bytes]) -> None:
    """Writes the root bundles that a host has taken.

    Raises:
        HomeError, StorageFull: When they cannot be written.
    """
    files.write(HomeFile.ROOTS, encode_bundles(bundles))


def _issuer_of(home: Home, leaf: bytes, roots: Roots) -> tuple[bytes, Issuer]:
    """The stored certificate of the issuer that a leaf names; of two, which are of two issuers."""
    named = parse_leaf(leaf).issuer_id
    first, following = home.need(HomeFile.ISSUER), home.read(HomeFile.NEXT_ISSUER)
    found = roots.former_issuer(first)
    if following is None or found.issuer_id == named:
        return first, found
    return following, roots.former_issuer(following)


def kept_keys(home: Home, entropy: Entropy) -> HostKeys:
    """The keys of an attempt that was cut off, or new ones; stored before anybody is shown them."""
    stored = home.read(HomeFile.HOST_KEYS)
    if stored is not None:
        return HostKeys.from_bytes(stored)
    keys = HostKeys.generate(entropy.secret)
    home.write(HomeFile.HOST_KEYS, keys.to_bytes())
    return keys


def store_identity(
    home: Home, keys: HostKeys, granted: Grant | Admission, now_unix_s: float
) -> None:
    """Writes a new host's identity; the leaf comes last, so that half an identity is none."""
    leaf = granted.leaf if isinstance(granted.leaf, bytes) else granted.leaf.der
    bundles = () if isinstance(granted, Grant) else granted.trust.roots.bundles
    trust = Trust.of(granted.root, [granted.issuer], bundles)
    home.claim(trust.overlay_id)
    home.write(HomeFile.HOST_KEYS, keys.to_bytes())
    home.write(HomeFile.ROOT, granted.root)
    if bundles:
        store_bundles(home, bundles)
    home.write(HomeFile.ISSUER, granted.issuer)
    for epoch in granted.epochs:
        store_epoch(home, epoch, trust, now_unix_s)
    home.write(HomeFile.LEAF, leaf)


def store_renewed(files: Files, identity: Identity, addresses: Sequence[str]) -> None:
    """Writes a host's next certificate, and where it can be renewed again.

    The issuer may be another one than before: its certificate is written first, beside the one of
    before, so that whichever file was written last before a crash, the leaf has its issuer there.

    Raises:
        HomeError, StorageFull: When they cannot be written.
    """
    if addresses:
        store_enrolment(files, addresses)
    is_new = files.read(HomeFile.ISSUER) != identity.issuer
    if is_new:
        files.write(HomeFile.NEXT_ISSUER, identity.issuer)
    files.write(HomeFile.LEAF, identity.leaf)
    if is_new:
        files.write(HomeFile.ISSUER, identity.issuer)


def store_enrolment(files: Files, addresses: Sequence[str]) -> None:
    """Writes where the issuer's enrolment listener can be asked, one address a line."""
    files.write(HomeFile.ENROLMENT, "".join(f"{one}\n" for one in addresses).encode())


def read_enrolment(files: Files) -> tuple[Address, ...]:
    """Where it can be asked; nothing where that was never written. Hints, nothing more."""
    found = []
    for line in (files.read(HomeFile.ENROLMENT) or b"").decode("ascii", "replace").splitlines():
        with contextlib.suppress(ConfigError):
            found.append(Address.parse(line))
    return tuple(found[:ADDRESSES_MAX])


def store_epoch(home: Files, epoch: bytes, trust: Trust, now_unix_s: float) -> None:
    """Keeps a tenant's EPOCH object under the opaque name that it has in every store."""
    header = read_epoch(epoch, trust, now_unix_s, RevocationSet()).value
    home.write_epoch(place_of(header).hex(), epoch)
