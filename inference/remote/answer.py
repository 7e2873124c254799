"""From a server's JSON to token events: bytes of one chunk (or of a whole answer) in, an event out.

1. ``chunk`` is what came, byte for byte, unless it holds what only we asked for: then it is written
   anew without that, in its order. A chunk of nothing else is kept to ourselves.
2. Tokens are given with the text that they make. From the first piece on that has no tokens, or
   has more to it than a role and text, no tokens are given any more: such an answer is not one that
   another engine could continue.
3. The last event says why the answer ended, and how many tokens were used. It comes when the server
   says that it is done; it has no chunk. The piece with which the last choice has ended says
   so (``ended``) as soon as it is there: what breaks later costs the usage and not the answer.
4. A stream that stops short, an error in the middle and anything that is no such chunk fail the
   answer.

Formats: OpenAI's chat and text completions, with what vLLM, SGLang, llama.cpp and Ollama add.
"""

from __future__ import annotations

from typing import Any

from inference.errors import EngineFailed
from inference.remote.body import Upstream
from inference.remote.server import (
    ANSWER_BYTES_MAX,
    Json,
    ServerBroken,
    decode_object,
    encode_json,
)
from inference.request import EngineUsage, FinishReason, TokenEvent

DONE = b"[DONE]"
CHUNK_BYTES_MAX = 1 << 20
COUNT_MAX = 1 << 40

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_FAILED = {"abort", "error"}
_IDS = ("token_ids", "prompt_token_ids")
_PLAIN_DELTA = {"role", "content"}
_PLAIN_CHOICE = {
    *("index", "delta", "text", "finish_reason", "stop_reason", "matched_stop", "token_ids"),
    "prompt_token_ids",
}


