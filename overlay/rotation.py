"""Changing the root of an overlay: two signed bundles, made where the root's keys are.

Rules
1. The order of writes makes every step one that can be made again: the new root's key is stored
   before a bundle names it, and the same keys make the same bundle. So whatever was cut off, the
   same command completes it, and there are never two bundles of one number from one folder.
2. The old key is written over only when the bundle that lets it go is stored.
3. The folder's peer does not run meanwhile; at its next start it tells the bundle to the others.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overlay.errors import HomeError
from overlay.home import Files, HomeFile
from overlay.identity import read_bundles, store_bundles
from overlay.ports import Clock, Entropy
from overlay.trust.book import Taken
from security.authority import Authority
from security.certificate import (
    RENEWAL_GRACE_S,
    Issuer,
    IssuerId,
    RootCertificate,
    RootKey,
    make_next_root,
    parse_root,
)
from security.errors import UntrustedIssuer
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.root_bundle import Roots, next_bundle, number_after
from security.root_key import open_root, root_of, seal_root

DROP = "rhizome ca root rotate --drop"


def roots_in(files: Files) -> Roots:
    """The roots that a folder trusts.

    Raises:
        HomeError, SecurityError: When it holds none, or they are damaged.
    """
    return Roots.of(files.need(HomeFile.ROOT), read_bundles(files))


def before_begin(files: Files) -> Roots:
    """The roots in force, where a rotation may begin, or its beginning be completed.

    Raises:
        HomeError: When the end of the one before was cut off: that is to be completed first.
    """
    roots, sealed = roots_in(files), files.read(HomeFile.NEXT_ROOT_KEY)
    if sealed is not None and (root_of(sealed),) == roots.in_force:
        raise HomeError(f"the end of a rotation was cut off: {DROP} once more")
    return roots


def begin(files: Files, old: RootKey, passphrase: str, clock: Clock, entropy: Entropy) -> Roots:
    """Begins a rotation, or completes its beginning: from now on two roots are in force.

    Args:
        files: The issuer's folder.
        old: The root that is in force.
        passphrase: Under which the new root's key is kept.
        clock: For the new root's dates.
        entropy: For its key.

    Raises:
        HomeError: As :func:`before_begin`, or when the old root is another one than that in force.
        LimitExceeded: When the passphrase is too short, or the overlay had too many rotations.
        BadSeal: When the new key is there already, under another passphrase.
    """
    roots = before_begin(files)
    if roots.overlap:
        return roots
    if roots.newest != old.der:
        raise HomeError("that key is not of the root that is in force: name it with --root-key")
    if files.read(HomeFile.NEXT_ROOT_KEY) is None:
        number, now_unix_s = number_after(roots), clock.unix_s()
        new = make_next_root(roots.overlay_id, number, entropy.secret, now_unix_s)
        files.write(HomeFile.NEXT_ROOT_KEY, seal_root(new, passphrase, entropy.secret))
    new = open_root(files.need(HomeFile.NEXT_ROOT_KEY), passphrase)
    return _took(files, roots, next_bundle(roots, old, new, drop=False))


def end(files: Files, old: RootKey, new: RootKey) -> Roots:
    """Ends a rotation, or completes its end: the new root alone is in force.

    Raises:
        UntrustedRoot: When these are not the two roots in force.
    """
    roots = roots_in(files)
    if roots.overlap:
        _took(files, roots, next_bundle(roots, old, new, drop=True))
    return tidied(files)


def _took(files: Files, roots: Roots, bundle: bytes) -> Roots:
    taken = roots.learn([bundle])
    store_bundles(files, taken.bundles)
    return taken


def tidied(files: Files) -> Roots:
    """After a rotation the next root's key is the root's key.

    Returns:
        The roots in force.

    Raises:
        HomeError, SecurityError: When the folder cannot be read or written.
    """
    roots, sealed = roots_in(files), files.read(HomeFile.NEXT_ROOT_KEY)
    if sealed is not None and (root_of(sealed),) == roots.in_force:
        files.write(HomeFile.ROOT_KEY, sealed)
        files.remove(HomeFile.NEXT_ROOT_KEY)
    return roots


class KeyHere(enum.Enum):
    """Whose key is in a folder's ``root.key``."""

    NONE = enum.auto()
    IN_FORCE = enum.auto()
    ANOTHER = enum.auto()
    """Of a root that was let go: the new root's key was moved away before its rotation ended."""


