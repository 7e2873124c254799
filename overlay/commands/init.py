"""``rhizome init``."""

from __future__ import annotations

import click

from overlay.commands.options import chosen_home, home_option
from overlay.commands.passphrase import passphrase_of, passphrase_option
from overlay.config import config_template
from overlay.errors import HomeError
from overlay.founding import found_overlay
from overlay.home import Home, HomeFile
from overlay.system import SystemClock, SystemEntropy


@click.command("init")
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="NAME",
    help="Tenant to make; repeatable.  [default: default]",
)
@passphrase_option(
    "Keep the root's key apart, in root.key, encrypted under the first line of FILE ('-' reads "
    "standard input)."
)
@home_option
def command(tenants: tuple[str, ...], passphrase_file: str | None, home: str | None) -> None:
    """Begin a new overlay whose first host is this one.

    \b
    Example: rhizome init --tenant research --tenant office
    """  # noqa: D301 - click's mark
    folder = Home.create(chosen_home(home))
    with folder.locked():
        if folder.read(HomeFile.LEAF) is not None:
            raise HomeError(
                f"{folder.path} holds a host already: start it with 'rhizome peer', "
                "or name another folder with --home"
            )
        authority = found_overlay(
            folder,
            tenants or ("default",),
            SystemClock(),
            SystemEntropy(),
            passphrase=passphrase_of(passphrase_file, twice=True) if passphrase_file else None,
        )
        folder.write_config_template(config_template())
    names = ", ".join(sorted(authority.tenant_names))
    click.echo(f"new overlay {authority.trust.overlay_id[:16]} in {folder.path}, tenants: {names}")
    if not authority.holds_root:
        click.echo(f"the root's key:           {HomeFile.ROOT_KEY.value}, to be kept offline")
    click.echo("start this host:          rhizome peer")
    click.echo("a ticket for the next:    rhizome invite")
