"""Frames as a node's system sends them, and as nobody should."""

from __future__ import annotations

import struct

from chaos.modes.live.frames import ACK, IPV4, TCP

ADDRESSES = {name: bytes([2, 0, 0, 0, 0, number]) for number, name in enumerate("abc", start=1)}
HOSTS = {name: bytes([10, 77, 0, number]) for number, name in enumerate("abc", start=1)}
EVERYBODY = b"\xff" * 6
MULTICAST = bytes.fromhex("01005e0000fb")
ARP = b"\x08\x06"


def frame(source: str, target: str | bytes, body: bytes = b"hello", kind: bytes = IPV4) -> bytes:
    """From one node to another, or to an address."""
    to = target if isinstance(target, bytes) else ADDRESSES[target]
    return to + ADDRESSES[source] + kind + body


def segment(
    source: str,
    target: str,
    *,
    seq: int = 100,
    ack: int = 200,
    flags: int = ACK,
    data: bytes = b"",
    port: int = 40_000,
) -> bytes:
    """A TCP segment between ports ``port`` of ``a`` and 7401 of ``b``, whoever sends it."""
    ports = (port, 7401) if source < target else (7401, port)
    tcp = struct.pack("!HHIIBBHHH", *ports, seq, ack, 5 << 4, flags, 1000, 0, 0) + data
    total = 20 + len(tcp)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, total, 1, 0x4000, 64, TCP, 0, HOSTS[source], HOSTS[target]
    )
    return frame(source, target, ip + tcp)
