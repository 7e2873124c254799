"""The far end of a connection, as its certificate and its HELLO have shown it."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.address import Address
from overlay.transport.hello import Hello
from security.peer_id import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """The far end. ``peer_id`` and ``leaf`` are None for a client.

    ``clock_ahead_s`` is its clock less ours when its HELLO came, the way of the HELLO included.
    """

    peer_id: PeerId | None
    hello: Hello
    leaf: bytes | None
    issuer: bytes | None
    address: Address
    clock_ahead_s: float
