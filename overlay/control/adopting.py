"""``rhizome ca issuer adopt`` at an issuer's own peer: hosts that another issuer has enrolled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from overlay.control.messages import Adopt, AdoptReply
from overlay.issuer import IssuerDesk
from overlay.node import Node
from overlay.steward import peer_of
from security.errors import Revoked, UnknownHost
from security.hosts import with_adopted
from security.peer_id import PeerId


def adopt(node: Node, desk: IssuerDesk, command: Adopt) -> AdoptReply:
    """Takes hosts in, all or none; their sealing keys stand on rosters that this host can read.

    Raises:
        ConfigError: When one is no PeerId.
        SecurityError: When one is revoked, or on no roster that is known here.
        StorageError: When it cannot be stored.
    """
    before = desk.authority.hosts.keys()
    sealing = {peer_of(text): b"" for text in command.peers}
    sealing = {peer_id: _sealing_key(node, peer_id) for peer_id in sealing}
    take_over(node, desk, sealing)
    return AdoptReply(
        adopted=sorted(sealing.keys() - before), already=sorted(sealing.keys() & before)
    )


def take_over(node: Node, desk: IssuerDesk, sealing: Mapping[PeerId, bytes]) -> None:
    """Takes hosts into an issuer's table; ``sealing`` are their sealing keys.

    Raises:
        SecurityError: When one is revoked, or they are too many; none is taken in then.
        StorageError: When it cannot be stored.
    """
    hosts, now_unix_s = desk.authority.hosts, node.ports.clock.unix_s()
    for peer_id, key in sorted(sealing.items()):
        if node.revocations.revokes(peer_id):
            raise Revoked(f"{peer_id} is revoked")
        hosts = with_adopted(hosts, peer_id, key, now_unix_s)
    desk.store(replace(desk.authority, hosts=hosts), [])


def _sealing_key(node: Node, peer_id: PeerId) -> bytes:
    found = {epoch.members[peer_id] for epoch in node.tenants if peer_id in epoch.members}
    if len(found) != 1:
        raise UnknownHost(
            f"{peer_id} is on no roster that this host can read, or with several keys: put both "
            "hosts into one tenant of the issuer that keeps it, and adopt it then"
        )
    return found.pop()
