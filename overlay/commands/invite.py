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
@home_option
@json_option
def command(tenants: tuple[str, ...], expires: str, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Print a one-use ticket with which another host joins. Runs beside the issuer's peer.

    \b
    Example: rhizome invite --tenant default
    """  # noqa: D301 - click's mark
    wanted = Invite(tenants=list(tenants), expires_s=duration_of("--expires", expires))
    reply = trio.run(call, existing_home(home), wanted, InviteReply)
    if as_json:
        print_json(reply)
        return
    click.echo(reply.ticket)
    click.echo(
        f"# good for one host until {show_time(reply.expires_unix_s)}, "
        f"tenants: {', '.join(reply.tenants)}\n"
        "# on the other host: rhizome join TICKET && rhizome peer\n"
        f"# withdraw it with: rhizome revoke {reply.ticket_id}",
        err=True,
    )
