"""``rhizome ca``: export here, the rest in ``ca_keys`` and ``http_name``."""

from __future__ import annotations

import ssl

import click

from overlay.commands.ca_keys import issuer, root
from overlay.commands.http_name import command as http_name
from overlay.commands.options import existing_home, home_option
from overlay.home import HomeFile


@click.group("ca")
def command() -> None:
    """The certificates that this overlay rests on."""


@command.command("export")
@home_option
def export(home: str | None) -> None:
    """Print the overlay's root certificate as PEM, for clients of an API served with --http-name.

    It is public. Works on every host of the overlay, whether or not its peer runs.

    \b
    Example: rhizome ca export > overlay.pem && curl --cacert overlay.pem https://HOST:7403/health
    """  # noqa: D301 - click's mark
    click.echo(ssl.DER_cert_to_PEM_cert(existing_home(home).need(HomeFile.ROOT)), nl=False)


command.add_command(root)
command.add_command(issuer)
command.add_command(http_name)
