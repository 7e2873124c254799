"""A client's completion body: from JSON to a validated ``Call``, or one error that names the field.

Every field is honoured, accepted because it changes nothing here, or refused by name; none is
dropped in silence. The whole body is kept in ``Call.raw`` for engines that pass it on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from inference.request import ChatPrompt, Message, Prompt, TextPrompt
from overlay.errors import RequestError
from overlay.request import Call

BODY_BYTES_MAX = 1 << 20
MESSAGES_MAX = 4096
STOPS_MAX = 4
STOP_CHARS_MAX = 256
MODEL_CHARS_MAX = 256
MAX_TOKENS_MAX = 1 << 20
SEED_MAX = (1 << 63) - 1
ROLES = ("system", "developer", "user", "assistant")

HARMLESS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Accepted and passed on in the body; they change nothing in an answer."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "reasoning_effort": (),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Fields of OpenAI's API that are not built, and the values of them that ask for nothing."""

SAMPLING = {
    "model", "temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens",
    "stream", "stream_options",
}  # fmt: skip


def parse_chat(raw: bytes) -> Call:
    """Reads the body of a chat completion.

    Raises:
        RequestError: 400 (413 for a body over 1 MiB), ``param`` naming the field.
    """
    return _parse(raw, "messages", _chat_prompt, chat=True)


def parse_completion(raw: bytes) -> Call:
    """Reads the body of a plain completion. Raises RequestError as :func:`parse_chat`."""
    return _parse(raw, "prompt", _text_prompt, chat=False)


def field_of(call: Call, param: str | None) -> str | None:
    """The body's own name of what an engine blames: its prompt is a chat's ``messages``."""
    return "messages" if call.chat and param == "prompt" else param


def refuse(param: str | None, message: str, *, code: str = "invalid_value") -> NoReturn:
    """Raises the error of one field."""
    raise RequestError(message, code=code, status=400, param=param)


def _parse(raw: bytes, prompt_field: str, read: Callable[[object], Prompt], *, chat: bool) -> Call:
    body = _decode(raw, prompt_field)
    _check_fields(body, prompt_field)
    if prompt_field not in body:
        refuse(prompt_field, f"{prompt_field} is missing", code="missing_required_parameter")
    stream = _boolean(body, "stream")
    return Call(
        chat=chat,
        model=_model(body),
        prompt=read(body[prompt_field]),
        temperature=_number(body, "temperature", 0, 2),
        top_p=_top_p(body),
        seed=_integer(body, "seed", -SEED_MAX, SEED_MAX, fold=True),
        stop=_stop(body),
        max_tokens=_max_tokens(body),
        stream=stream,
        include_usage=_include_usage(body, stream=stream),
        raw=raw,
    )


def _decode(raw: bytes, prompt_field: str) -> dict[str, Any]:
    if len(raw) > BODY_BYTES_MAX:
        raise RequestError(
            f"the body is larger than {BODY_BYTES_MAX} bytes",
            code="body_too_large",
            status=413,
            param=prompt_field,
        )
    try:
        # Decoded here: json.loads would guess UTF-16 and let halves of surrogate pairs through.
        body = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except RequestError:
        raise
    except UnicodeDecodeError:
        refuse(None, "the body is not UTF-8", code="invalid_json")
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        refuse(None, f"the body is not valid JSON{where}", code="invalid_json")
    if not isinstance(body, dict):
        refuse(None, "the body must be a JSON object", code="invalid_json")
    return body


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        refuse(None, "the body has a field twice", code="invalid_json")
    return found


def _constant(name: str) -> NoReturn:
    refuse(None, f"{name} is not JSON", code="invalid_json")


def _check_fields(body: Mapping[str, Any], prompt_field: str) -> None:
    for name, value in body.items():
        if name in SAMPLING or name in HARMLESS or name == prompt_field or value is None:
            continue
        shown = _shown(name)
        if name not in NEUTRAL:
            refuse(shown, f"unknown field: {shown}", code="unknown_parameter")
        if not any(_same(value, neutral) for neutral in NEUTRAL[name]):
            refuse(shown, f"{shown} is not supported by this server", code="unsupported_parameter")


def _shown(name: str) -> str:
    """A client's field name as an error may carry it: short, and text that can be encoded."""
    return name[:64].encode(errors="replace").decode()


