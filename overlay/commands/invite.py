"""``rhizome invite``."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import (
    duration_of,
    existing_home,
    home_option,
    json_option,
    print_json,
)
from overlay.control.client import call
from overlay.control.messages import Invite, InviteReply
from overlay.units import show_time
from security.hosts import HostRole


@click.command("invite")
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="NAME",
    help="Tenant whose member the new host becomes; repeatable.  [default: all]",
)
@click.option(
    "--expires",
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long the ticket is good.",
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in HostRole]),
    default=HostRole.PEER.value,
    show_default=True,
    help="issuer: it may ask the root's owner to make it an issuer too ('rhizome ca issuer').",
)
@click.option(
    "--http-name",
    "http_names",
    multiple=True,
    metavar="NAME",
    help="Name or address that the certificate of its HTTP API may have; repeatable.",
)
@home_option
@json_option
def command(
    tenants: tuple[str, ...],
    expires: str,
    role: str,
    http_names: tuple[str, ...],
    home: str | None,
    as_json: bool,  # noqa: FBT001 - click's
) -> None:
    """Print a one-use ticket with which another host joins. Runs beside the issuer's peer.

    \b
    Example: rhizome invite --tenant default --http-name gpu1.example
    """  # noqa: D301 - click's mark
    wanted = Invite(
        tenants=list(tenants),
        expires_s=duration_of("--expires", expires),
        role=HostRole(role),
        http_names=list(http_names),
    )
    reply = trio.run(call, existing_home(home), wanted, InviteReply)
    if as_json:
        print_json(reply)
        return
    flags = "".join(f" --http-name '{name}'" for name in reply.http_names)
    click.echo(reply.ticket)
    click.echo(
        f"# good for one host until {show_time(reply.expires_unix_s)}, "
        f"role: {reply.role}, tenants: {', '.join(reply.tenants)}\n"
        f"# on the other host: rhizome join TICKET && rhizome peer{flags}\n"
        f"# withdraw it with: rhizome revoke {reply.ticket_id}",
        err=True,
    )