def key_here(files: Files) -> KeyHere:
    """Whose key a folder holds.

    Raises:
        HomeError, SecurityError: When the folder cannot be read, or the file is damaged.
    """
    sealed = files.read(HomeFile.ROOT_KEY)
    if sealed is None:
        return KeyHere.NONE
    return KeyHere.IN_FORCE if root_of(sealed) in roots_in(files).in_force else KeyHere.ANOTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """What a rotation waits for.

    ``hosts`` have not told that they have the newest bundle: this issuer's, and those of others
    that have asked here. ``issuers`` are not known to have a certificate by the new root.
    """

    hosts: tuple[PeerId, ...]
    issuers: tuple[IssuerId, ...]

    def __bool__(self) -> bool:
        return bool(self.hosts or self.issuers)


def lacking(
    roots: Roots,
    authority: Authority,
    issuers: Collection[Issuer],
    taken: Mapping[PeerId, Taken],
    revoked: RevocationSet,
    me: PeerId,
    now_unix_s: float,
) -> Lacking:
    """What is still to come before the old root can be let go.

    Args:
        roots: As they are now.
        authority: The issuer of this host.
        issuers: Those that this host knows, by their newest certificates.
        taken: How far each peer is that has asked here, by its own word.
        revoked: What is revoked.
        me: This host, which has it.
        now_unix_s: The time: hosts that can only join again are not waited for.
    """
    if not roots.overlap:
        return Lacking(hosts=(), issuers=())
    mine = [id_ for id_, host in authority.hosts.items() if host.may_renew(now_unix_s)]
    of_others = [
        id_
        for id_, one in taken.items()
        if id_ not in authority.hosts and now_unix_s <= one.leaf_ends_unix_s + RENEWAL_GRACE_S
    ]
    behind = {
        id_ for id_ in (*mine, *of_others) if id_ not in taken or taken[id_].number < roots.number
    }
    hosts = [id_ for id_ in sorted(behind - {me}) if not revoked.revokes(id_)]
    newest = parse_root(roots.newest).root_id
    own = roots.former_issuer(authority.issuer.der)
    known = {one.issuer_id: one for one in issuers} | {own.issuer_id: own}
    without = [
        id_
        for id_, one in sorted(known.items())
        if one.root_id != newest and not revoked.revokes(id_)
    ]
    return Lacking(hosts=tuple(hosts), issuers=tuple(without))


def next_step(files: Files, roots: Roots, waits_for: Lacking) -> str:
    """What its owner should do next."""
    sealed = files.read(HomeFile.NEXT_ROOT_KEY)
    if not roots.overlap and sealed is not None:
        done = (root_of(sealed),) == roots.in_force
        return f"it was cut off: {DROP if done else 'rhizome ca root rotate'} once more"
    if not roots.overlap:
        former = key_here(files) is KeyHere.ANOTHER
        return "destroy root.key here: it is a former root's" if former else "nothing"
    if waits_for.hosts:
        return "start this host's peer and wait until every host has the new root"
    if waits_for.issuers:
        return (
            "rhizome ca issuer renew here, and request, add and install for issuers of other hosts"
        )
    return DROP


def certificates(roots: Roots) -> tuple[RootCertificate, ...]:
    """The roots in force, the newest last."""
    return tuple(map(parse_root, roots.in_force))


def check_signs(roots: Roots, root: RootKey) -> None:
    """Checks that a root shall sign issuers now.

    Raises:
        HomeError: When it is leaving, or not in force.
        UntrustedIssuer: When it is another overlay's.
    """
    if root.overlay_id != roots.overlay_id:
        raise UntrustedIssuer("this overlay's issuer is another root's")
    if root.der != roots.newest:
        raise HomeError(
            "that root is not the newest in force: name the new one's key with --root-key"
        )