def _same(value: object, neutral: object) -> bool:
    """Equality as JSON has it: ``true`` is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        return ""
    if not isinstance(model, str) or len(model) > MODEL_CHARS_MAX or not _is_text(model):
        refuse("model", "model must be a string of at most 256 characters", code="invalid_type")
    return model


def _chat_prompt(value: object) -> Prompt:
    if not isinstance(value, list) or not value:
        refuse("messages", "messages must be a list with at least one message")
    if len(value) > MESSAGES_MAX:
        refuse("messages", f"more than {MESSAGES_MAX} messages")
    messages = tuple(_message(each, f"messages.{index}") for index, each in enumerate(value))
    if not any(message.content.strip() for message in messages):
        refuse("messages", "the prompt is empty")
    return ChatPrompt(messages=messages)


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        refuse(where, f"{where} must be an object", code="invalid_type")
    role = value.get("role")
    if role not in ROLES:
        refuse(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    for name, given in value.items():
        if name not in {"role", "content", "name"} and given not in (None, []):
            shown = f"{where}.{_shown(name)}"
            refuse(shown, f"{shown} is not supported by this server", code="unsupported_parameter")
    return Message(role=role, content=_content(value.get("content"), f"{where}.content"))


def _content(value: object, where: str) -> str:
    """Text, or a list of text parts, which are joined as they stand."""
    if isinstance(value, str):
        return _checked(value, where)
    if not isinstance(value, list):
        refuse(where, f"{where} must be a string or a list of text parts", code="invalid_type")
    parts = []
    for index, part in enumerate(value):
        here = f"{where}.{index}"
        if not isinstance(part, dict) or part.get("type") != "text":
            refuse(here, f"{here}: only text parts are supported", code="unsupported_parameter")
        if not isinstance(part.get("text"), str):
            refuse(f"{here}.text", f"{here}.text must be a string", code="invalid_type")
        parts.append(_checked(part["text"], f"{here}.text"))
    return "".join(parts)


def _text_prompt(value: object) -> Prompt:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        refuse("prompt", "prompt must be one string", code="invalid_type")
    if not value:
        refuse("prompt", "the prompt is empty")
    return TextPrompt(text=_checked(value, "prompt"))


def _checked(text: str, where: str) -> str:
    if not _is_text(text):
        refuse(where, f"{where} holds half of a surrogate pair, which is no character")
    return text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(name, f"{name} must be a number", code="invalid_type")
    # The comparison alone: a whole number too large for a float compares, and NaN is in no range.
    if not least <= value <= most:
        refuse(name, f"{name} must be between {least:g} and {most:g}")
    return float(value)


def _top_p(body: Mapping[str, Any]) -> float | None:
    value = _number(body, "top_p", 0, 1)
    if value == 0:
        refuse("top_p", "top_p must be above 0")
    return value


def _integer(
    body: Mapping[str, Any], name: str, least: int, most: int, *, fold: bool = False
) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(name, f"{name} must be a whole number", code="invalid_type")
    if not least <= value <= most:
        refuse(name, f"{name} must be between {least} and {most}")
    return value & SEED_MAX if fold else value


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    old = _integer(body, "max_tokens", 1, MAX_TOKENS_MAX)
    new = _integer(body, "max_completion_tokens", 1, MAX_TOKENS_MAX)
    if old is not None and new is not None and old != new:
        refuse("max_tokens", "max_tokens and max_completion_tokens contradict each other")
    return new if old is None else old


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > STOPS_MAX:
        refuse("stop", f"stop must be a string or a list of at most {STOPS_MAX}")
    for stop in stops:
        if not isinstance(stop, str) or not stop or len(stop) > STOP_CHARS_MAX:
            refuse("stop", f"a stop string has 1 to {STOP_CHARS_MAX} characters")
        _checked(stop, "stop")
    return tuple(stops)


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        refuse(name, f"{name} must be true or false", code="invalid_type")
    return bool(value)


def _include_usage(body: Mapping[str, Any], *, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        refuse("stream_options", "stream_options needs stream: true")
    if not isinstance(options, dict):
        refuse("stream_options", "stream_options must be an object", code="invalid_type")
    for name, value in options.items():
        if name not in {"include_usage", "include_obfuscation"} or not isinstance(value, bool):
            shown = f"stream_options.{_shown(name)}"
            refuse(shown, f"{shown} is not supported by this server", code="unsupported_parameter")
    if options.get("include_obfuscation"):
        shown = "stream_options.include_obfuscation"
        refuse(shown, f"{shown} is not supported by this server", code="unsupported_parameter")
    return bool(options.get("include_usage"))
