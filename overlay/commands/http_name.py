"""``rhizome ca http-name``."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import existing_home, home_option, json_option, print_json
from overlay.commands.tables import print_table
from overlay.control.client import call
from overlay.control.http_name_messages import ChangeHttpNames, HttpNamesReply, ListHttpNames

COLUMNS = ("host", "HTTP names")


@click.command("http-name")
@click.argument("peer", default="")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--remove", is_flag=True, help="Take the names back.")
@home_option
@json_option
def command(
    peer: str,
    names: tuple[str, ...],
    remove: bool,  # noqa: FBT001 - click's
    home: str | None,
    as_json: bool,  # noqa: FBT001 - click's
) -> None:
    """Let the host PEER have certificates of this overlay for its HTTP API under these NAMEs.

    DNS names, *.NAME and IP addresses, each just as it is written. The host asks for them with
    'rhizome peer --http-name NAME'. Without a NAME: show which host may have which. Runs beside the
    issuer's peer.

    What was made already is good until it ends, 24 hours at the most.

    \b
    Example: rhizome ca http-name 12D3KooW... llm.example 192.0.2.7
             rhizome ca http-name
    """  # noqa: D301 - click's mark
    if remove and not names:
        raise click.UsageError("name what is to be removed; 'rhizome ca http-name' shows them")
    wanted = (
        ChangeHttpNames(peer=peer, names=list(names), remove=remove)
        if names
        else ListHttpNames(peer=peer)
    )
    reply = trio.run(call, existing_home(home), wanted, HttpNamesReply)
    if as_json:
        print_json(reply)
    elif not reply.hosts:
        click.echo("no host may have an HTTP name: rhizome ca http-name PEER NAME")
    else:
        print_table(COLUMNS, [(host.peer_id, ", ".join(host.names)) for host in reply.hosts])
