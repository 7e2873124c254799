"""What clients of every mode ask, and what of it the twin is asked too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from chaos.history import Event, What
from chaos.modes.toy import toy_ids
from chaos.scenario.prompts import prompt
from chaos.scenario.request import PlannedRequest
from chaos.scenario.scenario import Cluster
from chaos.twin import TwinRequest
from inference.request import ChatPrompt, Message, TextPrompt, canonical_json

SEED = 1

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
"""What a request with tools may call."""

PATIENCE_S = 10.0
"""A client waits so long beyond its request's deadline."""

AT_FAULT = frozenset(
    {
        "context_length_exceeded",
        "invalid_request",
        "invalid_value",
        "body_too_large",
        "model_not_found",
    }
)
"""Codes of refusals that only the request itself explains."""

TAKEN = {What.STARTED, What.OK, What.FAIL}
"""Events of a request that show that its ingress took it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as a client sent it. ``text`` is the content of its one user message."""

    request: PlannedRequest
    at_s: float
    text: str


@lru_cache(maxsize=4096)
def prompt_text(request: PlannedRequest) -> str:
    """The prompt of a request; its making is slow."""
    return prompt(request)


def prompt_ids(text: str) -> tuple[int, ...]:
    """The toy tokenizer's ids of a chat with one user message."""
    return toy_ids(ChatPrompt(messages=(Message(role="user", content=text),)))


def asked_ids(request: PlannedRequest, text: str) -> tuple[int, ...]:
    """The toy tokenizer's ids of a request, as whatever engine can answer it reads it."""
    if not request.tools:
        return prompt_ids(text)
    messages = [{"content": text, "role": "user"}]
    return toy_ids(TextPrompt(text=canonical_json({"messages": messages, "tools": [TOOL]})))


def body_of(request: PlannedRequest, text: str) -> bytes:
    """The JSON body of a chat completion: greedy and seeded."""
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "seed": SEED,
    }
    if request.stream:
        body["stream"] = True
    if request.tools:
        body["tools"] = [TOOL]
    return json.dumps(body).encode()


def twin_requests(
    sent: Iterable[Sent], events: Sequence[Event], cluster: Cluster
) -> list[TwinRequest]:
    """The requests that an ingress took, as it got them."""
    left_s = {event.subject: event.at_s for event in events if event.what is What.CANCELLED}
    taken = {event.subject for event in events if event.what in TAKEN}
    return [
        TwinRequest(
            id=each.request.id,
            at_s=each.at_s,
            ingress=each.request.ingress,
            tenant=each.request.tenant,
            token_ids=asked_ids(each.request, each.text),
            max_tokens=each.request.max_tokens,
            left_s=left_s.get(each.request.id),
            seed=SEED,
            alone=cluster.could_alone(
                each.request.ingress, each.request.tenant, tools=each.request.tools
            ),
        )
        for each in sent
        if each.request.id in taken
    ]
