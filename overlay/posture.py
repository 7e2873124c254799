"""What a starting peer says of itself: one block, so that nobody has to guess what is open."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.address import Address
from overlay.control.messages import StatusReply
from overlay.node import Node


def posture(
    node: Node,
    status: StatusReply,
    *,
    interfaces: Sequence[str],
    http: Sequence[str],
    http_in_clear: bool,
    enrolment: Sequence[Address],
) -> str:
    """The block that ``rhizome peer`` prints.

    Args:
        node: The running peer.
        status: Its status.
        interfaces: Names of the network interfaces in use.
        http: Base URLs of the HTTP API.
        http_in_clear: Whether other hosts reach it without TLS.
        enrolment: Where tickets are redeemed, on an issuer.
    """
    overlay = ", ".join(str(address) for address in node.addresses)
    lines = [
        ("peer", node.peer_id),
        (
            "overlay",
            f"{status.overlay_id[:16]}, tenants: {', '.join(status.tenants) or 'none yet'}",
        ),
        ("interfaces", ", ".join(interfaces) or "those of the addresses below"),
        ("engine", status.engine),
        ("cache", f"{status.total_blocks} blocks of 16 tokens"),
        ("policy", status.policy),
        ("open", f"{overlay} to peers of this overlay, and to clients with a token"),
    ]
    if enrolment:
        where = ", ".join(str(address) for address in enrolment)
        lines.append(("", f"{where} to holders of a ticket"))
    for url in http:
        who = "to every host, in clear" if http_in_clear else "to clients with a token"
        lines.append(("", f"{url} {who}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
