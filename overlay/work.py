"""One request as a peer runs it, whoever brought it: the value between deciding and the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from inference.request import Prompt, Sampling
from overlay.errors import RequestError
from overlay.request import Call
from security.tenant import TenantId

ANSWER_ERRORS = {
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "not_a_member": 421,
    "overloaded": 503,
    "engine_failed": 502,
    "engine_stalled": 502,
    "stream_broken": 502,
    "no_capable_peer": 503,
    "deadline_exceeded": 504,
}
"""Stable error codes of an answer, and the HTTP status that says the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request with everything an engine needs.

    ``token_ids`` is None where the ingress could not tokenise ``prompt``. ``emitted`` are tokens of
    the answer that the client has already. ``chat`` says of which kind ``body`` is, and ``beyond``
    that only an engine that is given the whole of it can honour it.
    """

    request_id: str
    tenant: TenantId
    model: str
    prompt: Prompt
    token_ids: tuple[int, ...] | None
    sampling: Sampling
    emitted: tuple[int, ...]
    body: bytes
    chat: bool = False
    beyond: bool = False

    def resumed(self, emitted: tuple[int, ...]) -> Work:
        """The same request, to be continued after ``emitted``."""
        return replace(self, emitted=emitted)


def sampling_of(call: Call, seed: int) -> Sampling:
    """The sampling that a body asks for; ``seed`` counts where the body has none."""
    return Sampling(
        seed=seed if call.seed is None else call.seed,
        temperature=call.temperature,
        top_p=call.top_p,
        top_k=call.top_k,
        min_p=call.min_p,
        stop=call.stop,
        max_tokens=call.max_tokens,
    )


def not_a_member() -> RequestError:
    """What a client of a tenant is told that this host does not serve."""
    return request_error(
        "not_a_member",
        "this host does not serve that tenant; use a base URL that "
        "`rhizome token create` printed for it",
    )


class AttemptEnded(Exception):
    """One attempt at running a request is over without a whole answer.

    ``code`` is for logs, metrics and ``explain``; ``dead`` says that the peer's connection is gone.
    """

    def __init__(self, code: str, *, dead: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.dead = dead


class Refused(AttemptEnded):
    """The peer would not take it; nothing was started."""


class Late(Refused):
    """The peer has taken it, and says that it will begin much later than this host would."""


class Silent(AttemptEnded):
    """The peer said nothing for longer than it may."""


class Denied(AttemptEnded):
    """The peer says that the request itself is wrong: its word, which is not taken for all.

    ``param`` is the field that it blames.
    """

    def __init__(self, code: str, *, param: str | None = None) -> None:
        super().__init__(code)
        self.param = param


class Broken(AttemptEnded):
    """The peer or its engine failed while the answer was under way."""


class Hung(Broken):
    """A step of this host's own engine does not end; it may yet."""


def request_error(code: str, message: str, *, param: str | None = None) -> RequestError:
    """The error that a client sees for a stable ``code`` of :data:`ANSWER_ERRORS`."""
    status = ANSWER_ERRORS.get(code, 502)
    retry_after_s = 1.0 if status == 503 else None
    return RequestError(message, code=code, status=status, param=param, retry_after_s=retry_after_s)
