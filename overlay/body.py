"""A client's completion body: from JSON to a validated ``Call``, or one error that names the field.

Every field is honoured, accepted because it changes nothing here, or listed in ``Call.beyond``:
those need an engine that is given the whole body, and are refused by name where no peer has one.
None is dropped in silence. The body itself is kept in ``Call.raw``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from inference.request import BodyPrompt, ChatPrompt, Message, Prompt, TextPrompt, canonical_json
from inference.strict_json import NotJson, check_characters, read_json
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
TOOL_ROLES = ("tool", "function")
ANSWERS_MAX = 128
TOP_K_MAX = 1 << 20

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
"""Fields of OpenAI's API that the own engines do not have, and values that ask for nothing."""

PROMPT_FIELDS = (
    "messages", "prompt", "suffix", "tools", "functions", "documents", "chat_template",
    "chat_template_kwargs", "add_generation_prompt", "continue_final_message",
    "add_special_tokens", "reasoning_effort", "enable_thinking", "think", "mm_processor_kwargs",
)  # fmt: skip
"""Fields that a server makes its prompt of: two prompts are the same where all of these are."""

SAMPLING = {
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "max_tokens",
    "max_completion_tokens", "stream", "stream_options",
}  # fmt: skip


class Beyond(str):
    """Name of a part of the body that only an engine that is given all of it can read."""

    __slots__ = ()


PromptReader = Callable[[object], Prompt | Beyond]


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


def check_engines_can(call: Call, *, beyond: bool) -> None:
    """Refuses a body with fields that no engine of its model knows.

    Args:
        call: The validated body.
        beyond: Whether some engine is given whole bodies.

    Raises:
        RequestError: 400, naming the first such field.
    """
    if beyond or not call.beyond:
        return
    name = call.beyond[0]
    if name in NEUTRAL or isinstance(name, Beyond):
        refuse(
            name,
            f"{name} is not supported by the engines that serve this model",
            code="unsupported_parameter",
        )
    refuse(name, f"unknown field: {name}", code="unknown_parameter")


