"""Prompts as text units, for engines whose tokenizer nobody else has: stand-ins for token ids.

A unit is four bytes of a canonical form of the prompt, read as a little-endian number, so that a
block of 16 units is 64 bytes of text, about as much as 16 tokens. Blocks are named of them as of
tokens (``inference/blocks.py``), under a prefix identity of their own (:data:`TEXT_TOKENIZER`), so
that they are compared with nothing but themselves.

The canonical form is a line of what stands before the conversation in any template (tools,
template arguments), then a line for each message, so that a longer conversation begins with the
units of the shorter one it goes on from. What says the same has the same form: absent fields and
empty ones, text and a list with one text part.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from inference.errors import InvalidRequest
from inference.request import BodyPrompt, ChatPrompt, Prompt, TextPrompt, canonical_json

TEXT_TOKENIZER = "text/1"
"""The tokenizer in the prefix identity of prompts that are hashed as text."""

UNIT_BYTES = 4


def text_units(prompt: Prompt) -> tuple[int, ...] | None:
    """The units of a prompt; None where some of it is no text.

    Raises:
        InvalidRequest: For text with half a surrogate pair.
    """
    match prompt:
        case ChatPrompt(messages=messages):
            listed = [{"role": each.role, "content": each.content} for each in messages]
            return _units(_conversation({}, listed))
        case TextPrompt(text=text):
            return _units(_plain({}, text))
        case BodyPrompt(opaque=True):
            return None
        case BodyPrompt(chat=True, fields=fields):
            rest: dict[str, Any] = json.loads(fields)  # any JSON of a client
            listed = rest.pop("messages", [])
            return _units(_conversation(rest, listed)) if isinstance(listed, list) else None
        case BodyPrompt(fields=fields):
            rest = json.loads(fields)
            return _of_prompt(rest.pop("prompt", None), rest)


def _of_prompt(value: object, rest: Mapping[str, Any]) -> tuple[int, ...] | None:
    """A list of token ids is as good as units: equal ones are an equal prompt."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return _units(_plain(rest, value))
    is_ids = isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 1 << 32
        for each in value
    )
    return tuple(value) if is_ids and isinstance(value, list) else None


def _plain(rest: Mapping[str, Any], text: str) -> str:
    return f"text {canonical_json(_said(rest))}\n{text}"


def _conversation(rest: Mapping[str, Any], messages: list[Any]) -> str:
    lines = [f"chat {canonical_json(_said(rest))}", *map(_message, messages), ""]
    return "\n".join(lines)


def _message(message: object) -> str:
    if not isinstance(message, dict):
        return canonical_json(message)
    said = _said(message)
    parts = said.get("content")
    if isinstance(parts, list) and all(map(_is_text, parts)):
        said["content"] = "".join(part["text"] for part in parts)
    # The role first: where roles differ, so do the first bytes.
    return canonical_json([said.pop("role", None), said])


def _is_text(part: object) -> bool:
    return (
        isinstance(part, dict)
        and set(part) == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, [], {})}


def _units(text: str) -> tuple[int, ...]:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("text with half a surrogate pair") from error
    data += bytes(-len(data) % UNIT_BYTES)
    return struct.unpack(f"<{len(data) // UNIT_BYTES}I", data)
