"""``rhizome ca``: export here, the rest in ``ca_keys``, ``ca_issuers`` and ``http_name``."""

from __future__ import annotations

import ssl

import click

from overlay.commands.ca_issuers import (
    add_command,
    adopt_command,
    install_command,
    list_command,
    request_command,
)
from overlay.commands.ca_keys import issuer
from overlay.commands.ca_keys import root as root_group
from overlay.commands.http_name import command as http_name
from overlay.commands.options import existing_home, home_option
from overlay.rotation import roots_in


@click.group("ca")
def command() -> None:
    """The certificates that this overlay rests on."""


@command.command("export")
@home_option
def export(home: str | None) -> None:
    """Print the overlay's root certificate as PEM, for clients of an API served with --http-name.

    While the root is changed it prints both that are in force. They are public. Works on every host
    of the overlay, whether or not its peer runs.

    \b
    Example: rhizome ca export > overlay.pem && curl --cacert overlay.pem https://HOST:7403/health
    """  # noqa: D301 - click's mark
    for root in roots_in(existing_home(home)).in_force:
        click.echo(ssl.DER_cert_to_PEM_cert(root), nl=False)


for each in (request_command, add_command, install_command, adopt_command, list_command):
    issuer.add_command(each)
command.add_command(root_group)
command.add_command(issuer)
command.add_command(http_name)