def _parse(raw: bytes, prompt_field: str, read: PromptReader, *, chat: bool) -> Call:
    body = _decode(raw, prompt_field)
    beyond = _fields_beyond(body, prompt_field)
    if prompt_field not in body:
        refuse(prompt_field, f"{prompt_field} is missing", code="missing_required_parameter")
    stream = _boolean(body, "stream")
    include_usage, option = _include_usage(body, stream=stream)
    prompt = read(body[prompt_field])
    try:
        check_characters(body, raw)
    except NotJson as error:
        refuse(None, f"the body cannot be read: {error}", code="invalid_json")
    beyond = (*beyond, *(each for each in (prompt, option) if isinstance(each, Beyond)))
    if isinstance(prompt, Beyond) or any(name in beyond for name in PROMPT_FIELDS):
        prompt = _body_prompt(body, prompt_field, chat=chat)
    return Call(
        chat=chat,
        model=_model(body),
        prompt=prompt,
        temperature=_number(body, "temperature", 0, 2),
        top_p=_top_p(body),
        top_k=_top_k(body),
        min_p=_number(body, "min_p", 0, 1),
        seed=_integer(body, "seed", -SEED_MAX, SEED_MAX, fold=True),
        stop=_stop(body),
        max_tokens=_max_tokens(body),
        stream=stream,
        include_usage=include_usage,
        raw=raw,
        beyond=beyond,
        answers=(_integer(body, "n", 1, ANSWERS_MAX) or 1) * _prompts(body, chat=chat),
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
        body = read_json(raw, _object)
    except NotJson as error:
        where = "" if error.where is None else f" at character {error.where}"
        refuse(None, f"the body is {error}{where}", code="invalid_json")
    if not isinstance(body, dict):
        refuse(None, "the body must be a JSON object", code="invalid_json")
    return body


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        refuse(None, "the body has a field twice", code="invalid_json")
    return found


def _fields_beyond(body: Mapping[str, Any], prompt_field: str) -> tuple[str, ...]:
    """Fields, as an error may name them, that only an engine with the whole body can honour."""
    found = []
    for name, value in body.items():
        if name in SAMPLING or name in HARMLESS or name == prompt_field or value is None:
            continue
        if not any(_same(value, neutral) for neutral in NEUTRAL.get(name, ())):
            found.append(_shown(name))
    return tuple(found)


def _prompts(body: Mapping[str, Any], *, chat: bool) -> int:
    """How many prompts a body has: a completion's may be a list of texts, or of lists of ids."""
    prompt = None if chat else body.get("prompt")
    several = isinstance(prompt, list) and not all(isinstance(each, int) for each in prompt)
    return len(prompt) if several and prompt else 1


def _body_prompt(body: Mapping[str, Any], prompt_field: str, *, chat: bool) -> BodyPrompt:
    fields = {name: body[name] for name in PROMPT_FIELDS if body.get(name) is not None}
    text = canonical_json(fields)
    _checked(text, prompt_field)
    parts = fields.get("messages", ()) if chat else fields.get("prompt", ())
    opaque = any(map(_is_opaque, parts)) if isinstance(parts, list) else False
    return BodyPrompt(chat=chat, fields=text, opaque=opaque)


def _is_opaque(value: object) -> bool:
    """Whether a message (or one of several prompts) holds something that is no text."""
    if isinstance(value, int):
        return False  # a token id
    if not isinstance(value, dict):
        return True  # several prompts at once
    content = value.get("content")
    return isinstance(content, list) and not all(
        isinstance(part, dict) and part.get("type") == "text" and part.keys() <= {"type", "text"}
        for part in content
    )


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


def _chat_prompt(value: object) -> Prompt | Beyond:
    if not isinstance(value, list) or not value:
        refuse("messages", "messages must be a list with at least one message")
    if len(value) > MESSAGES_MAX:
        refuse("messages", f"more than {MESSAGES_MAX} messages")
    messages: list[Message] = []
    beyond: Beyond | None = None
    for index, each in enumerate(value):
        read = _message(each, f"messages.{index}")
        if isinstance(read, Message):
            messages.append(read)
        else:
            beyond = beyond or read
    if beyond is not None:
        return beyond
    if not any(message.content.strip() for message in messages):
        refuse("messages", "the prompt is empty")
    return ChatPrompt(messages=tuple(messages))


def _message(value: object, where: str) -> Message | Beyond:
    """A message of role and text, or the name of what else it has."""
    if not isinstance(value, dict):
        refuse(where, f"{where} must be an object", code="invalid_type")
    role = value.get("role")
    if role not in (*ROLES, *TOOL_ROLES):
        refuse(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    content = _content(value.get("content"), f"{where}.content")
    for name, given in value.items():
        if name not in {"role", "content", "name"} and given not in (None, []):
            return Beyond(f"{where}.{_shown(name)}")
    if role in TOOL_ROLES:
        return Beyond(f"{where}.role")
    if isinstance(content, Beyond):
        return content
    parts = content if len(content) > 1 else ()
    return Message(role=role, content="".join(content), parts=parts)


def _content(value: object, where: str) -> tuple[str, ...] | Beyond:
    """The parts of a text, which are joined as they stand; the name of anything else."""
    if isinstance(value, str):
        return (_checked(value, where),)
    if value is None:
        return Beyond(where)
    if not isinstance(value, list):
        refuse(where, f"{where} must be a string or a list of parts", code="invalid_type")
    parts = []
    for index, part in enumerate(value):
        here = f"{where}.{index}"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            refuse(here, f"{here} must be an object with a type", code="invalid_type")
        if part["type"] != "text" or not part.keys() <= {"type", "text"}:
            return Beyond(here)
        if not isinstance(part.get("text"), str):
            refuse(f"{here}.text", f"{here}.text must be a string", code="invalid_type")
        parts.append(_checked(part["text"], f"{here}.text"))
    return tuple(parts)


def _text_prompt(value: object) -> Prompt | Beyond:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, list) and value:
        if not all(isinstance(each, str | int | list) for each in value):
            refuse("prompt", "prompt must be text, or token ids", code="invalid_type")
        return Beyond("prompt")
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


def _top_k(body: Mapping[str, Any]) -> int | None:
    value = _integer(body, "top_k", -1, TOP_K_MAX)
    return None if value is None else max(0, value)  # -1 is no limit to most servers


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


def _include_usage(body: Mapping[str, Any], *, stream: bool) -> tuple[bool, Beyond | None]:
    """Whether a stream ends with token counts, and the first option that is not known here."""
    options = body.get("stream_options")
    if options is None:
        return False, None
    if not stream:
        refuse("stream_options", "stream_options needs stream: true")
    if not isinstance(options, dict):
        refuse("stream_options", "stream_options must be an object", code="invalid_type")
    beyond: Beyond | None = None
    for name, value in options.items():
        shown = f"stream_options.{_shown(name)}"
        if name == "include_usage":
            if not isinstance(value, bool):
                refuse(shown, f"{shown} must be true or false", code="invalid_type")
        elif not (name == "include_obfuscation" and value is False) and value is not None:
            beyond = beyond or Beyond(shown)
    return bool(options.get("include_usage")), beyond
