"""A remote engine in front of a fake server, and requests for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from inference.remote.engine import Pictured, RemoteEngine
from inference.remote.preflight import Preflight
from inference.remote.settings import RemoteSettings, RemoteTimeouts
from inference.request import (
    BodyPrompt,
    ChatPrompt,
    EngineRequest,
    Message,
    Namespace,
    Prompt,
    Sampling,
    TextPrompt,
    TokenEvent,
    canonical_json,
)
from tests.inference.remote.fake_picture import FakePicture
from tests.inference.remote.fake_server import FakeServer

WORDS = "Blocks of sixteen tokens each are kept for whoever asks next, and evicted at last. "
PATIENT = RemoteTimeouts(enter_s=5.0, first_look_s=20.0)
"""Entering waits for the server's word, so that a test knows where an error comes out."""


def secrets() -> Callable[[int], bytes]:
    """Bytes that differ each time, the same in each run."""
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "little")


@dataclass(eq=False)
class RemoteBench:
    """The engine, the server behind it, and every picture that was made."""

    fake: FakeServer
    engine: RemoteEngine
    pictures: list[FakePicture] = field(default_factory=list)

    @property
    def picture(self) -> FakePicture:
        return self.pictures[-1]

    def make_picture(self, preflight: Preflight) -> Pictured:
        self.preflight = preflight
        self.pictures.append(FakePicture())
        return Pictured(picture=self.picture)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits, as long as the test's own limit allows, until something is so."""
        while not condition():
            await trio.sleep(0.01)


def settings_of(fake: FakeServer, **given: Any) -> RemoteSettings:
    return RemoteSettings(**{"kind": fake.kind, "url": fake.url, "timeouts": PATIENT} | given)


@asynccontextmanager
async def engine_only(fake: FakeServer, **given: Any) -> AsyncIterator[RemoteBench]:
    """The engine runs; the server is somebody else's matter."""
    bench = RemoteBench(fake, None)  # type: ignore[arg-type]
    bench.engine = RemoteEngine(settings_of(fake, **given), bench.make_picture, secret=secrets())
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.engine.run)
            yield bench
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def remote(fake: FakeServer, **given: Any) -> AsyncIterator[RemoteBench]:
    """Both run."""
    async with fake.running(), engine_only(fake, **given) as bench:
        yield bench


def chat(*said: str) -> ChatPrompt:
    roles = itertools.cycle(("user", "assistant"))
    return ChatPrompt(
        messages=tuple(Message(role=r, content=c) for r, c in zip(roles, said, strict=False))
    )


def body_of(prompt: Prompt, **more: Any) -> dict[str, Any]:
    match prompt:
        case ChatPrompt(messages=messages):
            fields: dict[str, Any] = {
                "messages": [{"role": m.role, "content": m.content} for m in messages]
            }
        case TextPrompt(text=text):
            fields = {"prompt": text}
        case BodyPrompt(fields=written):
            fields = json.loads(written)
    return {"model": "shown", **fields, **more}


async def request_for(
    bench: RemoteBench,
    prompt: Prompt,
    *,
    request_id: str = "r",
    namespace: str = "a",
    stream: bool = True,
    max_tokens: int | None = 8,
    **more: Any,
) -> EngineRequest:
    """A request as the overlay makes one from a client's body."""
    engine = bench.engine
    model = engine.capabilities().models[0].name
    more = {"stream": stream, "temperature": 0} | more
    if max_tokens is not None:
        more["max_tokens"] = max_tokens
    stops = more.get("stop") or ()
    return EngineRequest(
        request_id=request_id,
        namespace=Namespace(namespace),
        chain_key=namespace.encode() * 32,
        model=model,
        token_ids=await engine.tokenize(model, prompt) or (),
        sampling=Sampling(
            seed=1,
            temperature=0,
            max_tokens=max_tokens,
            stop=tuple([stops] if isinstance(stops, str) else stops),
        ),
        body=json.dumps(body_of(prompt, **more)).encode(),
        chat=isinstance(prompt, ChatPrompt) or (isinstance(prompt, BodyPrompt) and prompt.chat),
        cache_salt=f"salt-of-{namespace}",
    )


def with_tools(*said: str) -> BodyPrompt:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    fields = body_of(chat(*said)) | {"tools": [tool]}
    del fields["model"]
    return BodyPrompt(chat=True, fields=canonical_json(fields))


async def ask(bench: RemoteBench, request: EngineRequest) -> list[TokenEvent]:
    """The whole answer; asserts what holds for every stream of events."""
    async with bench.engine.submit(request) as stream:
        events = [event async for event in stream]
    assert events[0].cached_tokens is not None
    assert all(event.cached_tokens is None for event in events[1:])
    assert events[-1].finish_reason is not None
    assert all(event.finish_reason is None and event.usage is None for event in events[:-1])
    return events


def ids_of(events: list[TokenEvent]) -> tuple[int, ...]:
    return tuple(token for event in events for token in event.token_ids or ())


def text_of(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def resumed(request: EngineRequest, emitted: tuple[int, ...], name: str) -> EngineRequest:
    return replace(request, emitted=emitted, request_id=name)
