"""``rhizome ca issuer request``, ``add``, ``install``, ``adopt`` and ``list``: several issuers."""

from __future__ import annotations

import click
import trio

from overlay.commands.options import (
    chosen_home,
    existing_home,
    home_option,
    json_option,
    print_json,
    read_stdin,
)
from overlay.commands.passphrase import passphrase_of, passphrase_option
from overlay.commands.root_files import signing_file
from overlay.commands.tables import print_table
from overlay.control.client import call
from overlay.control.messages import Adopt, AdoptReply
from overlay.home import Home
from overlay.issuers import (
    IssuerLine,
    answer,
    check_request,
    install,
    known_issuers,
    request_here,
)
from overlay.root import authority_in, day, ends
from overlay.system import SystemClock, SystemEntropy
from security.certificate import RootKey
from security.issuer_request import WORD_CHARS_MAX
from security.root_key import open_root

COLUMNS = ("issuer", "certified until", "what")


@click.command("request")
@home_option
def request_command(home: str | None) -> None:
    """Print this host's request to become an issuer, for 'rhizome ca issuer add'.

    Stop this host's peer first. Run it again for the same request; on an issuer's host it asks to
    have that issuer certified again.

    \b
    Example: rhizome ca issuer request > request.txt
    """  # noqa: D301 - click's mark
    folder = existing_home(home)
    with folder.locked():
        text, issuer_id = request_here(folder, SystemEntropy())
    click.echo(text)
    click.echo(
        f"# issuer {issuer_id}: compare that where the root's key is\n"
        "# there: rhizome ca issuer add REQUEST, and here: rhizome ca issuer install ANSWER",
        err=True,
    )


@click.command("add")
@click.argument("request")
@click.option("--root-key", metavar="FILE", default=None, help="The root's key.  [default: here]")
@passphrase_option("File whose first line is the passphrase.  [default: it is asked for]")
@click.option(
    "--any-host",
    is_flag=True,
    help="Add also a host that was not invited with '--role issuer' by this host's issuer.",
)
@home_option
def add_command(
    request: str,
    root_key: str | None,
    passphrase_file: str | None,
    any_host: bool,  # noqa: FBT001 - click's
    home: str | None,
) -> None:
    """Have the root sign the issuer of REQUEST ('-': standard input), and print the answer.

    Runs where the root's key is, which need be no host of the overlay: with --root-key nothing else
    is read. What the same host asks for again is certified for another ten years.

    \b
    Example: rhizome ca issuer add --root-key /media/safe/root.key - < request.txt > answer.txt
    """  # noqa: D301 - click's mark
    text = _word(request)
    here = Home(chosen_home(home)) if root_key is None or chosen_home(home).exists() else None
    root = _root(here, root_key, passphrase_file)
    asked = check_request(text, root, here, any_host=any_host)
    clock = SystemClock()
    click.echo(f"# host   {asked.peer_id}", err=True)
    click.echo(f"# issuer {asked.issuer_id}: that host's 'request' has shown the same", err=True)
    click.echo(answer(root, asked, clock, SystemEntropy()))
    click.echo("# on that host: rhizome ca issuer install ANSWER", err=True)


@click.command("install")
@click.argument("answer_text", metavar="ANSWER")
@home_option
def install_command(answer_text: str, home: str | None) -> None:
    """Make this host an issuer's with the ANSWER ('-': standard input) to its request.

    Stop this host's peer first. From its next start on it invites, keeps tenants, makes tokens and
    revokes.

    \b
    Example: rhizome ca issuer install - < answer.txt
    """  # noqa: D301 - click's mark
    folder = existing_home(home)
    with folder.locked():
        made = install(folder, _word(answer_text), SystemClock(), SystemEntropy())
    click.echo(f"issuer {made.issuer_id[:16]} is certified until {ends(made)}")
    click.echo("start this host:  rhizome peer")


@click.command("adopt")
@click.argument("peers", metavar="PEER...", nargs=-1, required=True)
@home_option
@json_option
def adopt_command(peers: tuple[str, ...], home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Take hosts in that another issuer has enrolled. Runs beside this issuer's peer.

    This issuer renews their certificates from the moment on at which the other one is revoked or
    has ended. Name whole PeerIds that you know: a thief of the other issuer's key may have enrolled
    hosts of his own.

    \b
    Example: rhizome ca issuer adopt 12D3KooWAe1yg9J9pfPv2S41Pga427XuSk1zy385TMRiNrokwNH
    """  # noqa: D301 - click's mark
    reply = trio.run(call, existing_home(home), Adopt(peers=list(peers)), AdoptReply)
    if as_json:
        print_json(reply)
        return
    for peer_id in reply.adopted:
        click.echo(f"adopted  {peer_id}")
    for peer_id in reply.already:
        click.echo(f"known    {peer_id}")


@click.command("list")
@home_option
@json_option
def list_command(home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """List every issuer that this host knows, revoked ones too.

    \b
    Example: rhizome ca issuer list --json
    """  # noqa: D301 - click's mark
    lines = known_issuers(existing_home(home), SystemClock().unix_s())
    if as_json:
        print_json(lines)
        return
    print_table(
        COLUMNS, [(each.issuer_id, day(each.ends_unix_s), words_of(each)) for each in lines]
    )


def words_of(line: IssuerLine) -> str:
    """What an issuer is to this host."""
    hosts = "1 host" if line.hosts == 1 else f"{line.hosts} hosts"
    words = {
        "revoked": line.revoked,
        "ended": line.ended,
        f"of this host, keeps {hosts}": line.mine,
        "made this host's certificate": line.renews_me,
    }
    return ", ".join(word for word, holds in words.items() if holds)


def _word(text: str) -> str:
    return read_stdin(WORD_CHARS_MAX) if text == "-" else text


def _root(here: Home | None, root_key: str | None, passphrase_file: str | None) -> RootKey:
    """The root's key: in the issuer's state, in a file of the folder, or where one is named."""
    if root_key is None:
        assert here is not None
        root = authority_in(here).root
        if isinstance(root, RootKey):
            return root
    return open_root(signing_file(here, root_key), passphrase_of(passphrase_file, twice=False))
