"""How the prompts of a remote model become numbers to hash: three readers, the best one first.

1. :class:`LocalReader`: the model's own tokenizer and template from files of this host, under the
   same prefix identity as an embedded engine of that model. What these files and the server read
   differently (found by probes) it leaves to the server's own word.
2. :class:`ServerReader`: the server is asked for each prompt. What it does to a fixed set of probes
   is its identity, so that two servers that read alike are comparable.
3. :class:`TextReader`: the prompt's text (``inference/text_units.py``), for anything else.

A reader that cannot read a prompt gives None; then nothing is known about what of it is cached.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from inference.errors import InvalidRequest
from inference.remote.kinds import TokenizeForm
from inference.remote.server import Json, Server, ServerError, ServerRefused
from inference.request import (
    BodyPrompt,
    ChatPrompt,
    Message,
    Prompt,
    TextPrompt,
    canonical_json,
)
from inference.text_units import TEXT_TOKENIZER, text_units

SERVER_TOKENIZER = "server/1"
TOKENS_MAX = 1 << 22
"""More than any context: a server that gives more is broken."""

_FIELDS = {
    TokenizeForm.VLLM: {
        *("messages", "tools", "chat_template_kwargs"),
        *("add_generation_prompt", "continue_final_message"),
    },
    TokenizeForm.LLAMACPP: {"messages", "tools", "chat_template_kwargs"},
}

_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    },
}


def _chat(*said: tuple[str, str]) -> ChatPrompt:
    return ChatPrompt(messages=tuple(Message(role=role, content=text) for role, text in said))


TEXT_PROBE, CHAT_PROBE, SYSTEM_PROBE = "text", "chat", "system"
DEVELOPER_PROBE, TOOLS_PROBE = "developer", "tools"

PROBES: Mapping[str, Prompt] = MappingProxyType(
    {
        TEXT_PROBE: TextPrompt(text="Blocks of 16 tokens: été, 語, 😀\n\tkept  for whoever asks."),
        CHAT_PROBE: _chat(("user", " Why? "), ("assistant", "Because."), ("user", "Go on…")),
        SYSTEM_PROBE: _chat(("system", "Be brief."), ("user", "Why?")),
        DEVELOPER_PROBE: _chat(("developer", "Be brief."), ("user", "Why?")),
        TOOLS_PROBE: BodyPrompt(
            chat=True,
            fields=canonical_json(
                {"messages": [{"role": "user", "content": "Who is it?"}], "tools": [_TOOL]}
            ),
        ),
    }
)
"""Prompts that show how a model's text is read; part of :data:`SERVER_TOKENIZER`'s meaning."""

NEEDED = (TEXT_PROBE, CHAT_PROBE, SYSTEM_PROBE)
"""What a reader must agree on with the server at all; the other probes stand for prompts alike."""

Tokens = tuple[int, ...]


class PromptReader(Protocol):
    """Reads the prompts of one model.

    ``tokenizer`` and ``template`` are its part of the prefix identity; ``tokens`` says whether it
    gives real token ids; ``words`` is what the host's owner is told about it.
    """

    @property
    def tokenizer(self) -> str: ...

    @property
    def template(self) -> str: ...

    @property
    def tokens(self) -> bool: ...

    @property
    def words(self) -> str: ...

    async def read(self, prompt: Prompt) -> Tokens | None:
        """The prompt's numbers, or None; raises ``InvalidRequest``."""


class LocalTokenizer(Protocol):
    """What is used of ``inference.tokenizer.PromptTokenizer``."""

    digest: str
    template_digest: str

    def tokenize(self, prompt: Prompt) -> Tokens | None: ...


class TextReader:
    """Reads any prompt that is text."""

    tokenizer = TEXT_TOKENIZER
    template = TEXT_TOKENIZER
    tokens = False
    words = "as text: its tokenizer is not known here"

    async def read(self, prompt: Prompt) -> Tokens | None:
        return text_units(prompt)


class ServerTokens:
    """Asks a server for the tokens of a prompt.

    Args:
        server: The server.
        form: How it is asked.
        model: The model, as the server names it.
        within_s: How long it may take to answer; None for as long as any question.
    """

    def __init__(
        self, server: Server, form: TokenizeForm, model: str, *, within_s: float | None = None
    ) -> None:
        self._server = server
        self._within_s = within_s
        self._form = form
        self._model = model

    async def ask(self, prompt: Prompt) -> Tokens | None:
        """The tokens; None for a prompt that cannot be asked for.

        Raises:
            ServerError: As the server refuses or fails.
        """
        fields = _fields_of(prompt)
        if fields is None:
            return None
        given = fields.get("prompt")
        if isinstance(given, list) and "messages" not in fields:
            return _checked(given)
        allowed = _FIELDS[self._form] if "messages" in fields else {"prompt"}
        if not set(fields) <= allowed:
            return None
        if self._form is TokenizeForm.VLLM:
            if fields.get("continue_final_message"):
                fields = {"add_generation_prompt": False} | fields
            return await self._tokens({"model": self._model} | fields)
        if "messages" in fields:
            given = (await self._post("/apply-template", fields)).get("prompt")
        if not isinstance(given, str):
            return None
        # As this server itself does with prompts of both kinds.
        return await self._tokens({"content": given, "add_special": True, "parse_special": True})

    async def _tokens(self, body: Json) -> Tokens | None:
        return _checked((await self._post("/tokenize", body)).get("tokens"))

    async def _post(self, path: str, body: Json) -> Json:
        return await self._server.post_json(path, body, within_s=self._within_s)


