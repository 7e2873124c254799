"""``rhizome ca issuer adopt`` at an issuer's own peer: hosts that another issuer has enrolled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from overlay.control.messages import Adopt, AdoptReply
from overlay.issuer import IssuerDesk
from overlay.node import Node
from overlay.steward import peer_of
from security.errors import Revoked
from security.hosts import with_adopted
from security.peer_id import PeerId


def adopt(node: Node, desk: IssuerDesk, command: Adopt) -> AdoptReply:
    """Takes hosts in, all or none; each shows its sealing key itself, when it comes.

    Raises:
        ConfigError: When one is no PeerId.
        SecurityError: When one is revoked, or they are too many.
        StorageError: When it cannot be stored.
    """
    before = desk.authority.hosts.keys()
    asked = {peer_of(text) for text in command.peers}
    take_over(node, desk, asked)
    return AdoptReply(adopted=sorted(asked - before), already=sorted(asked & before))


def take_over(node: Node, desk: IssuerDesk, peer_ids: Iterable[PeerId]) -> None:
    """Takes hosts into an issuer's table.

    Raises:
        SecurityError: When one is revoked, or they are too many; none is taken in then.
        StorageError: When it cannot be stored.
    """
    hosts, now_unix_s = desk.authority.hosts, node.ports.clock.unix_s()
    for peer_id in sorted(peer_ids):
        if node.revocations.revokes(peer_id):
            raise Revoked(f"{peer_id} is revoked")
        hosts = with_adopted(hosts, peer_id, now_unix_s)
    desk.store(replace(desk.authority, hosts=hosts), [])
