"""What a viewer that speaks for one tenant may see of this peer: its own tenant, and no other's.

Left out: what other tenants have under way or cached, and lines that name them. Rounded up to
powers of two: how busy this host and others are, which is for all tenants together.
"""

from __future__ import annotations

import math

import msgspec

from overlay.control.messages import CandidateReply, ExplainReply, PeerStatus, StatusReply


def narrow_status(status: StatusReply, open_requests: int) -> StatusReply:
    """A status whose tenants and peers are those of one tenant, with nothing of the others.

    Args:
        status: What is true of that tenant, and of this host as a whole.
        open_requests: That tenant's.
    """
    return msgspec.structs.replace(
        status,
        running=rounded_up(status.running),
        queued=rounded_up(status.queued),
        used_blocks=0,
        total_blocks=0,
        sent_bytes=0,
        open_requests=open_requests,
        posture=[],
        peers=[narrow_peer(peer) for peer in status.peers],
    )


def narrow_peer(peer: PeerStatus) -> PeerStatus:
    """Another member, with its load rounded."""
    return msgspec.structs.replace(
        peer,
        running=None if peer.running is None else rounded_up(peer.running),
        queued=None if peer.queued is None else rounded_up(peer.queued),
    )


def narrow_explain(explained: ExplainReply) -> ExplainReply:
    """One of the tenant's requests, with the queues of its candidates rounded."""
    routes = [
        msgspec.structs.replace(route, candidates=[narrow_candidate(c) for c in route.candidates])
        for route in explained.routes
    ]
    return msgspec.structs.replace(explained, routes=routes)


def narrow_candidate(candidate: CandidateReply) -> CandidateReply:
    """A candidate; sums are rounded too, or the queue could be had by subtraction."""
    return msgspec.structs.replace(
        candidate,
        queue_ms=rounded_up_ms(candidate.queue_ms),
        total_ms=rounded_up_ms(candidate.total_ms),
        score_ms=rounded_up_ms(candidate.score_ms),
    )


def rounded_up(count: int) -> int:
    """The next power of two; 0 stays."""
    return 0 if count <= 0 else 1 << (count - 1).bit_length()


def rounded_up_ms(time_ms: float) -> float:
    """The next power of two of milliseconds, at least 1; 0 and what has no end stay."""
    if time_ms <= 0 or not math.isfinite(time_ms):
        return time_ms
    return float(rounded_up(math.ceil(time_ms)))