class ServerReader:
    """Reads by asking the server.

    Args:
        asked: The server's tokenizer.
        probes: What it gave for :data:`PROBES`.
    """

    tokens = True
    template = SERVER_TOKENIZER
    words = "by the server's /tokenize"

    def __init__(self, asked: ServerTokens, probes: Mapping[str, Tokens | None]) -> None:
        self._asked = asked
        given = [[name, probes.get(name)] for name in sorted(PROBES)]
        digest = hashlib.sha256(canonical_json(given).encode()).hexdigest()
        self.tokenizer = f"{SERVER_TOKENIZER}:{digest}"

    async def read(self, prompt: Prompt) -> Tokens | None:
        return await _asked_or_none(self._asked, prompt)


class LocalReader:
    """Reads with the model's own files.

    Args:
        local: Tokenizer and template.
        asked: The server's tokenizer, for what the files do not tell or tell otherwise; None where
            it has none.
        agreed: The probes on which both agree.
    """

    tokens = True

    def __init__(
        self, local: LocalTokenizer, asked: ServerTokens | None, agreed: frozenset[str]
    ) -> None:
        self._local = local
        self._asked = asked
        self._agreed = agreed
        self.tokenizer = local.digest
        self.template = local.template_digest
        self.words = "by the model's own tokenizer"
        if asked is None:
            self.words += ", unchecked: the server has no /tokenize"

    async def read(self, prompt: Prompt) -> Tokens | None:
        if _needed_of(prompt) <= self._agreed:
            ids = self._local.tokenize(prompt)
            if ids is not None:
                return ids
        return None if self._asked is None else await _asked_or_none(self._asked, prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The reader for a model, and why no better one was taken."""

    reader: PromptReader
    degraded: tuple[str, ...] = ()


async def choose_reader(
    local: LocalTokenizer | None, asked: ServerTokens | None, *, model: str
) -> Choice:
    """The best reader that what is there allows.

    Args:
        local: The model's own tokenizer, where its files were found.
        asked: The server's, where it has one.
        model: Named in what the owner is told.
    """
    theirs = {} if asked is None else await probe(asked)
    told = [name for name in NEEDED if theirs.get(name) is not None]
    if asked is None or TEXT_PROBE not in told:
        if local is not None:
            return Choice(reader=LocalReader(local, None, frozenset(NEEDED)))
        why = f"{model}: no tokenizer found here and none at the server: prompts are read as text"
        return Choice(reader=TextReader(), degraded=(why,))
    no_chat = (f"{model}: its /tokenize reads no messages; it may have no chat template",)
    degraded = () if CHAT_PROBE in told else no_chat
    if local is None:
        # Conversations are what is asked for again and again: better all of them as text.
        reader = ServerReader(asked, theirs) if CHAT_PROBE in told else TextReader()
        return Choice(reader=reader, degraded=degraded)
    agreed = {name for name, ids in theirs.items() if ids and ids == _tried(local, name)}
    if set(told) <= agreed:
        agreed |= set(NEEDED)
        return Choice(reader=LocalReader(local, asked, frozenset(agreed)), degraded=degraded)
    differ = ", ".join(name for name in told if name not in agreed)
    why = (
        f"{model}: the tokenizer of this host and the server's differ ({differ}): the server is "
        "asked for each prompt"
    )
    return Choice(reader=ServerReader(asked, theirs), degraded=(*degraded, why))


async def probe(asked: ServerTokens) -> dict[str, Tokens | None]:
    """What a server gives for each probe; None where it refuses.

    Raises:
        ServerError: When it is gone or broken.
    """
    given: dict[str, Tokens | None] = {}
    for name, prompt in PROBES.items():
        try:
            given[name] = await asked.ask(prompt)
        except ServerRefused:
            given[name] = None
    return given


def _tried(local: LocalTokenizer, name: str) -> Tokens | None:
    try:
        return local.tokenize(PROBES[name])
    except InvalidRequest:
        return None


def _needed_of(prompt: Prompt) -> frozenset[str]:
    """The probes that stand for a prompt."""
    needed = {TEXT_PROBE if isinstance(prompt, TextPrompt) else CHAT_PROBE}
    match prompt:
        case ChatPrompt(messages=messages):
            if any(message.role == "developer" for message in messages):
                needed.add(DEVELOPER_PROBE)
        case BodyPrompt(fields=fields):
            listed: dict[str, Any] = json.loads(fields)  # any JSON of a client
            if listed.get("tools"):
                needed.add(TOOLS_PROBE)
            if any(_role_of(each) == "developer" for each in listed.get("messages") or ()):
                needed.add(DEVELOPER_PROBE)
    return frozenset(needed)


def _role_of(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _fields_of(prompt: Prompt) -> Json | None:
    """The fields of a body that ask for this prompt."""
    match prompt:
        case ChatPrompt(messages=messages):
            return {"messages": [{"role": m.role, "content": m.content} for m in messages]}
        case TextPrompt(text=text):
            return {"prompt": text}
        case BodyPrompt(opaque=True):
            return None
        case BodyPrompt(fields=fields):
            found: Json = json.loads(fields)
            value = found.get("prompt")
            if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
                found["prompt"] = value[0]
            return found


async def _asked_or_none(asked: ServerTokens, prompt: Prompt) -> Tokens | None:
    """What the server says; it will say the same of a request that it does not understand."""
    try:
        return await asked.ask(prompt)
    except ServerError:
        return None


def _checked(ids: object) -> Tokens | None:
    """Token ids of a server; None for anything else."""
    if not isinstance(ids, list) or not 0 < len(ids) <= TOKENS_MAX:
        return None
    if not all(type(each) is int and 0 <= each < 1 << 31 for each in ids):
        return None
    return tuple(ids)
