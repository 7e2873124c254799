"""What the demo writes down of each request, and what it makes of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as its client saw it; times in seconds on the client's clock.

    ``tried`` are the peers that were given it, of which ``served_by`` gave the last of the answer:
    one that was left as it was late, or was lost, may have computed the prompt all the same.
    """

    policy: str
    number: int
    tenant: str
    ingress: str
    served_by: str
    tried: tuple[str, ...]
    prompt_tokens: int
    cached_tokens: int
    token_ids: tuple[int, ...]
    began_s: float
    ttft_s: float
    completion_s: float
    hops: int
    status: str
    endings: int

    def public(self) -> dict[str, object]:
        """The record as ``--json`` writes it."""
        return {
            "policy": self.policy,
            "tenant": self.tenant,
            "ingress": self.ingress,
            "served_by": self.served_by,
            "tried": list(self.tried),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "ttft_ms": round(self.ttft_s * 1000, 3),
            "status": self.status,
            "number": self.number,
            "completion_ms": round(self.completion_s * 1000, 3),
            "hops": self.hops,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One policy's run."""

    requests: int
    hit_rate: float
    ttft_ms_p50: float
    ttft_ms_p99: float
    completion_ms_p50: float
    completion_ms_mean: float
    requests_per_s: float
    forwarded: int
    served: dict[str, int]

    def public(self) -> dict[str, object]:
        """The summary as ``--json`` writes it."""
        return asdict(self)


def summarise(records: Sequence[RequestRecord], peers: Sequence[str], took_s: float) -> Summary:
    """Sums one policy up; percentiles are over answered requests."""
    answered = [record for record in records if record.status == "ok"]
    prompt_tokens = sum(record.prompt_tokens for record in answered)
    cached_tokens = sum(record.cached_tokens for record in answered)
    ttfts_ms = sorted(record.ttft_s * 1000 for record in answered) or [0.0]
    completions_ms = [record.completion_s * 1000 for record in answered] or [0.0]
    return Summary(
        requests=len(answered),
        hit_rate=cached_tokens / prompt_tokens if prompt_tokens else 0.0,
        ttft_ms_p50=statistics.median(ttfts_ms),
        ttft_ms_p99=ttfts_ms[min(len(ttfts_ms) - 1, int(0.99 * len(ttfts_ms)))],
        completion_ms_p50=statistics.median(completions_ms),
        completion_ms_mean=statistics.fmean(completions_ms),
        requests_per_s=len(answered) / took_s if took_s else 0.0,
        forwarded=sum(record.hops for record in answered),
        served={peer: sum(record.served_by == peer for record in answered) for peer in peers},
    )
