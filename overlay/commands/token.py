"""``rhizome token create``, ``list`` and ``revoke``."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import (
    duration_of,
    existing_home,
    home_option,
    json_option,
    print_json,
    reason_option,
    tenant_option,
)
from overlay.commands.revoke import revoke as revoke_subject
from overlay.commands.tables import print_table
from overlay.control.client import call
from overlay.control.messages import CreateToken, ListTokens, TokenReply, TokensReply, TokenStatus
from overlay.request import Scope
from overlay.revocation.subject import SubjectKind
from overlay.units import show_time

COLUMNS = ("id", "tenant", "name", "made", "good until")


@click.group("token")
def command() -> None:
    """Bearer tokens for clients of the HTTP API and the peer client."""


@command.command("create")
@tenant_option("Tenant that the client acts for.  [default: the only one, or 'default']")
@click.option(
    "--name",
    default="client",
    show_default=True,
    metavar="NAME",
    help="What the token is for, to know it again.",
)
@click.option(
    "--expires", default="90d", show_default=True, metavar="DURATION", help="How long it is good."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="infer|status|admin",
    default=[Scope.INFER.value],
    show_default="infer",
    help="What it may do; repeat for more. infer: have requests run. status: see how its own "
    "tenant is served. admin: see that of all.",
)
@home_option
@json_option
def create(
    tenant: str,
    name: str,
    expires: str,
    scopes: tuple[str, ...],
    home: str | None,
    as_json: bool,  # noqa: FBT001 - click's
) -> None:
    """Print a base URL and a key for any OpenAI-compatible client. Runs beside the issuer's peer.

    \b
    Example: rhizome token create --tenant default --name open-webui --expires 90d
    """  # noqa: D301 - click's mark
    wanted = CreateToken(
        tenant=tenant,
        name=name,
        expires_s=duration_of("--expires", expires),
        scopes=scopes,
    )
    reply = trio.run(call, existing_home(home), wanted, TokenReply)
    if as_json:
        print_json(reply)
        return
    click.echo(f"base URL  {reply.base_url}")
    click.echo(f"API key   {reply.api_key}")
    click.echo(
        f"# tenant {reply.tenant}, good until {show_time(reply.expires_unix_s)}, "
        f"for {', '.join(reply.scopes)}; it is not shown again\n"
        f"# withdraw it with: rhizome token revoke {reply.token_id}",
        err=True,
    )


@command.command("list")
@home_option
@json_option
def list_(home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show the tokens that this issuer has made and that have not ended; never the keys.

    \b
    Example: rhizome token list --json
    """  # noqa: D301 - click's mark
    reply = trio.run(call, existing_home(home), ListTokens(), TokensReply)
    if as_json:
        print_json(reply)
        return
    if not reply.tokens:
        click.echo("no token is good: rhizome token create")
        return
    print_table(COLUMNS, map(_cells, reply.tokens))


@command.command("revoke")
@click.argument("token")
@reason_option
@home_option
@json_option
def revoke(token: str, reason: str, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Withdraw a token, for good: TOKEN is its id, as 'rhizome token list' shows it, or itself.

    \b
    Example: rhizome token revoke 5f3a0c5d8f6e4d7bb1a2c3d4e5f60718
    """  # noqa: D301 - click's mark
    kind = SubjectKind.TOKEN
    revoke_subject(token, kind, reason, home, unknown=False, sure=False, as_json=as_json)


def _cells(token: TokenStatus) -> tuple[str, ...]:
    good = "revoked" if token.revoked else show_time(token.expires_unix_s)
    return token.token_id, token.tenant, token.name, show_time(token.issued_unix_s), good