class AnswerReader:
    """Reads one answer.

    Args:
        upstream: What was asked for, and by whom.
        cached_tokens: What the first event says of the cache.
        prompt: The tokens that the prompt is thought to have; empty where these are not known.
    """

    def __init__(
        self, upstream: Upstream, *, cached_tokens: int, prompt: tuple[int, ...] = ()
    ) -> None:
        self._upstream = upstream
        self._cached_tokens: int | None = cached_tokens
        self._prompt = prompt
        self._seen: set[int] = set()
        self._ended: dict[int, FinishReason] = {}
        self._has_ids = upstream.has_ids
        self._held: tuple[int, ...] = ()
        self.usage: EngineUsage | None = None
        self.started = False
        """Whether the server has computed the prompt: something of an answer has come."""
        self.misread = False
        """Whether the server has read the prompt otherwise than was thought."""
        self.said_end = False
        """Whether the last event was given."""

    @property
    def finished(self) -> bool:
        """Whether every choice has ended; usage may still come."""
        return len(self._ended) >= self._upstream.choices

    def chunk(self, data: bytes) -> TokenEvent | None:
        """The event of a stream's next payload; None when there is nothing to tell.

        Raises:
            EngineFailed: The server failed, or sent something else than a chunk.
        """
        if self.said_end:
            return None
        if data == DONE:
            return self.end()
        body = _object(data)
        choices = _choices(body)
        if body.get("usage") is not None or "timings" in body:
            self.usage = usage_of(body) or self.usage
        text, ids, had_ended = "", self._held, self.finished
        self._compare(body, choices)
        for choice in choices:
            delta = choice.get("delta")
            piece = delta if isinstance(delta, dict) else {}
            self._end_choice(choice)
            said = piece.get("content") if "delta" in choice else choice.get("text")
            self.started = self.started or _says_something(choice, piece)
            if _index(choice) == 0:
                text += said if isinstance(said, str) else ""
                ids += self._ids_of(choice, piece, said)
        shown = self._shown(data, body, choices)
        # Tokens of a character that is not whole yet wait for it.
        self._held = () if text or self.finished else ids
        given = ids if text or self.finished else ()
        if shown is None and not text and not given:
            return None
        ended = self._reason() if self.finished and not had_ended else None
        return self._event(text, given if self._has_ids else None, shown, ended=ended)

    def whole(self, data: bytes) -> TokenEvent:
        """The one event of an answer that was not streamed.

        Raises:
            EngineFailed: As :meth:`chunk`.
        """
        body = _object(data, ANSWER_BYTES_MAX)
        choices = _choices(body)
        for choice in choices:
            self._end_choice(choice, default=FinishReason.STOP)
        if not choices:
            raise EngineFailed("the inference server gave no answer")
        self.usage, self.started, self.said_end = usage_of(body), True, True
        self._compare(body, choices)
        first = choices[0]
        message = first.get("message")
        text = message.get("content") if isinstance(message, dict) else first.get("text")
        cached = self._cached_tokens
        if self.usage is not None and self.usage.cached_tokens is not None:
            cached = self.usage.cached_tokens
        return TokenEvent(
            token_ids=None,
            text=text if isinstance(text, str) else "",
            cached_tokens=cached,
            finish_reason=self._reason(),
            usage=self.usage,
            chunk=data,
        )

    def end(self) -> TokenEvent:
        """The last event, when the stream is over.

        Raises:
            EngineFailed: It stopped short.
        """
        # A server that knows no ``n`` gives one answer.
        if not self._ended or not self._seen <= set(self._ended):
            raise EngineFailed("the inference server's answer broke off")
        self.said_end = True
        ids = () if self._has_ids else None
        return self._event("", ids, None, finish_reason=self._reason(), usage=self.usage)

    def _event(
        self, text: str, ids: tuple[int, ...] | None, chunk: bytes | None, **last: Any
    ) -> TokenEvent:  # the fields of the last events
        cached, self._cached_tokens = self._cached_tokens, None
        passed = chunk if self._upstream.passes_chunks else None
        return TokenEvent(token_ids=ids, text=text, cached_tokens=cached, chunk=passed, **last)

    def _reason(self) -> FinishReason:
        return self._ended.get(0) or next(iter(self._ended.values()))

    def _end_choice(self, choice: Json, default: FinishReason | None = None) -> None:
        reason = choice.get("finish_reason")
        self._seen.add(_index(choice))
        if isinstance(reason, str) and reason in _FAILED:
            raise EngineFailed("the inference server gave the answer up")
        if isinstance(reason, str) and reason:
            self._ended[_index(choice)] = _FINISH.get(reason, FinishReason.STOP)
        elif default is not None:
            self._ended[_index(choice)] = default

    def _compare(self, body: Json, choices: list[Json]) -> None:
        """An answer to another prompt than was thought is none to go on with from there."""
        for part in (body, *choices):
            told = part.get("prompt_token_ids")
            if self._prompt and isinstance(told, list) and tuple(told) != self._prompt:
                self.misread, self._has_ids = True, False
        if self._prompt and self.usage is not None and self._upstream.choices == 1:
            self.misread = self.misread or self.usage.prompt_tokens != len(self._prompt)

    def _ids_of(self, choice: Json, piece: Json, said: object) -> tuple[int, ...]:
        """The piece's tokens; decides whether tokens are given from here on."""
        if not self._has_ids:
            return ()
        ids = choice.get("token_ids")
        ids = [] if ids is None else ids
        plain = (
            isinstance(ids, list)
            and all(type(each) is int and 0 <= each < 1 << 31 for each in ids)
            and all(name in _PLAIN_CHOICE or not choice[name] for name in choice)
            and all(name in _PLAIN_DELTA or not piece[name] for name in piece)
            and (bool(ids) or not said)
            # A token that makes no text is a mark, as of a tool call, unless it ends the answer.
            and (isinstance(said, str) or not ids or choice.get("finish_reason") is not None)
        )
        if not plain:
            self._has_ids = False
            return ()
        return tuple(ids)

    def _shown(self, data: bytes, body: Json, choices: list[Json]) -> bytes | None:
        """What is handed on of a chunk; None when nothing is left of it."""
        hidden: list[str] = []
        if self._upstream.hide_usage:
            if not choices and "usage" in body:
                return None
            hidden.append("usage")
        if self._upstream.hide_ids:
            hidden.extend(_IDS)
        if not any(name in part for name in hidden for part in (body, *choices)):
            return data
        for part in (body, *choices):
            for name in hidden:
                part.pop(name, None)
        try:
            return encode_json(body)
        except ServerBroken as error:
            raise EngineFailed(str(error)) from None


def usage_of(body: Json) -> EngineUsage | None:
    """What a body says of tokens used; None where it says nothing that makes sense."""
    usage = body.get("usage")
    timings = body.get("timings")
    if not isinstance(usage, dict):
        return None
    prompt, completion = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion"))
    if prompt is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is None and isinstance(timings, dict):
        cached = _count(timings.get("cache_n"))
    return EngineUsage(
        prompt_tokens=prompt,
        completion_tokens=completion or 0,
        cached_tokens=None if cached is None else min(cached, prompt),
    )


def _object(data: bytes, bytes_max: int = CHUNK_BYTES_MAX) -> Json:
    if len(data) > bytes_max:
        raise EngineFailed("the inference server sent too much at once")
    try:
        body = decode_object(data)
    except ServerBroken as error:
        raise EngineFailed(str(error)) from None
    if body.get("error") is not None or body.get("object") == "error":
        raise EngineFailed("the inference server failed while answering")
    return body


def _choices(body: Json) -> list[Json]:
    choices = body.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise EngineFailed("the inference server sent something that is no answer")
    return choices


def _index(choice: Json) -> int:
    index = choice.get("index", 0)
    return index if type(index) is int else 0


def _says_something(choice: Json, piece: Json) -> bool:
    """Whether a piece shows that the prompt has been computed."""
    said = any(value for name, value in piece.items() if name != "role")
    return bool(said or choice.get("text") or choice.get("token_ids")) or (
        choice.get("finish_reason") is not None
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None
