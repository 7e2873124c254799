"""Changing the root of a simulated overlay, step by step, at the host of its issuer.

The steps are the product's (``overlay/rotation.py``), on files in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from overlay.home import Files, HomeFile
from overlay.identity import Identity
from overlay.ports import Clock, Entropy
from overlay.root import renew
from overlay.rotation import begin, end, roots_in
from security.authority_state import authority_from_bytes
from security.certificate import RootKey
from security.root_bundle import Roots
from security.root_key import open_root

PASSPHRASE = "one passphrase for all"  # noqa: S105 - of a simulation


class Holder(Protocol):
    """A simulated host, whose identity outlives its peer."""

    identity: Identity


def take_roots(host: Holder, bundles: Sequence[bytes]) -> None:
    """Keeps root bundles with a host's identity, as a home folder does."""
    trust = host.identity.trust.with_bundles(bundles)
    host.identity = replace(host.identity, trust=trust)


class RootChange:
    """The roots of one overlay; ``root`` is the one that is in force, or is leaving."""

    def __init__(self, files: Files, root: RootKey, clock: Clock, entropy: Entropy) -> None:
        self.root = root
        self._files = files
        self._clock = clock
        self._entropy = entropy

    def overlap(self) -> Roots:
        """Makes the next root: both are in force."""
        return begin(self._files, self.root, PASSPHRASE, self._clock, self._entropy)

    def certify(self) -> None:
        """Has the newest root sign the issuer."""
        renew(self._files, self.newest(), self._clock, self._entropy)

    def newest(self) -> RootKey:
        """The root that signs issuers."""
        return self._next() if roots_in(self._files).overlap else self.root

    def drop(self) -> Roots:
        """Lets the old root go."""
        new = self._next()
        roots = end(self._files, self.root, new)
        self.root = new
        return roots

    def _next(self) -> RootKey:
        return open_root(self._files.need(HomeFile.NEXT_ROOT_KEY), PASSPHRASE)


def root_key_of(files: Files) -> RootKey:
    """The root's key in an issuer's state that holds it."""
    root = authority_from_bytes(files.need(HomeFile.AUTHORITY)).root
    assert isinstance(root, RootKey)
    return root
