"""Who this host is: its keys, its certificate, and whom it believes. Lives in the home folder."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.errors import HomeError
from overlay.gossip.tenants import place_of
from overlay.home import Home, HomeFile
from overlay.ports import Entropy
from overlay.transport.tls import Credentials
from security.authority import Grant
from security.certificate import parse_leaf
from security.enrolment import Admission
from security.epoch import read_epoch
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet
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
        return Credentials(keys=self.keys, leaf=self.leaf, issuer=self.issuer, root=self.trust.root)

    def check_dates(self, now_unix_s: float) -> str | None:
        """What a person should do about the certificate's dates, None when they are fine."""
        leaf = parse_leaf(self.leaf)
        if now_unix_s < leaf.not_before_unix_s:
            return "this host's clock is before its certificate's start: set the clock"
        if now_unix_s > leaf.not_after_unix_s:
            return (
                "this host's certificate has expired: set the clock if it is wrong, or get a "
                "ticket with 'rhizome invite' on the issuer's host and join with a fresh --home"
            )
        return None


def load_identity(home: Home) -> Identity:
    """Reads a host's identity.

    Raises:
        HomeError: When the folder holds none,
            or its files are not of one host and overlay.
        SecurityError: When what it holds is damaged.
    """
    leaf, issuer = home.need(HomeFile.LEAF), home.need(HomeFile.ISSUER)
    identity = Identity(
        keys=HostKeys.from_bytes(home.need(HomeFile.HOST_KEYS)),
        leaf=leaf,
        issuer=issuer,
        trust=Trust.of(home.need(HomeFile.ROOT), [issuer]),
    )
    home.claim(identity.trust.overlay_id)
    if identity.trust.leaf(leaf)[0].peer_id != identity.peer_id:
        raise HomeError(
            f"{home.path}: {HomeFile.LEAF.value} and {HomeFile.HOST_KEYS.value} are of two hosts: "
            "restore the whole folder, or join again with another --home"
        )
    return identity


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
    trust = Trust.of(granted.root, [granted.issuer])
    home.claim(trust.overlay_id)
    home.write(HomeFile.HOST_KEYS, keys.to_bytes())
    home.write(HomeFile.ROOT, granted.root)
    home.write(HomeFile.ISSUER, granted.issuer)
    for epoch in granted.epochs:
        store_epoch(home, epoch, trust, now_unix_s)
    home.write(HomeFile.LEAF, leaf)


def store_epoch(home: Home, epoch: bytes, trust: Trust, now_unix_s: float) -> None:
    """Keeps a tenant's EPOCH object under the opaque name that it has in every store."""
    header = read_epoch(epoch, trust, now_unix_s, RevocationSet()).value
    home.write_epoch(place_of(header).hex(), epoch)
