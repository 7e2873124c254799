"""``rhizome tenant``."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import existing_home, home_option, json_option, print_json
from overlay.control.client import call
from overlay.control.tenant_messages import (
    AddMember,
    CreateTenant,
    ListTenants,
    RemoveMember,
    RotateTenant,
    TenantCommand,
    TenantReply,
    TenantsReply,
)


@click.group("tenant")
def command() -> None:
    """Tenants: who shares prompts, answers and cached prefixes with whom.

    All but 'list' run beside the issuer's peer.
    """


@command.command("list")
@home_option
@json_option
def list_(home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show this host's tenants, on the issuer's host all that it keeps.

    \b
    Example: rhizome tenant list --json
    """  # noqa: D301 - click's mark
    reply = trio.run(call, existing_home(home), ListTenants(), TenantsReply)
    if as_json:
        print_json(reply)
        return
    for tenant in reply.tenants:
        show(tenant)
    if not reply.tenants:
        click.echo("this host belongs to no tenant")


@command.command("create")
@click.argument("name")
@click.option("--public", is_flag=True, help="Every host is a member, now and when it joins.")
@click.option("--empty", is_flag=True, help="Without this host as its first member.")
@home_option
@json_option
def create(name: str, public: bool, empty: bool, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Make a tenant, with this host as its first member.

    What clients ask in a public tenant may be seen, and its cached prefixes used, by every
    host. Nothing is put into it but what is asked with a token of it, or with --tenant NAME.

    \b
    Example: rhizome tenant create research
             rhizome tenant create public --public
    """  # noqa: D301 - click's mark
    done(home, CreateTenant(name=name, public=public, empty=empty), "made", as_json=as_json)


@command.command("add")
@click.argument("name")
@click.argument("peer")
@home_option
@json_option
def add(name: str, peer: str, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Put the host PEER, which this issuer has enrolled, on the roster of tenant NAME.

    \b
    Example: rhizome tenant add research 12D3KooW...
    """  # noqa: D301 - click's mark
    done(home, AddMember(tenant=name, peer=peer), "has the member", as_json=as_json)


@command.command("remove")
@click.argument("name")
@click.argument("peer")
@home_option
@json_option
def remove(name: str, peer: str, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Take the host PEER off the roster of tenant NAME.

    The tenant gets a new key that the host does not get; what is cached stays. Where the host's
    keys may be in wrong hands, run 'rhizome tenant rotate NAME --hard' after it.

    \b
    Example: rhizome tenant remove research 12D3KooW...
    """  # noqa: D301 - click's mark
    done(home, RemoveMember(tenant=name, peer=peer), "is without the host", as_json=as_json)


@command.command("rotate")
@click.argument("name")
@click.option("--hard", is_flag=True, help="For a compromise: all that is cached is void too.")
@home_option
@json_option
def rotate(name: str, hard: bool, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Begin a new epoch of tenant NAME: a new key for its members.

    \b
    Example: rhizome tenant rotate research
             rhizome tenant rotate research --hard
    """  # noqa: D301 - click's mark
    done(home, RotateTenant(tenant=name, hard=hard), "is rotated", as_json=as_json)


def done(home: str | None, wanted: TenantCommand, words: str, *, as_json: bool) -> None:
    """Has the running peer do it, and says what became of it."""
    reply = trio.run(call, existing_home(home), wanted, TenantReply)
    if as_json:
        print_json(reply)
        return
    click.echo(
        f"tenant {reply.name} {words}: epoch {reply.epoch}, version {reply.version}, "
        f"{len(reply.members)} members"
    )


def show(tenant: TenantReply) -> None:
    """Prints a tenant for people."""
    notes = [
        *(["public"] if tenant.public else []),
        *(["kept here"] if tenant.kept else []),
        *([] if tenant.member else ["this host is no member"]),
    ]
    said = f"  ({', '.join(notes)})" if notes else ""
    click.echo(f"{tenant.name}  epoch {tenant.epoch}, version {tenant.version}{said}")
    for member in tenant.members:
        click.echo(f"  {member}")
