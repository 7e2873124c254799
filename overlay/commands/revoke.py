"""``rhizome revoke``."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import (
    existing_home,
    home_option,
    json_option,
    print_json,
    reason_option,
)
from overlay.control.client import call
from overlay.control.messages import ListRevocations, RevocationsReply, Revoke, RevokeReply
from overlay.revocation.subject import SubjectKind
from overlay.units import show_time


@click.command("revoke")
@click.argument("subject", required=False)
@click.option("--list", "listed", is_flag=True, help="Show what is revoked, on any host.")
@click.option(
    "--as",
    "kind",
    type=click.Choice([kind.value for kind in SubjectKind]),
    help="What SUBJECT is, where this host does not know it.",
)
@reason_option
@click.option("--yes", is_flag=True, help="Also this host itself, or an issuer.")
@home_option
@json_option
def command(
    subject: str | None,
    kind: str | None,
    reason: str,
    home: str | None,
    *,
    listed: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Withdraw a peer, token, ticket or issuer, for good. Runs beside an issuer's peer.

    SUBJECT is a PeerId or its last letters, a ticket, a token, or the id of one. Every peer that
    can be reached enforces it within seconds, on open connections too; the others when they are
    back. There is no way to take it back.

    \b
    Example: rhizome revoke 12D3KooWAe1yg9J9pfPv2S41Pga427XuSk1zy385TMRiNrokwNH
    Example: rhizome revoke wkNHmQ2v --reason "stolen laptop"
    """  # noqa: D301 - click's mark
    if listed == (subject is not None):
        raise click.UsageError("name what to revoke, or give --list alone")
    if subject is None:
        show(trio.run(call, existing_home(home), ListRevocations(), RevocationsReply), as_json)
        return
    said = SubjectKind(kind) if kind is not None else None
    revoke(subject, said, reason, home, unknown=kind is not None, sure=yes, as_json=as_json)


def show(reply: RevocationsReply, as_json: bool) -> None:  # noqa: FBT001 - of one caller
    """Prints what is revoked, newest first."""
    if as_json:
        print_json(reply)
        return
    for each in reply.revocations:
        click.echo(f"{show_time(each.since_unix_s)}  {each.id}  {each.reason}".rstrip())
    if reply.total > len(reply.revocations):
        click.echo(f"and {reply.total - len(reply.revocations)} more", err=True)


def revoke(
    subject: str,
    kind: SubjectKind | None,
    reason: str,
    home: str | None,
    *,
    unknown: bool,
    sure: bool,
    as_json: bool,
) -> None:
    """Asks the running peer, and prints what it says."""
    wanted = Revoke(subject=subject, kind=kind, unknown=unknown, reason=reason, sure=sure)
    reply = trio.run(call, existing_home(home), wanted, RevokeReply)
    if as_json:
        print_json(reply)
        return
    named = f" ({reply.name})" if reply.name else ""
    what = f"{reply.kind} {reply.id}{named}"
    if reply.already:
        click.echo(f"{what} was revoked before")
    else:
        told = "no other peer is up" if not reply.peers else f"{reply.peers} peers are being told"
        click.echo(f"{what} is revoked; {told}")
