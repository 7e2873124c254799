"""``rhizome ca root`` and ``rhizome ca issuer``."""

from __future__ import annotations

import click
import msgspec

from overlay.commands.ca_rotation import rotate_command
from overlay.commands.ca_rotation import status_command as root_status_command
from overlay.commands.options import existing_home, home_option, json_option, print_json
from overlay.commands.passphrase import passphrase_of, passphrase_option
from overlay.commands.root_files import signing_file
from overlay.home import Home, HomeFile
from overlay.root import authority_in, ends, renew, root_key_in, seal
from overlay.rotation import KeyHere, key_here
from overlay.system import SystemClock, SystemEntropy
from security.certificate import parse_issuer
from security.root_key import open_root

DAY_S = 86_400


@click.group("root")
def root() -> None:
    """The root's key, which signs issuers and nothing else."""


@click.group("issuer")
def issuer() -> None:
    """The issuers of this overlay, which sign hosts, tenants and tokens."""


root.add_command(rotate_command)
root.add_command(root_status_command)


@root.command("seal")
@passphrase_option("File whose first line is the passphrase.  [default: it is asked for]")
@home_option
def seal_command(passphrase_file: str | None, home: str | None) -> None:
    """Take the root's key out of the issuer's state, into root.key, encrypted.

    Stop this host's peer first. The issuer works without it, so root.key can be moved to a medium
    that is kept offline.

    \b
    Example: rhizome ca root seal --passphrase-file ./passphrase
    """  # noqa: D301 - click's mark
    folder = existing_home(home)
    with folder.locked():
        root_key_in(folder)
        seal(folder, passphrase_of(passphrase_file, twice=True), SystemEntropy())
    click.echo(f"the root's key is in {folder.path / HomeFile.ROOT_KEY.value}, encrypted")
    click.echo("copy it to two media, try one with 'rhizome ca issuer renew', and remove it here")


@issuer.command("renew")
@click.option("--root-key", metavar="FILE", default=None, help="The root's key.  [default: here]")
@passphrase_option("File whose first line is the passphrase.  [default: it is asked for]")
@home_option
def renew_command(root_key: str | None, passphrase_file: str | None, home: str | None) -> None:
    """Have the root sign this host's issuer for another ten years.

    Stop this host's peer first; at its next start it tells the others. While the root is changed,
    it is the new root that signs.

    \b
    Example: rhizome ca issuer renew --root-key /media/safe/root.key
    """  # noqa: D301 - click's mark
    folder = existing_home(home)
    with folder.locked():
        if root_key is None and authority_in(folder).holds_root:
            made = renew(folder, root_key_in(folder), SystemClock(), SystemEntropy())
        else:
            file = signing_file(folder, root_key)
            passphrase = passphrase_of(passphrase_file, twice=False)
            made = renew(folder, open_root(file, passphrase), SystemClock(), SystemEntropy())
    click.echo(f"issuer {made.issuer_id[:16]} is certified until {ends(made)}")


class IssuerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints.

    ``root_key``: ``here in clear``, ``here, encrypted``, ``away``, or ``away; root.key here is a
    former root's``.
    """

    overlay_id: str
    issuer_id: str
    ends_unix_s: int
    half_life_over: bool
    root_key: str
    hosts: int
    tenants: int


@issuer.command("status")
@home_option
@json_option
def status_command(home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show this host's issuer: until when it is certified, and where the root's key is.

    \b
    Example: rhizome ca issuer status --json
    """  # noqa: D301 - click's mark
    status = status_of(existing_home(home), SystemClock().unix_s())
    if as_json:
        print_json(status)
        return
    click.echo(f"overlay   {status.overlay_id[:16]}")
    days = f"{(status.ends_unix_s - SystemClock().unix_s()) / DAY_S:.0f} days"
    click.echo(f"issuer    {status.issuer_id[:16]}, certified for {days} more")
    click.echo(f"root key  {status.root_key}")
    click.echo(f"keeps     {status.hosts} hosts, {status.tenants} tenants")
    if status.half_life_over:
        click.echo("alarm     half of its life is over: rhizome ca issuer renew")


APART = {
    KeyHere.NONE: "away",
    KeyHere.IN_FORCE: "here, encrypted",
    KeyHere.ANOTHER: "away; root.key here is a former root's",
}


def status_of(folder: Home, now_unix_s: float) -> IssuerStatus:
    """What the folder says."""
    authority = authority_in(folder)
    certificate = parse_issuer(authority.issuer.der, authority.root.der)
    middle = (certificate.not_before_unix_s + certificate.not_after_unix_s) / 2
    return IssuerStatus(
        overlay_id=authority.root.overlay_id,
        issuer_id=authority.issuer.issuer_id,
        ends_unix_s=certificate.not_after_unix_s,
        half_life_over=now_unix_s > middle,
        root_key="here in clear" if authority.holds_root else APART[key_here(folder)],
        hosts=len(authority.hosts),
        tenants=len(authority.tenants),
    )
