"""Ethernet frames with IPv4 and TCP inside, as far as a switch looks into them (RFC 791, 9293).

Whatever is too short, too long or of another kind is no segment: it is carried or dropped by its
addresses alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

ETHERNET_BYTES = 14
FRAME_BYTES_MAX = 2048
"""Above what an interface with the usual 1500 bytes ever sends."""

ADDRESS_BYTES = 6
GROUP_BIT = 1
"""Of an address's first byte: broadcast and multicast."""

IPV4 = b"\x08\x00"
TCP = 6
FIN, SYN, RST, ACK = 1, 2, 4, 16
_IP, _TCP, _PSEUDO = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!HHIIBBHHH"), "!4s4sBBH"
_FRAGMENT = 0x3FFF
_DONT_FRAGMENT = 0x4000
_HOPS = 64
_SEQ = 1 << 32

End = tuple[bytes, int]
"""Address and port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One TCP segment. ``size`` counts in sequence numbers: bytes, and one each for SYN and FIN."""

    source: End
    target: End
    seq: int
    ack: int
    flags: int
    size: int


def segment_of(frame: bytes) -> Segment | None:
    """The segment in a frame; None where there is none, or only a part of one."""
    if len(frame) < ETHERNET_BYTES + _IP.size + _TCP.size or frame[12:14] != IPV4:
        return None
    version, _, total, _, part, _, protocol, _, source, target = _IP.unpack_from(
        frame, ETHERNET_BYTES
    )
    ip_bytes = (version & 15) * 4
    begin, end = ETHERNET_BYTES + ip_bytes, ETHERNET_BYTES + total
    too_short = ip_bytes < _IP.size or not begin + _TCP.size <= end <= len(frame)
    if version >> 4 != 4 or protocol != TCP or part & _FRAGMENT or too_short:
        return None
    source_port, target_port, seq, ack, offset, flags, *_ = _TCP.unpack_from(frame, begin)
    data_bytes = end - begin - (offset >> 4) * 4
    if offset >> 4 < _TCP.size // 4 or data_bytes < 0:
        return None
    return Segment(
        source=(source, source_port),
        target=(target, target_port),
        seq=seq,
        ack=ack,
        flags=flags,
        size=data_bytes + bool(flags & SYN) + bool(flags & FIN),
    )


def reset_to(frame: bytes, segment: Segment) -> bytes:
    """A reset that whoever sent this frame believes, as if the far end had answered with it.

    A sender takes a reset whose number is the next that it expects (RFC 5961), which is what its
    own segment acknowledges.
    """
    (here, here_port), (there, there_port) = segment.source, segment.target
    ack = (segment.seq + segment.size) % _SEQ
    tcp = _TCP.pack(there_port, here_port, segment.ack, ack, 5 << 4, RST | ACK, 0, 0, 0)
    pseudo = struct.pack(_PSEUDO, there, here, 0, TCP, len(tcp))
    tcp = tcp[:16] + _checksum(pseudo + tcp) + tcp[18:]
    total = _IP.size + len(tcp)
    ip = _IP.pack(0x45, 0, total, 0, _DONT_FRAGMENT, _HOPS, TCP, 0, there, here)
    ip = ip[:10] + _checksum(ip) + ip[12:]
    return frame[ADDRESS_BYTES : 2 * ADDRESS_BYTES] + frame[:ADDRESS_BYTES] + IPV4 + ip + tcp


def _checksum(data: bytes) -> bytes:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def flipped(frame: bytes, rng: Random) -> bytes:
    """A frame with one bit of its IP packet wrong, which checksums of IP, TCP and UDP find.

    Others stay: ARP has no checksum, and on a cable Ethernet's own would have found it.
    """
    if len(frame) <= ETHERNET_BYTES or frame[12:14] != IPV4:
        return frame
    bit = rng.randrange(ETHERNET_BYTES * 8, len(frame) * 8)
    changed = bytearray(frame)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
