"""``rhizome token create``."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import trio

from overlay.commands.options import (
    duration_of,
    existing_home,
    home_option,
    json_option,
    print_json,
    tenant_option,
)
from overlay.control.client import call
from overlay.control.messages import CreateToken, TokenReply
from overlay.request import Scope


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
    until = datetime.fromtimestamp(reply.expires_unix_s, UTC)
    click.echo(f"base URL  {reply.base_url}")
    click.echo(f"API key   {reply.api_key}")
    click.echo(
        f"# tenant {reply.tenant}, good until {until:%Y-%m-%d}, for {', '.join(reply.scopes)}; "
        "it is not shown again",
        err=True,
    )
