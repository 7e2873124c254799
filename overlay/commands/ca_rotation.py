"""``rhizome ca root rotate`` and ``rhizome ca root status``."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from overlay.believed import believed_in
from overlay.commands.options import existing_home, home_option, json_option, print_json
from overlay.commands.passphrase import passphrase_of, passphrase_option
from overlay.commands.root_files import root_file
from overlay.errors import ConfigError, HomeError
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from overlay.root import authority_in
from overlay.rotation import (
    KeyHere,
    Lacking,
    before_begin,
    begin,
    certificates,
    end,
    key_here,
    lacking,
    next_step,
    roots_in,
    tidied,
)
from overlay.system import SystemClock, SystemEntropy
from security.root_key import open_root


@click.command("rotate")
@click.option("--drop", is_flag=True, help="End the rotation: the old root is in force no more.")
@click.option("--anyway", is_flag=True, help="With --drop: wait for no host and no issuer.")
@click.option(
    "--root-key", metavar="FILE", default=None, help="The old root's key. [default: here]"
)
@click.option(
    "--new-root-key",
    metavar="FILE",
    default=None,
    help="With --drop: the new root's.  [default: here]",
)
@passphrase_option(
    "File whose first line is the passphrase of both keys.  [default: it is asked for]"
)
@home_option
def rotate_command(
    *,
    drop: bool,
    anyway: bool,
    root_key: str | None,
    new_root_key: str | None,
    passphrase_file: str | None,
    home: str | None,
) -> None:
    """Change the overlay's root: make the next one, and later let the old one go.

    Run it on the issuer's host, its peer stopped. The first time it makes root-next.key, under the
    old key's passphrase, and from then on both roots are in force. 'rhizome ca root status' says
    what to do next, and when --drop is due. What was cut off is completed by the same command.

    \b
    Example: rhizome ca root rotate --root-key /media/safe/root.key
    """  # noqa: D301 - click's mark
    if (anyway or new_root_key is not None) and not drop:
        raise ConfigError("--anyway and --new-root-key go with --drop")
    folder = existing_home(home)
    with folder.locked():
        if authority_in(folder).holds_root:
            raise HomeError(
                "the root's key is in authority.bin in clear: run 'rhizome ca root seal' first"
            )
        if drop:
            _drop(folder, root_key, new_root_key, passphrase_file, anyway=anyway)
        else:
            _begin(folder, root_key, passphrase_file)


def _begin(folder: Home, root_key: str | None, passphrase_file: str | None) -> None:
    if not before_begin(folder).overlap:
        sealed = root_file(folder, root_key)
        passphrase = passphrase_of(passphrase_file, twice=False)
        old = open_root(sealed, passphrase)
        begin(folder, old, passphrase, SystemClock(), SystemEntropy())
    click.echo("two roots are in force: the old one and the next")
    if folder.read(HomeFile.NEXT_ROOT_KEY) is not None:
        click.echo(f"copy {folder.path / HomeFile.NEXT_ROOT_KEY.value} to two media")
    click.echo("start this host's peer, and see what is next: rhizome ca root status")


def _drop(
    folder: Home,
    root_key: str | None,
    new_root_key: str | None,
    passphrase_file: str | None,
    *,
    anyway: bool,
) -> None:
    roots = roots_in(folder)
    if roots.overlap:
        waits_for = waiting(folder)
        if waits_for and not anyway:
            raise HomeError(f"the old root is still needed: {words_of(waits_for)} (--anyway)")
        # Both files are looked for before a passphrase is asked for.
        old = root_file(folder, root_key)
        new = root_file(folder, new_root_key, HomeFile.NEXT_ROOT_KEY, "--new-root-key")
        passphrase = passphrase_of(passphrase_file, twice=False)
        end(folder, open_root(old, passphrase), open_root(new, passphrase))
    elif not roots.chain:
        raise HomeError("no rotation is under way: 'rhizome ca root rotate' begins one")
    else:
        tidied(folder)
    click.echo(f"the new root alone is in force; {_KEY_WORDS[key_here(folder)]}")
    click.echo("start this host's peer, which tells the others; then destroy the old key's copies")


_KEY_WORDS = {
    KeyHere.IN_FORCE: "its key is in root.key",
    KeyHere.ANOTHER: "its key is not here: root.key here is a former root's, destroy it",
    KeyHere.NONE: "its key is not here",
}


def waiting(folder: Home) -> Lacking:
    """What the rotation of a folder waits for.

    Raises:
        HomeError, SecurityError, StorageError: When the folder cannot be read.
    """
    identity = load_identity(folder)
    book, revoked = believed_in(folder, identity.trust)
    return lacking(
        identity.trust.roots,
        authority_in(folder),
        tuple(book.now.issuers.values()),
        book.taken,
        revoked,
        identity.peer_id,
        SystemClock().unix_s(),
    )


def words_of(waits_for: Lacking) -> str:
    """The hosts and issuers that are waited for, in one line."""
    parts = []
    if waits_for.hosts:
        parts.append(f"hosts that have not taken the new one: {_some(waits_for.hosts)}")
    if waits_for.issuers:
        parts.append(f"issuers without its certificate: {_some(waits_for.issuers)}")
    return "; ".join(parts)


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else ""
    return ", ".join(ids[:NAMED_MAX]) + more


NAMED_MAX = 8


class RootInForce(msgspec.Struct, frozen=True, kw_only=True):
    """One root; ``number`` is that of the bundle that brought it, 1 for the first."""

    root_id: str
    number: int
    ends_unix_s: int


class RootStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. ``phase`` is ``one root`` or ``overlap``."""

    overlay_id: str
    number: int
    phase: str
    roots: list[RootInForce]
    hosts_lacking: list[str]
    issuers_lacking: list[str]
    next: str


@click.command("status")
@home_option
@json_option
def status_command(home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show which roots are in force, what a rotation waits for, and what to do next.

    Run it on the issuer's host, whether or not its peer runs.

    \b
    Example: rhizome ca root status --json
    """  # noqa: D301 - click's mark
    status = status_of(existing_home(home))
    if as_json:
        print_json(status)
        return
    click.echo(f"overlay   {status.overlay_id[:16]}, {status.phase}, root bundle {status.number}")
    for root in status.roots:
        days = (root.ends_unix_s - SystemClock().unix_s()) / 86_400
        click.echo(f"root      {root.root_id[:16]}, good for {days:.0f} days more")
    for host in status.hosts_lacking:
        click.echo(f"lacks it  host {host}")
    for issuer in status.issuers_lacking:
        click.echo(f"lacks it  issuer {issuer}")
    click.echo(f"next      {status.next}")


def status_of(folder: Home) -> RootStatus:
    """What the folder says."""
    roots, waits_for = roots_in(folder), waiting(folder)
    return RootStatus(
        overlay_id=roots.overlay_id,
        number=roots.number,
        phase="overlap" if roots.overlap else "one root",
        roots=[
            RootInForce(root_id=one.root_id, number=one.number, ends_unix_s=one.not_after_unix_s)
            for one in certificates(roots)
        ],
        hosts_lacking=list(waits_for.hosts),
        issuers_lacking=list(waits_for.issuers),
        next=next_step(folder, roots, waits_for),
    )
