"""How far one request has come, over all its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.request import FinishReason
from inference.strict_json import read_json
from overlay.errors import RequestError
from overlay.forward import ANSWER_BYTES_MAX, End
from overlay.request import Started, Submission
from overlay.route import Route
from overlay.routing.booking import BookingId
from overlay.served import weights_of
from overlay.work import Denied, Work, request_error
from security.epoch import TenantEpoch
from security.peer_id import PeerId

PIECES_EXTRA = 64
"""Pieces beyond the longest answer's tokens: those with the rest of a text, or with nothing."""

DENIED = {
    "context_length_exceeded": "prompt and answer exceed the context of the peers that were tried",
    "invalid_request": "the peers that were tried cannot run this request as it stands",
}
"""What a client is told where peers found the request wrong, and this host could not run it."""


TOO_SMALL = (
    "prompt and answer exceed this tenant's part of the cache at every peer that could run them; "
    "send a shorter prompt or a smaller max_tokens"
)


@dataclass(slots=True)
class Attempt:
    """One try of a request at one peer, and what has come of it. ``first_s`` is when that began."""

    route: Route
    booking: BookingId
    began_s: float
    first_s: float
    answered: bool = False
    tokens: int = 0
    cached: int = 0
    pieces: int = 0
    size_bytes: int = 0
    expected_start_s: float = 0.0


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
    denied: dict[PeerId, Denied] = field(default_factory=dict)
    too_small: set[PeerId] = field(default_factory=set)
    variant: str | None = None
    prefer_here: bool = False
    hung_here: bool = False
    ended: FinishReason | None = None

    def end(self, attempt: Attempt) -> End:
        """The end of an answer that was complete when its peer was lost."""
        assert self.ended is not None
        return End(
            finish_reason=self.ended.value,
            prompt_tokens=len(self.work.token_ids or ()),
            completion_tokens=len(self.emitted) or attempt.tokens,
            cached_tokens=attempt.cached,
        )

    def is_too_much(self, attempt: Attempt) -> bool:
        """Whether more has come than was asked for: a peer may not answer for ever.

        How an engine cuts its own answer into chunks is its business, so these are weighed.
        """
        if attempt.route.view.passes_bodies:
            return attempt.size_bytes > ANSWER_BYTES_MAX
        return attempt.pieces > self.tokens_max + PIECES_EXTRA

    def fields(self) -> frozenset[str]:
        """Names of the fields of the client's body."""
        return frozenset(read_json(self.submission.call.raw))


def started_of(request: Progressed, route: Route) -> Started:
    """The first event of an answer."""
    view = route.view
    return Started(
        model=request.work.model,
        served_by=route.peer_id,
        variant=f"{weights_of(view.variant)}/{view.dtype}",
        passes_chunks=view.passes_bodies,
    )


def exhausted(request: Progressed, error: RequestError) -> RequestError:
    """What the client is told when no peer is left that could run the request, or go on with it."""
    if request.emitted:
        return request_error(
            "stream_broken", "the serving peer failed, and no other can go on with its answer"
        )
    denied = next(iter(request.denied.values()), None)
    if denied is None:
        all_too_small = request.too_small and request.too_small == request.excluded
        if all_too_small and error.code == "no_capable_peer":
            return request_error("context_length_exceeded", TOO_SMALL)
        return error
    # A peer's word, so only a field that the client has sent is named.
    sent = denied.param is not None and denied.param.partition(".")[0] in request.fields()
    return request_error(denied.code, DENIED[denied.code], param=denied.param if sent else None)
