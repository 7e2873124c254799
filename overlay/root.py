"""The root's key on the issuer's host: inside the issuer's state, or apart and encrypted."""

from __future__ import annotations

from datetime import UTC, datetime

from overlay.errors import HomeError
from overlay.home import Files, Home, HomeFile
from overlay.ports import Clock, Entropy
from overlay.rotation import check_signs, roots_in
from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import Issuer, RootKey, parse_issuer
from security.root_key import open_root, root_of, seal_root


def seal_apart(home: Home, authority: Authority, passphrase: str, entropy: Entropy) -> Authority:
    """Writes the root's key to a file of its own, and gives the issuer's state without it.

    The caller stores that state. A crash in between leaves the key in both.

    Raises:
        HomeError: When the state does not hold it, or the file is another root's.
        LimitExceeded: When the passphrase is too short.
    """
    root = authority.root
    if not isinstance(root, RootKey):
        raise HomeError(f"{home.path}: the root's key is not in authority.bin any more")
    before = home.read(HomeFile.ROOT_KEY)
    if before is not None and home.read(HomeFile.AUTHORITY) and root_of(before) != root.der:
        raise HomeError(f"{home.path / HomeFile.ROOT_KEY.value} is another overlay's: move it away")
    home.write(HomeFile.ROOT_KEY, seal_root(root, passphrase, entropy.secret))
    return authority.without_root()


def seal(home: Home, passphrase: str, entropy: Entropy) -> None:
    """Takes the root's key out of the issuer's state. The folder is locked by the caller.

    Raises:
        HomeError, SecurityError: As :func:`seal_apart`, or when this is no issuer's folder.
    """
    authority = seal_apart(home, authority_in(home), passphrase, entropy)
    written = home.need(HomeFile.ROOT_KEY)
    open_root(written, passphrase)  # it can be read back: only now the other copy goes
    home.write(HomeFile.AUTHORITY, authority_to_bytes(authority))


def renew(home: Files, root: RootKey, clock: Clock, entropy: Entropy) -> Issuer:
    """Has the root sign this host's issuer again. The folder is locked by the caller.

    Raises:
        HomeError: When this is no issuer's folder, or that root is not the newest in force.
        UntrustedIssuer: When that is the root of another overlay.
    """
    check_signs(roots_in(home), root)
    before = authority_in(home)
    authority = before.with_new_certificate(root, entropy.secret, clock.unix_s())
    home.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
    return parse_issuer(authority.issuer.der, authority.root.der)


def root_key_in(home: Home) -> RootKey:
    """The root's key out of the issuer's state.

    Raises:
        HomeError: When it is not there.
    """
    root = authority_in(home).root
    if not isinstance(root, RootKey):
        raise HomeError(f"{home.path}: the root's key is not in authority.bin any more")
    return root


def authority_in(home: Files) -> Authority:
    """The issuer's state of a folder.

    Raises:
        HomeError: When it is no issuer's.
        SecurityError: When the state is damaged.
    """
    stored = home.read(HomeFile.AUTHORITY)
    if stored is None:
        raise HomeError(
            "this is no issuer's folder: run this on a host where 'rhizome init' or 'rhizome ca "
            "issuer install' was run"
        )
    return authority_from_bytes(stored)


def ends(issuer: Issuer) -> str:
    """The day on which an issuer's certificate ends."""
    return day(issuer.not_after_unix_s)


def day(unix_s: float) -> str:
    """A day, for people."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d}"
