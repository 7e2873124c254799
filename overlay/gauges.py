"""What ``/metrics`` shows of a running peer beside its requests."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overlay.node import Node


def show_gauges(node: Node) -> None:
    """Has a node's metrics show what it is made of."""
    gauge = node.metrics.gauge
    gauge("peers_alive", "Peers that are up", lambda: len(node.peers.up()))
    gauge("confirmed", "1 once this peer knows who is revoked", node.confirmation.event.is_set)
    gauge("revocations", "Statements known", lambda: len(node.revocations.statements))
    gauge("digest_age_seconds", "Age of the oldest digest in use", node.knowledge.oldest_age_s)
    gauge("gossip_bytes_sent", "Gossip messages sent, bytes", lambda: node.knowledge.sent_bytes)
    gauge("certificate_left_seconds", "To the end of this host's own", node.renewer.left_s)
    node.metrics.counts("renewals", "Tries to renew this host's certificate", node.renewer.counts)
    gauge("open_requests", "Requests under way here", lambda: node.ingress.open_requests)
    counts, served = node.metrics.counts, node.forwards.counters
    counts("served_forwards", "Forwards that reached this peer", lambda: asdict(served))
    counts(
        "gossip_objects",
        "Records, heads and frames that came in",
        lambda: gossip_counts(node),
    )
    counts(
        "limited_requests",
        "Requests refused by a limit of their token or tenant",
        lambda: dict(node.quotas.refused),
    )
    # A simulated transport counts nothing.
    connections = getattr(node.ports.transport, "counts", None)
    if connections is not None:
        counts("connections", "Connections that reached the overlay's port", connections)


def gossip_counts(node: Node) -> dict[str, int]:
    """What became of gossip objects that came in."""
    gossip = node.knowledge.gossip
    return {**asdict(gossip.origins.counters), "unreadable": gossip.reader.unreadable}
