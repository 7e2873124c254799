"""How far one request has come, over all its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.errors import RequestError
from overlay.request import Started, Submission
from overlay.route import Route
from overlay.work import Work, request_error
from security.epoch import TenantEpoch
from security.peer_id import PeerId

DENIED = {
    "context_length_exceeded": "prompt and answer exceed the context of the peers that were tried",
    "invalid_request": "the peers that were tried cannot run this request as it stands",
}
"""What a client is told where peers found the request wrong, and this host could not run it."""


@dataclass(slots=True)
class Progressed:
    """How far one request has come over all its attempts."""

    submission: Submission
    tenant: TenantEpoch
    work: Work
    began_s: float
    tokens_max: int = 0
    emitted: list[int] = field(default_factory=list)
    resumable: bool = True
    started: bool = False
    cached_tokens: int | None = None
    first_token_s: float | None = None
    attempts: int = 0
    resumes: int = 0
    excluded: set[PeerId] = field(default_factory=set)
    late: set[PeerId] = field(default_factory=set)
    denied: dict[PeerId, str] = field(default_factory=dict)
    variant: str | None = None
    prefer_here: bool = False
    hung_here: bool = False
    # Of the present attempt.
    attempt_answered: bool = False
    attempt_first_s: float = 0.0
    attempt_tokens: int = 0
    attempt_cached: int = 0
    attempt_pieces: int = 0
    expected_start_s: float = 0.0


def started_of(request: Progressed, route: Route) -> Started:
    """The first event of an answer."""
    view = route.view
    weights = view.variant.rpartition(" ")[2]
    return Started(
        model=request.work.model,
        served_by=route.peer_id,
        variant=f"{weights}/{view.dtype}",
        passes_chunks=view.passes_bodies,
    )


def exhausted(request: Progressed, error: RequestError) -> RequestError:
    """What the client is told when no peer is left that could run the request, or go on with it."""
    if request.emitted:
        return request_error(
            "stream_broken", "the serving peer failed, and no other can go on with its answer"
        )
    denied = next(iter(request.denied.values()), None)
    return error if denied is None else request_error(denied, DENIED[denied])
