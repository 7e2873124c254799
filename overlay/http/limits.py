"""Limits of the HTTP face, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one client, and all of them together, can hold.

    Args:
        header_bytes: Request line and headers; nginx takes 32 KiB, a bearer token is 0.5 KiB.
        body_bytes: A 128k-token prompt is about half of this.
        header_s: From the first byte (or the connection's start) to the end of the headers.
        body_s: For the whole body.
        idle_s: Between two requests of a kept connection.
        write_s: A client that reads nothing for so long is gone.
        linger_s: How long a refused client's further bytes are taken, so that it reads why; nginx
            has 30 s.
        linger_bytes: How many of them; ten images in a chat.
        connections: All together; more are closed at once.
        connections_per_address: Of those, from one address that is not this host's own, so that no
            host takes all of them; a proxy in front of many users needs one for each request.
    """

    header_bytes: int = 16 << 10
    body_bytes: int = 1 << 20
    header_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 60.0
    write_s: float = 30.0
    linger_s: float = 5.0
    linger_bytes: int = 16 << 20
    connections: int = 256
    connections_per_address: int = 128
