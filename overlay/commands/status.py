"""``rhizome status``."""

from __future__ import annotations

from collections.abc import Iterator

import click
import trio
from rich.console import Console
from rich.table import Table

from overlay.commands.options import (
    existing_home,
    home_option,
    json_option,
    print_json,
    tenant_option,
)
from overlay.control.client import call
from overlay.control.messages import GetStatus, PeerStatus, StatusReply

COLUMNS = (
    "peer",
    "address",
    "round trip",
    "known since",
    "prefixes",
    "slots",
    "queue",
    "dtype",
    "weights",
)


@click.command("status")
@tenant_option("Only members of this tenant, and what is known for it.  [default: of all]")
@home_option
@json_option
def command(tenant: str, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show the running peer and what it knows of the others.

    \b
    Example: rhizome status --json
    """  # noqa: D301 - click's mark
    reply = trio.run(call, existing_home(home), GetStatus(tenant=tenant), StatusReply)
    if as_json:
        print_json(reply)
    else:
        show(reply)


def show(status: StatusReply) -> None:
    """Prints a status for people."""
    console = Console(highlight=False, markup=False)
    console.print(f"peer      {status.peer_id}{'  (draining)' if status.draining else ''}")
    for words in warnings_of(status):
        console.print(f"          {words}", soft_wrap=True)
    console.print(f"overlay   {status.overlay_id[:16]}, tenants: {', '.join(status.tenants)}")
    console.print(f"open to   peers at {', '.join(status.addresses)}", soft_wrap=True)
    if status.http:
        console.print(f"          clients at {', '.join(status.http)}", soft_wrap=True)
    device = f" on {status.device}" if status.device else ""
    console.print(f"engine    {status.engine}{device}, policy {status.policy}", soft_wrap=True)
    console.print(f"models    {models_of(status) or 'none yet'}", soft_wrap=True)
    width = max((len(name) for name, _ in status.posture), default=0)
    for name, words in status.posture:
        console.print(f"{name:<{max(width, 9)}} {words}", soft_wrap=True, markup=False)
    console.print(
        f"load      {status.running} of {status.slots} slots, {status.queued} waiting"
        f"{cache_of(status)}"
    )
    if not status.peers:
        console.print("no other peer is up")
        return
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in COLUMNS:
        left = name in {"peer", "address"}
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "address")
    for peer in status.peers:
        table.add_row(*cells(peer))
    console.print()
    console.print(table, crop=False, soft_wrap=True)


def warnings_of(status: StatusReply) -> Iterator[str]:
    """What keeps this host from the others."""
    if status.revoked:
        yield "revoked: no other peer takes it in; let it join again with a fresh --home"
    if not status.confirmed:
        names = [f"..{peer_id[-8:]}" for peer_id in status.waits_for]
        who = f"one of {', '.join(names)}" if names else "another peer"
        yield (
            f"unconfirmed: it serves its own clients alone until {who} has told it what is "
            "revoked; a host that is gone for good is to be revoked"
        )


def cache_of(status: StatusReply) -> str:
    """How full the cache is, where its size is known."""
    if not status.total_blocks:
        return ""
    used = 100 * status.used_blocks / status.total_blocks
    return f", cache {used:.0f} % of {status.total_blocks} blocks"


def models_of(status: StatusReply) -> str:
    """Every model that can be asked for, and in what this peer computes its own."""
    named = (
        f"{name} ({status.dtypes[name]}, weights {status.variants.get(name, '-')} here)"
        if name in status.dtypes
        else name
        for name in status.models
    )
    return ", ".join(named)


def cells(peer: PeerStatus) -> tuple[str, ...]:
    """One row of the table."""
    rtt = "-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms"
    age = "-" if peer.knowledge_age_s is None else f"{peer.knowledge_age_s:.1f} s"
    slots = "-" if peer.slots is None else f"{peer.running or 0}/{peer.slots}"
    name = peer.peer_id[-8:] + (" (suspected)" if peer.suspected else "")
    queue = "-" if peer.queued is None else str(peer.queued)
    dtypes = ", ".join(peer.dtypes) or "-"
    weights = ", ".join(sorted(set(peer.variants.values()))) or "-"
    return name, peer.address, rtt, age, str(peer.prefixes), slots, queue, dtypes, weights
