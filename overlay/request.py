"""A client's request and its answer, as every face of a peer sees them.

HTTP, the peer client and the Unix socket turn what they receive into a :class:`Submission`, enter
``Ingress.open`` with it and get :data:`AnswerEvent` values: one :class:`Started`, any number of
:class:`Delta`, one :class:`Finished`. A failure is an ``overlay.errors.RequestError`` instead.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NewType, Protocol

from inference.request import FinishReason, Prompt
from overlay.ports import Entropy
from security.peer_id import PeerId
from security.tenant import TenantId

RequestId = NewType("RequestId", str)
"""32 hex digits, drawn by the face that takes the request; also the idempotency id of a forward."""


def new_request_id(entropy: Entropy) -> RequestId:
    """A new request's id."""
    return RequestId(entropy.secret(16).hex())


class Scope(enum.Enum):
    """What a credential may do: have requests run, see its own tenant, see everything."""

    INFER = "infer"
    STATUS = "status"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks: proved by a token or by owning the Unix socket. The tenant comes from here only."""

    tenant: TenantId
    token_id: str
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A validated completion body (``overlay/body.py``); ``raw`` is the client's whole JSON.

    ``model`` is empty when the client named none (then the only model served is meant). ``beyond``
    names the fields that only an engine that is given the whole body can honour, in order;
    ``answers`` is how many answers are asked for at once: ``n`` for each prompt.
    """

    chat: bool
    model: str
    prompt: Prompt
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    raw: bytes
    beyond: tuple[str, ...] = ()
    answers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request. ``deadline_s`` is on the peer's monotonic clock."""

    request_id: RequestId
    principal: Principal
    call: Call
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request; ``cached_tokens`` of the prompt came from the serving peer's cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The request runs at ``served_by``; sent before the first token.

    ``variant`` names the weights and the dtype that answer, for people. ``passes_chunks`` says that
    what comes are most likely the engine's own chunks.
    """

    model: str
    served_by: PeerId
    variant: str = ""
    passes_chunks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """More of the answer. ``token_ids`` is None where the engine reports none.

    ``chunk`` is the engine's own JSON of it, for clients that are to get it as it is.
    """

    text: str
    token_ids: tuple[int, ...] | None
    chunk: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The one terminal event of a request that was answered."""

    reason: FinishReason
    usage: Usage
    served_by: PeerId
    hops: int
    resumes: int


AnswerEvent = Started | Delta | Finished


class Ingress(Protocol):
    """Takes requests. Leaving the block early cancels the request wherever it runs."""

    def open(
        self, submission: Submission
    ) -> AbstractAsyncContextManager[AsyncIterator[AnswerEvent]]: ...
