"""Answers in the forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from inference.strict_json import NotJson, check_characters, read_json
from overlay.errors import RequestError
from overlay.request import Finished, Usage
from overlay.work import request_error

Json = dict[str, Any]
"""JSON objects hold values of every type."""


ANSWER_PREFIX = "cmpl-"
CHAT_PREFIX = "chatcmpl-"
"""The id in an answer's body is the request's behind one of these."""


def request_id_of(answer_id: str) -> str:
    """The request's id in the id that a client was shown, with OpenAI's prefix or without."""
    return answer_id.removeprefix(CHAT_PREFIX).removeprefix(ANSWER_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One answer's constant parts. ``created_unix_s`` is whole seconds.

    Where ``include_usage`` was asked for, a stream's chunks have a ``usage``, null but in the last.
    """

    request_id: str
    model: str
    chat: bool
    created_unix_s: int
    include_usage: bool = False

    @property
    def _id(self) -> str:
        return (CHAT_PREFIX if self.chat else ANSWER_PREFIX) + self.request_id

    def whole(self, text: str, finished: Finished) -> Json:
        """The answer in one piece."""
        choice: Json = {"index": 0, "finish_reason": finished.reason.value, "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            **self._base(kind),
            "choices": [choice],
            "usage": usage_of(finished.usage),
            "rhizome": _served(finished),
        }

    def passed(self, chunk: bytes) -> Json:
        """The engine's own chunk or answer, under this request's id; the rest is as it came.

        Raises:
            RequestError: When it is no JSON object: a peer has sent what no engine sends.
        """
        try:
            given = read_json(chunk)
            check_characters(given, chunk)
        except NotJson:
            given = None
        if not isinstance(given, dict):
            raise request_error("engine_failed", "the engine's answer is no JSON object")
        return {**given, "id": self._id}

    def told(self, given: Json, finished: Finished) -> Json:
        """An engine's own whole answer, and who gave it."""
        return {**given, "rhizome": _served(finished)}

    def first(self) -> Json:
        """The chunk that says who speaks; only chats have one."""
        return self._chunk({"role": "assistant", "content": ""}, "", None)

    def piece(self, text: str) -> Json:
        """A chunk of text."""
        return self._chunk({"content": text}, text, None)

    def last(self, finished: Finished) -> Json:
        """The chunk with the finish reason."""
        return self._chunk({}, "", finished.reason.value)

    def usage(self, finished: Finished) -> Json:
        """The chunk that ``stream_options.include_usage`` asks for."""
        return {**self._base(self._chunk_kind), "choices": [], "usage": usage_of(finished.usage)}

    def _chunk(self, delta: Json, text: str, reason: str | None) -> Json:
        choice: Json = {"index": 0, "finish_reason": reason, "logprobs": None}
        choice |= {"delta": delta} if self.chat else {"text": text}
        usage: Json = {"usage": None} if self.include_usage else {}
        return {**self._base(self._chunk_kind), "choices": [choice], **usage}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _base(self, kind: str) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self.created_unix_s,
            "model": self.model,
        }


def _served(finished: Finished) -> Json:
    return {
        "served_by": finished.served_by,
        "hops": finished.hops,
        "resumes": finished.resumes,
    }


def usage_of(usage: Usage) -> Json:
    """Token counts."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""Kinds of errors that OpenAI's clients tell apart, by status."""


def error_of(error: RequestError) -> Json:
    """A refusal or failure."""
    kind = KINDS.get(
        error.status, "server_error" if error.status >= 500 else "invalid_request_error"
    )
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def model_of(name: str) -> Json:
    """One entry of the list of models; its time of making is not known."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "rhizome"}


def models_of(names: Iterable[str]) -> Json:
    """The list of models."""
    return {"object": "list", "data": [model_of(name) for name in sorted(names)]}
