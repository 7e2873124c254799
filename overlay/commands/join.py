"""``rhizome join``."""

from __future__ import annotations

from collections.abc import Sequence

import click
import trio

from overlay.address import Address
from overlay.commands.options import chosen_home, home_option, read_stdin
from overlay.config import config_template
from overlay.errors import HomeError, OverlayError, RequestError
from overlay.home import Home, HomeFile
from overlay.identity import kept_keys, store_enrolment, store_identity
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.enrolment import enrol
from security.enrolment import Admission, make_join_request, open_admission
from security.errors import MalformedObject, SecurityError, UntrustedIssuer
from security.hosts import HostRole
from security.keys import HostKeys
from security.root_bundle import ROOTS_REQUEST, Roots, decode_bundles
from security.ticket import Ticket

TIMEOUT_S = 10.0
TICKET_CHARS_MAX = 1 << 16


@click.command("join")
@click.argument("ticket")
@home_option
def command(ticket: str, home: str | None) -> None:
    """Join the overlay that TICKET invites to; - reads it from standard input.

    \b
    Example: rhizome join rhz1…
    """  # noqa: D301 - click's mark
    text = read_stdin(TICKET_CHARS_MAX) if ticket == "-" else ticket
    parsed = Ticket.parse(text.strip())
    clock = SystemClock()
    parsed.check_dates(clock.unix_s())
    folder = Home.create(chosen_home(home))
    with folder.locked():
        check_free(folder, parsed)
        keys = kept_keys(folder, SystemEntropy())
        admission = trio.run(redeem, parsed, keys, clock)
        store_enrolment(folder, parsed.addresses)
        store_identity(folder, keys, admission, clock.unix_s())
        folder.write_config_template(config_template())
    names = ", ".join(sorted(tenant.name for tenant in admission.tenants))
    click.echo(f"joined overlay {parsed.overlay_id[:16]} in {folder.path}, tenants: {names}")
    if parsed.role is HostRole.ISSUER:
        click.echo("become an issuer: rhizome ca issuer request")
    click.echo("start this host:  rhizome peer")


def check_free(home: Home, ticket: Ticket) -> None:
    """Refuses a folder that is of another overlay, or holds a host already.

    The folder is claimed only with the identity: a ticket that fails leaves it free for another.
    """
    if home.overlay_id() is not None:
        home.claim(ticket.overlay_id)
    if home.read(HomeFile.LEAF) is not None:
        raise HomeError(
            f"{home.path} holds a host of this overlay already: start it with 'rhizome peer'"
        )


async def ask(address: Address, root: bytes, request: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Asks one enrolment listener.

    Before anything else it is asked for its root bundles, so that a joiner begins with what is in
    force there: who holds the key of a root that was let go cannot tell it an earlier bundle
    first. A listener whose root was changed since the ticket was made is asked for the bundles
    that lead on from the ticket's as nobody in particular, and once more when it is believed.

    Returns:
        The answer, and the root bundles that were told.

    Raises:
        SecurityError, OverlayError: As ``enrol``.
    """
    roots = Roots.of(root)
    try:
        roots = await _told(address, roots, roots.in_force)
    except UntrustedIssuer:
        after = await _told(address, roots, None)
        if after == roots:
            raise
        roots = await _told(address, after, after.in_force)
    answer = await enrol(address, roots.in_force, request, timeout_s=TIMEOUT_S)
    return answer, roots.bundles


async def _told(address: Address, roots: Roots, believed: Sequence[bytes] | None) -> Roots:
    """These roots after the bundles that a listener tells.

    One of the version before knows of none, and answers or refuses as it does to any nonsense.
    """
    try:
        bundles = decode_bundles(await enrol(address, believed, ROOTS_REQUEST, timeout_s=TIMEOUT_S))
    except (RequestError, MalformedObject):
        return roots
    return roots.learn(bundles)


async def redeem(ticket: Ticket, keys: HostKeys, clock: SystemClock) -> Admission:
    """Tries every address of the ticket until one brings an admission that the issuer has signed.

    Nobody signs a refusal, and any host of the overlay may be at an address: so one that refuses,
    or answers with what is no admission, keeps nobody from asking the next.

    Raises:
        HomeError: When no address brings one. The message begins with the first refusal, where
            there was one, and has each address's failure where they differ.
    """
    request = make_join_request(keys, ticket)
    refusal = ""
    failures: dict[str, str] = {}
    for text in ticket.addresses:
        try:
            answer, bundles = await ask(Address.parse(text), ticket.root, request)
        except RequestError as error:
            failures[text] = str(error)
            refusal = refusal or f"refused by {text}: {error}"
        except (OverlayError, SecurityError) as error:
            failures[text] = str(error)
        else:
            try:
                return open_admission(answer, ticket, keys, clock.unix_s(), bundles)
            except SecurityError as error:
                failures[text] = str(error)
                refusal = refusal or str(error)
    each = "; ".join(f"{text}: {words}" for text, words in failures.items())
    if not refusal:
        words = "no address of the ticket answers; is the issuer's peer running?"
        raise HomeError(f"{words} {each}")
    raise HomeError(f"{refusal} ({each})" if len(set(failures.values())) > 1 else refusal)
