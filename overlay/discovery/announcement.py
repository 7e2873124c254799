"""What a peer says about itself on the LAN, and what it takes from others: DNS-SD records.

One service instance for each port, under a random label; the TXT record holds a version, the
PeerId and the beginning of the overlay's id, nothing about tenants or models. Anybody on the LAN
can send such records, so they are hints: bounded, checked for form, and believed for nothing but
where to dial. (RFC 6763; libp2p's mDNS for the random label.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from overlay.address import Address
from overlay.errors import ConfigError
from overlay.ports import PeerHint
from security.errors import MalformedIdentity
from security.peer_id import PeerId, parse_peer_id

SERVICE_TYPE = "_rhizome._tcp.local."
TXT_VERSION = b"1"
OVERLAY_CHARS = 16
"""Enough to tell the overlays of one LAN apart; the handshake compares whole ids."""

ADDRESSES_MAX = 16
"""More than any host of a LAN has; further ones of a hint are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One instance to announce: all addresses that share a port."""

    port: int
    hosts: tuple[str, ...]
    txt: Mapping[bytes, bytes]


def announcements(
    peer_id: PeerId, overlay_id: str, addresses: Sequence[Address]
) -> tuple[Announcement, ...]:
    """What to announce for these addresses, one for each port, sorted by port.

    Loopback is told only where there is nothing else: to another host it would mean itself.
    """
    told = [address for address in addresses if not address.is_loopback] or addresses
    txt = {b"v": TXT_VERSION, b"id": peer_id.encode(), b"o": overlay_id[:OVERLAY_CHARS].encode()}
    ports: dict[int, list[str]] = {}
    for address in told:
        ports.setdefault(address.port, []).append(address.host.partition("%")[0])
    return tuple(
        Announcement(port=port, hosts=tuple(dict.fromkeys(hosts)), txt=txt)
        for port, hosts in sorted(ports.items())
        if port
    )


class Reader:
    """Turns records from the LAN into hints for one peer."""

    def __init__(self, peer_id: PeerId, overlay_id: str, ours: Sequence[Address]) -> None:
        """Reads for a peer.

        Args:
            peer_id: ours; our own records are no hint.
            overlay_id: ours; other overlays on the LAN are nothing to dial.
            ours: our addresses: a peer on loopback can reach only loopback, any other must not
                be sent to its own loopback.
        """
        self._peer_id = peer_id
        self._overlay = overlay_id[:OVERLAY_CHARS].encode()
        self._on_loopback = any(address.is_loopback for address in ours)
        self._on_network = any(not address.is_loopback for address in ours)

    def read(
        self, txt: Mapping[bytes, bytes | None], hosts: Iterable[str], port: int | None
    ) -> PeerHint | None:
        """A hint, or None where the records are malformed or lead nowhere."""
        if txt.get(b"v") != TXT_VERSION or txt.get(b"o") != self._overlay or not port:
            return None
        try:
            peer_id = parse_peer_id((txt.get(b"id") or b"").decode("ascii"))
        except (UnicodeDecodeError, MalformedIdentity):
            return None
        addresses = tuple(dict.fromkeys(self._addresses(hosts, port)))[:ADDRESSES_MAX]
        if peer_id == self._peer_id or not addresses:
            return None
        return PeerHint(peer_id=peer_id, addresses=addresses)

    def _addresses(self, hosts: Iterable[str], port: int) -> Iterable[Address]:
        for host in hosts:
            try:
                address = Address(host, port)
            except ConfigError:
                continue
            if self._on_loopback if address.is_loopback else self._on_network:
                yield address
