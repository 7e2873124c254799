"""What a fake inference server computes: tokens, a prefix cache by salt, and an answer's chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from inference import toy_language
from inference.request import BodyPrompt, canonical_json
from inference.tokenizer import PromptTokenizer

Json = dict[str, Any]


class FakeRefusal(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": "BadRequestError", "param": param, "code": status}
        }


class Tokens(Protocol):
    """A tokenizer and a "model"."""

    def text(self, text: str) -> list[int]: ...

    def chat(self, body: Json) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def say(self, ids: list[int]) -> int: ...


class ToyTokens:
    """The toy language; tools are words before the conversation. The template is text."""

    def text(self, text: str) -> list[int]:
        return toy_language.text_tokens(text)

    def chat(self, body: Json) -> list[int]:
        return self.text(self.template(body))

    def template(self, body: Json) -> str:
        tools = canonical_json(body["tools"]) if body.get("tools") else ""
        lines = [f"<{m['role']}> {_content(m)} </> " for m in body["messages"]]
        return "".join((tools, *lines, "<assistant>"))

    def decode(self, ids: list[int]) -> str:
        return toy_language.decode(ids)

    def say(self, ids: list[int]) -> int:
        speaker = toy_language.Speaker(seed=None, end_every=0)
        speaker.hear(ids)
        return speaker.say()


class RealTokens:
    """A real tokenizer; what it says is letters that depend on all that was said before."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._letters = [self.text(letter)[0] for letter in "abcdefghijklmnopqrstuvwxyz "]

    def text(self, text: str) -> list[int]:
        return self._read({"prompt": text}, chat=False)

    def chat(self, body: Json) -> list[int]:
        return self._read(body, chat=True)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def say(self, ids: list[int]) -> int:
        digest = hashlib.blake2b(repr(ids).encode(), digest_size=4).digest()
        return self._letters[int.from_bytes(digest, "big") % len(self._letters)]

    def _read(self, fields: Json, *, chat: bool) -> list[int]:
        ids = self._tokenizer.tokenize(BodyPrompt(chat=chat, fields=canonical_json(fields)))
        if ids is None:
            raise FakeRefusal(400, "cannot read this")
        return list(ids)


def _content(message: Json) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content)
    calls = message.get("tool_calls")
    return content + (canonical_json(calls) if calls else "")


@dataclass
class PrefixCache:
    """Full blocks by salt. ``salted`` False: one cache for everybody."""

    block_tokens: int
    salted: bool = True
    held: set[tuple[str | None, bytes]] = field(default_factory=set)

    def take(self, salt: str | None, ids: list[int]) -> int:
        """How many tokens are cached; afterwards all full blocks are."""
        names = list(self._names(salt if self.salted else None, ids))
        reusable = names[: max(0, len(ids) - 1) // self.block_tokens]
        cached = 0
        for name in reusable:
            if name not in self.held:
                break
            cached += self.block_tokens
        self.held.update(names)
        return cached

    def _names(self, salt: str | None, ids: list[int]) -> Iterator[tuple[str | None, bytes]]:
        chain = hashlib.blake2b(digest_size=16)
        size = self.block_tokens
        for at in range(0, len(ids) - size + 1, size):
            chain.update(repr(ids[at : at + size]).encode())
            yield salt, chain.digest()


@dataclass(frozen=True)
class Piece:
    """What one token, or a few, make."""

    delta: Json
    ids: tuple[int, ...]
    finish: str | None = None


@dataclass(frozen=True)
class Said:
    """A whole answer for one choice."""

    pieces: tuple[Piece, ...]
    tokens: int


def say(tokens: Tokens, prompt: list[int], *, max_tokens: int, stops: list[str]) -> Said:
    """The answer to a prompt: greedy, so that it goes on the same from any point."""
    heard, ids, given = list(prompt), [], ""
    pieces: list[Piece] = []
    pending: list[int] = []
    for number in range(max_tokens):
        heard.append(tokens.say(heard))
        ids.append(heard[-1])
        pending.append(heard[-1])
        text = tokens.decode(ids)
        whole = text.removesuffix("�")
        for stop in stops:
            if stop in whole:
                cut = whole[: whole.index(stop)]
                pieces.append(Piece({"content": cut[len(given) :]}, tuple(pending), "stop"))
                return Said(tuple(pieces), number + 1)
        last = "length" if number == max_tokens - 1 else None
        pieces.append(Piece({"content": whole[len(given) :]}, tuple(pending), last))
        given, pending = whole, []
    return Said(tuple(pieces), max_tokens)


def tool_call() -> Said:
    """An answer that calls a tool, as vLLM's parsers stream it."""
    call = {"index": 0, "id": "call_1", "type": "function"}
    pieces = (
        Piece({"content": "Let me see."}, (70, 71)),
        Piece({}, (72,)),
        Piece({"tool_calls": [call | {"function": {"name": "look_up", "arguments": ""}}]}, (73,)),
        Piece({"tool_calls": [{"index": 0, "function": {"arguments": '{"name":'}}]}, (74,)),
        Piece({"tool_calls": [{"index": 0, "function": {"arguments": '"x"}'}}]}, (75,)),
        Piece({}, (76,), "tool_calls"),
    )
    return Said(pieces, 7)


def usage_of(prompt: int, completion: int, cached: int | None, *, every: bool = False) -> Json:
    """Usage as vLLM writes it; without details where cached tokens are not reported."""
    usage: Json = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


def chunk_of(chat: bool, model: str, choices: list[Json], **more: Any) -> bytes:
    """One chunk of a stream."""
    name = "chat.completion.chunk" if chat else "text_completion"
    body = {"id": "cmpl-1", "object": name, "created": 1, "model": model, "choices": choices}
    return compact(body | more)


def compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
