"""What a server is asked: the client's own body, with what must be ours in it.

The client's JSON is passed on as it is, in its order, except for: ``model`` (the server's name for
it), fields that are taken out or refused (``kinds.py``), the tenant's salt, a stream's usage, and
the answer's tokens where a broken answer could go on elsewhere. Parts of messages are looked
through whatever type they say they are: a server may go by their other fields.

An answer can be continued by another engine from its tokens alone, but only if nothing else decides
how it goes on. So tokens are asked for only when every field of the body is one that a
continuation can carry (``_CARRIED``); tools, grammars, penalties, log probabilities and stop
strings (whose text is held back by the server) are not. A continuation itself is a plain completion
of prompt and tokens so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.errors import InvalidRequest
from inference.remote.kinds import REFUSED, STRIPPED, ServerKind
from inference.remote.server import Json, ServerBroken, encode_json
from inference.request import EngineRequest
from inference.strict_json import NotJson, read_json

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"

CHOICES_MAX = 128

_CARRIED = {
    *("model", "messages", "prompt", "stream", "stream_options", "seed", "temperature", "top_p"),
    *("top_k", "min_p", "max_tokens", "max_completion_tokens", "chat_template_kwargs"),
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("return_token_ids", "cache_salt"),
}
_NEUTRAL = {
    *("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "echo"),
    *("suffix", "tools", "functions"),
}
"""Fields that ask for nothing when they are zero, false or empty."""

_PART_REFUSED = {
    # Tensors that the server would load.
    *("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"),
    # A name in the server's cache of pictures, which knows no tenants.
    "uuid",
}
_MEDIA = {"image", "audio", "video"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A request as it is sent.

    ``choices`` is how many answers were asked for. ``hide_usage`` and ``hide_ids`` say what only we
    asked for, so that it is taken out again; ``has_ids`` whether tokens were asked for by anybody
    and the answer could be continued, ``passes_chunks`` whether the server's JSON is of the form
    that the client expects.
    """

    path: str
    body: bytes
    stream: bool
    choices: int = 1
    hide_usage: bool = False
    hide_ids: bool = False
    has_ids: bool = False
    passes_chunks: bool = True


def upstream_of(
    request: EngineRequest,
    kind: ServerKind,
    *,
    model: str,
    context_tokens: int,
    gives_ids: bool,
    fetches: bool = False,
) -> Upstream:
    """The request for a server.

    Args:
        request: What the engine was asked.
        kind: The kind of server.
        model: The model's name there.
        context_tokens: Its context, of prompt and answer.
        gives_ids: Whether prompts are known as real tokens and answers can be had as such.
        fetches: Whether a client may name URLs for the server to fetch.

    Raises:
        InvalidRequest: A field that may not be passed on, or nothing to ask.
    """
    if request.emitted or not request.body:
        return _continued(request, kind, model, context_tokens, gives_ids=gives_ids)
    body = _parsed(request.body)
    for name in sorted(REFUSED & set(body)):
        if body[name] is not None:
            raise InvalidRequest(f"{name} is not supported by this server", param=name)
    _check_parts(body.get("messages"), fetches=fetches)
    for name in (*STRIPPED, *REFUSED):
        body.pop(name, None)
    body["model"] = model
    if kind.salt_field is not None and request.cache_salt is not None:
        body[kind.salt_field] = request.cache_salt
    stream = body.get("stream") is True
    ids_field = kind.ids_field if stream and gives_ids and _can_continue(body) else None
    has_ids = ids_field is not None
    hide_ids = ids_field is not None and body.get(ids_field) is not True
    if ids_field is not None:
        body[ids_field] = True
    return Upstream(
        path=CHAT_PATH if request.chat else TEXT_PATH,
        hide_usage=stream and not _ask_usage(body),
        stream=stream,
        choices=_choices(body),
        hide_ids=hide_ids,
        has_ids=has_ids,
        body=_written(body),
    )


