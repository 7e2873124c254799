"""What a starting peer says of itself: one block, so that nobody has to guess what is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from overlay.address import Address
from overlay.config import PeerConfig
from overlay.control.messages import StatusReply
from overlay.node import Node

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings:
    """What a peer listens on beside the overlay port.

    Args:
        interfaces: Names of the network interfaces in use.
        http: Base URLs of the HTTP API.
        http_in_clear: Whether other hosts reach it without TLS.
        enrolment: Where tickets are redeemed, on an issuer.
        socket: Where the commands of this host ask.
    """

    interfaces: Sequence[str]
    http: Sequence[str]
    http_in_clear: bool
    enrolment: Sequence[Address]
    socket: Path


def posture(node: Node, status: StatusReply, config: PeerConfig, openings: Openings) -> str:
    """The block that ``rhizome peer`` prints."""
    lines = [
        ("peer", node.peer_id),
        (
            "overlay",
            f"{status.overlay_id[:16]}, tenants: {', '.join(status.tenants) or 'none yet'}",
        ),
        ("interfaces", ", ".join(openings.interfaces) or "those of the addresses below"),
        ("discovery", discovery(config, openings.interfaces)),
        ("engine", status.engine),
        *engine_lines(node),
        ("policy", status.policy),
        *open_lines(node, openings),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def discovery(config: PeerConfig, interfaces: Sequence[str]) -> str:
    """How this peer finds others."""
    ways = [f"mDNS on {', '.join(interfaces)}"] if config.mdns else []
    ways += [f"bootstrap {', '.join(map(str, config.bootstrap))}"] if config.bootstrap else []
    return "; ".join(ways) or "off: others are found by their own (--mdns, --bootstrap)"


def engine_lines(node: Node) -> list[tuple[str, str]]:
    """Model, device and cache, where the engine has them."""
    capabilities, load = node.ports.engine.capabilities(), node.ports.engine.load()
    lines = [
        ("model", f"{model.name}, context of {model.context_tokens} tokens")
        for model in capabilities.models
    ]
    if capabilities.device is not None:
        lines.append(("device", capabilities.device))
    lines += node.engine_posture()
    if load.total_blocks:
        size = capabilities.cache_bytes
        memory = "" if size is None else f", {size / MIB:.0f} MiB"
        lines.append(("cache", f"{load.total_blocks} blocks of 16 tokens{memory}"))
    return lines


def open_lines(node: Node, openings: Openings) -> list[tuple[str, str]]:
    """What is open to whom."""
    overlay = ", ".join(str(address) for address in node.addresses)
    opened = [f"{overlay} to peers of this overlay, and to clients with a token"]
    if openings.enrolment:
        where = ", ".join(str(address) for address in openings.enrolment)
        opened.append(f"{where} to holders of a ticket")
    opened.append(f"{openings.socket} to this host's owner")
    who = "to every host, in clear" if openings.http_in_clear else "to clients with a token"
    opened += [f"{url} {who}" for url in openings.http]
    return [("" if number else "open", words) for number, words in enumerate(opened)]
