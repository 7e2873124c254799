"""The toy engine as a server beside the peer would be: given whole bodies, answering in chunks.

What ``inference/remote`` makes of a real server, under virtual time: the client's body reaches the
engine, the engine's own JSON comes back, and it may have no cache salts and tell no token ids.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from chaos.core_double import CoreDouble
from inference.core import EngineCore, StepResult
from inference.request import (
    BodyPrompt,
    Capabilities,
    EngineRequest,
    EngineUsage,
    FinishReason,
    Prompt,
    TextPrompt,
    TokenEvent,
)
from inference.toy import ToyConfig, ToyEngine

Json = dict[str, Any]
"""JSON objects hold values of every type."""

BODIES_KEPT = 16
"""Bodies that a toy server remembers, for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteToyConfig(ToyConfig):
    """A toy engine behind a made-up server.

    ``salts``: it keeps tenants apart by itself. ``tells_ids``: its answers can be resumed.
    ``exact``: it tells what it has cached.
    """

    salts: bool = True
    tells_ids: bool = True
    exact: bool = True


def core_of(config: ToyConfig, make: Callable[[ToyConfig], EngineCore] = ToyEngine) -> EngineCore:
    """The engine of a simulated host; ``make`` makes the toy that computes."""
    engine = make(config)
    return RemoteToy(engine, config) if isinstance(config, RemoteToyConfig) else engine


@dataclass(slots=True)
class _Asked:
    """One request: what its body asks for, and what has been answered so far."""

    request: EngineRequest
    body: Json
    text: str = ""
    tokens: int = 0
    cached_tokens: int = 0
    begun: bool = False

    @property
    def calls_tool(self) -> bool:
        return bool(self.body.get("tools"))


class RemoteToy(CoreDouble):
    """``inference.core.EngineCore`` whose events carry the server's own JSON.

    With ``tools`` in the body its answer is a call of the first one, whose arguments are what it
    would have said; without ``stream`` it is one piece.
    """

    def __init__(self, inner: EngineCore, config: RemoteToyConfig) -> None:
        super().__init__(inner)
        self._config = config
        self._asked: dict[str, _Asked] = {}
        self.bodies: deque[Json] = deque(maxlen=BODIES_KEPT)
        told = inner.capabilities()
        models = [
            replace(model, passes_bodies=True, estimated=not config.exact) for model in told.models
        ]
        self._capabilities = replace(
            told,
            models=tuple(models),
            salts=config.salts,
            exact_claims=config.exact,
            reports_token_ids=config.tells_ids,
            description="toy server",
        )

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        if not isinstance(prompt, BodyPrompt):
            return super().tokenize(model, prompt)
        return None if prompt.opaque else super().tokenize(model, TextPrompt(text=prompt.fields))

    def add(self, request: EngineRequest) -> None:
        body = json.loads(request.body) if request.body else {}
        if not request.token_ids:
            text = TextPrompt(text=request.body.decode())
            request = replace(request, token_ids=super().tokenize(request.model, text) or ())
        super().add(request)
        self.bodies.append(body)
        self._asked[request.request_id] = _Asked(request, body)

    def cancel(self, request_id: str) -> None:
        super().cancel(request_id)
        self._asked.pop(request_id, None)

    def step(self) -> StepResult:
        result = super().step()
        told = [(name, self._told(self._asked[name], event)) for name, event in result.events]
        for name, _ in result.failed:
            self._asked.pop(name, None)
        events = tuple((name, event) for name, event in told if event is not None)
        return StepResult(events=events, failed=result.failed, virtual_s=result.virtual_s)

    def reset(self) -> None:
        super().reset()
        self._asked.clear()

    def _told(self, asked: _Asked, event: TokenEvent) -> TokenEvent | None:
        asked.text += event.text
        asked.tokens += len(event.token_ids or ())
        if event.cached_tokens is not None:
            asked.cached_tokens = event.cached_tokens
        reason, usage = event.finish_reason, None
        if reason is not None:
            del self._asked[asked.request.request_id]
            reason = FinishReason.TOOL_CALLS if asked.calls_tool else reason
            usage = EngineUsage(
                prompt_tokens=len(asked.request.token_ids),
                completion_tokens=asked.tokens,
                cached_tokens=asked.cached_tokens,
            )
        if asked.request.emitted:
            return replace(event, usage=usage)
        if not asked.body.get("stream"):
            if reason is None:
                return None
            whole = _chunk(asked, reason, {"message": _said(asked, asked.text)})
            return TokenEvent(
                token_ids=None,
                text="" if asked.calls_tool else asked.text,
                cached_tokens=asked.cached_tokens,
                finish_reason=reason,
                usage=usage,
                chunk=whole,
            )
        chunk = _chunk(asked, reason, {"delta": _said(asked, event.text)})
        asked.begun = True
        plain = not asked.calls_tool
        return TokenEvent(
            token_ids=event.token_ids if plain and self._config.tells_ids else None,
            text=event.text if plain else "",
            cached_tokens=event.cached_tokens,
            finish_reason=reason,
            usage=usage,
            chunk=chunk,
        )


def _said(asked: _Asked, text: str) -> Json:
    said: Json = {} if asked.begun else {"role": "assistant"}
    if not asked.calls_tool:
        return {**said, "content": text}
    name = asked.body["tools"][0]["function"]["name"]
    call: Json = {"index": 0, "function": {"arguments": text}}
    if not asked.begun:
        call |= {"id": "call-1", "type": "function"}
        call["function"]["name"] = name
    return {**said, "content": None, "tool_calls": [call]}


def _chunk(asked: _Asked, reason: FinishReason | None, said: Json) -> bytes:
    choice = {"index": 0, **said, "finish_reason": None if reason is None else reason.value}
    value = {"id": "theirs", "model": asked.request.model, "choices": [choice], "made_up": True}
    return json.dumps(value).encode()