def tokens_left(request: EngineRequest) -> int | None:
    """How many tokens a continuation may still give; None where nothing limits it."""
    most = request.sampling.max_tokens
    return None if most is None else most - len(request.emitted)


def _continued(
    request: EngineRequest, kind: ServerKind, model: str, context_tokens: int, *, gives_ids: bool
) -> Upstream:
    if not gives_ids or kind.ids_field is None:
        raise InvalidRequest("this engine cannot go on with an answer of another")
    if not request.token_ids:
        raise InvalidRequest("the prompt is empty", param="prompt")
    sampling = request.sampling
    # Always said: left out, a server's text completions have 16 tokens.
    room = context_tokens - len(request.token_ids) - len(request.emitted)
    left = tokens_left(request)
    body: Json = {
        "model": model,
        "prompt": [*request.token_ids, *request.emitted],
        "max_tokens": room if left is None else min(left, room),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": kind.top_k_all if sampling.top_k == 0 else sampling.top_k,
        "min_p": sampling.min_p,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        kind.ids_field: True,
    }
    if kind.salt_field is not None and request.cache_salt is not None:
        body[kind.salt_field] = request.cache_salt
    return Upstream(
        path=TEXT_PATH,
        body=_written({name: value for name, value in body.items() if value is not None}),
        stream=True,
        hide_usage=True,
        hide_ids=True,
        has_ids=not sampling.stop,
        passes_chunks=False,
    )


def _parsed(raw: bytes) -> Json:
    try:
        body = read_json(raw)
    except NotJson:
        raise InvalidRequest("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


def _written(body: Json) -> bytes:
    """The body as it is sent; what JSON has no form for came from the client."""
    try:
        return encode_json(body)
    except ServerBroken:
        raise InvalidRequest(
            "the body has half a surrogate pair, a number without end or too deep a nesting"
        ) from None


def _check_parts(messages: object, *, fetches: bool) -> None:
    """A part of a message may hold a picture, but not say where the server is to get it from."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else (content,):
            if isinstance(part, dict):
                _check_part(part)
                if not fetches:
                    _check_urls(part)


def _check_part(part: Mapping[str, Any]) -> None:
    named = {name for name in part if part[name] is not None} | {str(part.get("type"))}
    for name in sorted(_PART_REFUSED & named):
        raise InvalidRequest(
            f"{name} in a message is not supported by this server", param="messages"
        )


def _check_urls(part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        url = value.get("url") if isinstance(value, dict) else value
        may_be_url = name.endswith("url") or isinstance(value, dict)
        may_be_url = may_be_url or (name in _MEDIA and "://" in str(value))
        if may_be_url and isinstance(url, str) and not url.startswith("data:"):
            raise InvalidRequest(
                "this server fetches nothing: give the content itself, as a data: URL",
                param="messages",
            )


def _can_continue(body: Mapping[str, Any]) -> bool:
    return all(
        name in _CARRIED
        or value in (None, [], {})
        or (name in _NEUTRAL and not value)
        or (name in {"n", "best_of"} and value == 1)
        or (name == "response_format" and value == {"type": "text"})
        for name, value in body.items()
    )


def _ask_usage(body: Json) -> bool:
    """Sees to it that a stream ends with its usage; whether the client wants it itself."""
    options = body.get("stream_options")
    options = dict(options) if isinstance(options, dict) else {}
    asked = options.get("include_usage") is True
    body["stream_options"] = {**options, "include_usage": True}
    return asked


def _choices(body: Mapping[str, Any]) -> int:
    """How many answers were asked for; a list of prompts multiplies them."""
    n = body.get("n")
    n = n if isinstance(n, int) and not isinstance(n, bool) else 1
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        n *= len(prompt)
    if not 1 <= n <= CHOICES_MAX:
        raise InvalidRequest(f"n must be between 1 and {CHOICES_MAX}", param="n")
    return n
