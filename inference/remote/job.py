"""One request at an inference server: what is kept of it, and what it means before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from inference.blocks import BlockChain
from inference.events import BlockHash
from inference.remote.answer import AnswerReader
from inference.remote.body import Upstream, tokens_left
from inference.remote.cache_picture import CachePicture
from inference.remote.preflight import Preflight
from inference.remote.stream import RemoteAnswer
from inference.request import (
    BodyPrompt,
    ChatPrompt,
    EngineRequest,
    FinishReason,
    Prompt,
    ServedModel,
    TokenEvent,
    canonical_json,
)


@dataclass(slots=True, kw_only=True, eq=False)
class Serving:
    """A server that is there; ``degraded`` is what was found out later than by looking it over."""

    preflight: Preflight
    picture: CachePicture
    degraded: list[str] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request at the server. ``expected`` is how many of its blocks are thought cached."""

    request: EngineRequest
    upstream: Upstream
    serving: Serving
    expected: int
    answer: RemoteAnswer = field(default_factory=RemoteAnswer)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    opened: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    reader: AnswerReader | None = None


def as_sent(prompt: Prompt) -> Prompt:
    """Messages whose text came in parts reach the server so, and it joins them as it will."""
    if not isinstance(prompt, ChatPrompt) or not any(each.parts for each in prompt.messages):
        return prompt
    messages = [
        {
            "role": each.role,
            "content": [{"type": "text", "text": part} for part in each.parts] or each.content,
        }
        for each in prompt.messages
    ]
    return BodyPrompt(chat=True, fields=canonical_json({"messages": messages}))


def names_of(request: EngineRequest, served: ServedModel) -> Sequence[BlockHash]:
    """The blocks of a request."""
    chain = BlockChain(request.chain_key, served.prefix)
    return chain.hashes((*request.token_ids, *request.emitted))


def served_of(serving: Serving, name: str) -> ServedModel | None:
    """The model of that name, if the server has it."""
    return next((model for model in serving.preflight.models if model.name == name), None)


def is_complete(request: EngineRequest, serving: Serving) -> bool:
    """Whether an answer that is to be continued has all its tokens, or all that have room."""
    if not request.emitted:
        return False
    left, served = tokens_left(request), served_of(serving, request.model)
    given = len(request.token_ids) + len(request.emitted)
    is_full = served is not None and not served.by_text and given >= served.context_tokens
    return is_full or (left is not None and left < 1)


async def nothing_more() -> RemoteAnswer:
    """The rest of an answer that has no room for more."""
    answer = RemoteAnswer()
    await answer.put(
        TokenEvent(token_ids=(), text="", cached_tokens=0, finish_reason=FinishReason.LENGTH)
    )
    return answer
