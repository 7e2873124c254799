"""An inference server of any kind on a loopback port, in this process, with faults on demand.

::

    fake = FakeServer(RemoteKind.VLLM, models=("toy",))
    async with fake.running():          # or: await nursery.start(fake.serve); fake.stop()
        ... fake.url ...
        fake.faults.cut_after = 3       # the next answers break off after three chunks
        await fake.quiet()              # until no answer is under way any more

It has a scripted prefix cache by salt, a greedy "model" that goes on the same from any point, and
what each kind tells of itself. ``seen`` has every request; ``left_early`` counts answers whose
client went away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio

from inference.remote.settings import RemoteKind
from tests.inference.remote.fake_http import Channel, read_request
from tests.inference.remote.fake_model import (
    FakeRefusal,
    Json,
    PrefixCache,
    Said,
    Tokens,
    ToyTokens,
    chunk_of,
    compact,
    say,
    tool_call,
    usage_of,
)

OWNERS = {
    RemoteKind.VLLM: "vllm",
    RemoteKind.SGLANG: "sglang",
    RemoteKind.LLAMACPP: "llamacpp",
    RemoteKind.OLLAMA: "library",
    RemoteKind.OPENAI: "somebody",
}
DEFAULT_TOKENS = 16
"""Of a text completion; a chat has the rest of the context."""


@dataclass
class Faults:
    """What goes wrong with answers (``..._after`` so many chunks), until it is set back."""

    status: int | None = None
    status_body: bytes = b'{"error":{"message":"no"}}'
    redirect: str | None = None
    hold: trio.Event | None = None
    hold_after: tuple[int, trio.Event] | None = None
    cut_after: int | None = None
    stop_after: int | None = None
    inject_after: tuple[int, bytes] | None = None
    without_done: bool = False
    content_type: str = "text/event-stream; charset=utf-8"
    unhealthy: bool = False
    deaf: trio.Event | None = None
    """Whatever is asked, nothing is answered until then."""


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json


@dataclass(eq=False)
class FakeServer:
    """One server. Everything may be changed while it runs."""

    kind: RemoteKind
    models: Sequence[str] = ("toy",)
    root: str | None = None
    context_tokens: int = 2048
    block_tokens: int = 16
    slots: int = 4
    salted: bool = True
    caches: bool = True
    reports_cached: bool = True
    gives_ids: bool = True
    has_tokenize: bool = True
    calls_tools: bool = False
    owner: str | None = None
    api_key: str | None = None
    prefill_s_per_token: float = 0.0
    decode_s_per_token: float = 0.0
    started_s: float = 1.0
    event_sources: Json = field(default_factory=dict)
    more_info: Json = field(default_factory=dict)
    version: str = "0.32.0"
    weights_file: str = __file__
    """What llama.cpp says that it has loaded; any file will do."""
    meta: Json = field(default_factory=lambda: {"n_params": 1})
    tags: dict[str, str] = field(default_factory=dict)
    """Ollama's digests by model, where they are not made of the name."""
    tokens: Tokens = field(default_factory=ToyTokens)
    faults: Faults = field(default_factory=Faults)
    seen: list[Seen] = field(default_factory=list)
    left_early: int = 0
    broken: int = 0
    answering: int = 0
    waiting: int = 0
    _port: int = 0
    _scope: trio.CancelScope | None = None

    def __post_init__(self) -> None:
        self.cache = PrefixCache(self.block_tokens, salted=self.salted)
        self._quiet = trio.Event()
        self._limiter = trio.CapacityLimiter(self.slots)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serves while entered; entered again, on the same port and with an empty cache."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.serve)
            try:
                yield self.url
            finally:
                self.stop()

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until stopped or cancelled."""
        self.cache.held.clear()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                listeners = await trio.open_tcp_listeners(self._port, host="127.0.0.1")
                self._port = listeners[0].socket.getsockname()[1]
                task_status.started(self.url)
                await trio.serve_listeners(self._connection, listeners, handler_nursery=nursery)

    def stop(self) -> None:
        """As if the process was killed: every connection breaks."""
        if self._scope is not None:
            self._scope.cancel()

    async def quiet(self) -> None:
        """Until no answer is under way."""
        while self.answering:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def asked(self, path: str) -> list[Json]:
        """The bodies of the requests to a path, in order."""
        return [each.body for each in self.seen if each.path == path]

    async def _connection(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            request, raw = await read_request(connection, stream)
            headers = {name.decode(): value.decode() for name, value in request.headers}
            seen = Seen(
                request.method.decode(),
                request.target.decode(),
                headers,
                json.loads(raw) if raw else {},
            )
            self.seen.append(seen)
            if self.faults.deaf is not None:
                await self.faults.deaf.wait()
            await self._respond(Channel(connection, stream), seen)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            self.broken += 1  # the client went away, or the answer was to be cut
        finally:
            await trio.aclose_forcefully(stream)

    async def _respond(self, channel: Channel, seen: Seen) -> None:
        if self.api_key and seen.headers.get("authorization") != f"Bearer {self.api_key}":
            await channel.whole(401, b'{"error":{"message":"key"}}')
            return
        try:
            if seen.path in {"/v1/completions", "/v1/chat/completions"}:
                await self._generate(channel, seen)
                return
            found = self._page(seen)
        except FakeRefusal as refusal:
            await channel.whole(refusal.status, compact(refusal.body))
            return
        if found is None:
            await channel.whole(404, b'{"detail":"Not Found"}')
        elif isinstance(found, str):
            await channel.whole(503 if self.faults.unhealthy else 200, found.encode(), "text/plain")
        else:
            await channel.whole(200, compact(found))

    def _page(self, seen: Seen) -> Json | str | None:
        """What a path gives; None where this kind has no such path."""
        match seen.path:
            case "/v1/models":
                return {"object": "list", "data": [self._card(name) for name in self.models]}
            case "/health" if self.kind not in {RemoteKind.OLLAMA, RemoteKind.OPENAI}:
                return ""
            case "/metrics" if self.kind not in {RemoteKind.OLLAMA, RemoteKind.OPENAI}:
                return self._metrics()
            case "/version" if self.kind is RemoteKind.VLLM:
                return {"version": self.version}
            case "/api/version" if self.kind is RemoteKind.OLLAMA:
                return {"version": "0.9"}
            case "/api/tags" if self.kind is RemoteKind.OLLAMA:
                return {"models": [self._tag(name) for name in self.models]}
            case "/kv_event_sources" if self.kind is RemoteKind.VLLM:
                return self.event_sources
            case "/get_server_info" if self.kind is RemoteKind.SGLANG:
                told = {"version": "0.5", "page_size": self.block_tokens}
                return told | {"max_running_requests": self.slots} | self.more_info
            case "/props" if self.kind is RemoteKind.LLAMACPP:
                context = {"default_generation_settings": {"n_ctx": self.context_tokens}}
                told = {"build_info": "b1", "model_path": self.weights_file}
                return context | {"total_slots": self.slots} | told | self.more_info
            case "/apply-template" if self.kind is RemoteKind.LLAMACPP:
                return {"prompt": ToyTokens().template(seen.body)}
            case "/tokenize" if self.has_tokenize and self._tokenizes:
                return self._tokenize(seen.body)
        return None

    @property
    def _tokenizes(self) -> bool:
        return self.kind in {RemoteKind.VLLM, RemoteKind.SGLANG, RemoteKind.LLAMACPP}

    def _card(self, name: str) -> Json:
        card: Json = {"id": name, "object": "model", "owned_by": self.owner or OWNERS[self.kind]}
        if self.kind in {RemoteKind.VLLM, RemoteKind.SGLANG}:
            card |= {"root": self.root or name, "max_model_len": self.context_tokens}
        if self.kind is RemoteKind.LLAMACPP:
            card["meta"] = self.meta
        return card

    def _tag(self, name: str) -> Json:
        digest = self.tags.get(name) or hashlib.sha256(name.encode()).hexdigest()
        return {"name": name, "digest": digest, "details": {"quantization_level": "Q4_0"}}

    def _metrics(self) -> str:
        running = min(self.answering, self.slots)
        names = {
            RemoteKind.VLLM: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
            RemoteKind.SGLANG: ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
            RemoteKind.LLAMACPP: ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        }[self.kind]
        lines = [f"process_start_time_seconds {self.started_s}", "# HELP x y"]
        lines += [f'{names[0]}{{engine="0"}} {running}.0', f"{names[1]} {self.waiting}"]
        if self.kind is RemoteKind.VLLM:
            lines.append("vllm:kv_cache_usage_perc 0.25")
            size = f'block_size="{self.block_tokens}",num_gpu_blocks="80"'
            lines.append(f"vllm:cache_config_info{{{size}}} 1.0")
        return "\n".join(lines) + "\n"

    def _tokenize(self, body: Json) -> Json:
        if self.kind is RemoteKind.LLAMACPP:
            return {"tokens": self.tokens.text(body["content"])}
        self._check_model(body)
        fields = {name: value for name, value in body.items() if name != "model"}
        ids = self.tokens.chat(fields) if "messages" in fields else self.tokens.text(body["prompt"])
        return {"count": len(ids), "max_model_len": self.context_tokens, "tokens": ids}

    def _check_model(self, body: Json) -> None:
        if body.get("model", self.models[0]) not in self.models:
            raise FakeRefusal(404, f"The model `{body['model']}` does not exist.", "model")

    def _prompts(self, body: Json, *, chat: bool) -> list[list[int]]:
        """One prompt, or several of a text completion."""
        if chat:
            names = ("messages", "tools", "chat_template_kwargs")
            return [self.tokens.chat({name: body[name] for name in names if body.get(name)})]
        given = body["prompt"]
        several = isinstance(given, list) and not all(isinstance(each, int) for each in given)
        prompts = given if several else [given]
        return [self.tokens.text(each) if isinstance(each, str) else list(each) for each in prompts]

    async def _generate(self, channel: Channel, seen: Seen) -> None:
        faults, body = self.faults, seen.body
        chat = seen.path.startswith("/v1/chat")
        if faults.redirect is not None:
            await channel.whole(307, b"", location=faults.redirect)
            return
        if faults.status is not None:
            await channel.whole(faults.status, faults.status_body)
            return
        self._check_model(body)
        prompts = self._prompts(body, chat=chat)
        if max(map(len, prompts)) >= self.context_tokens:
            words = f"This model's maximum context length is {self.context_tokens} tokens."
            raise FakeRefusal(400, words, "input_tokens")
        if body.get("temperature", 1) > 2:
            raise FakeRefusal(
                400, "1 validation error:\n {'msg': 'hot', 'input': 'secret'}", "body.t"
            )
        self.answering += 1
        self.waiting += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_left, channel, nursery.cancel_scope)
                async with self._limiter:
                    self.waiting -= 1
                    try:
                        await self._answer(channel, body, prompts, chat=chat)
                    finally:
                        self.waiting += 1
                nursery.cancel_scope.cancel()
        finally:
            self.waiting -= 1
            self.answering -= 1
            self._quiet.set()

    async def _until_left(self, channel: Channel, scope: trio.CancelScope) -> None:
        try:
            gone = not await channel.stream.receive_some(1)
        except trio.BrokenResourceError:
            gone = True
        if gone:
            self.left_early += 1
            scope.cancel()

    async def _answer(
        self, channel: Channel, body: Json, prompts: list[list[int]], *, chat: bool
    ) -> None:
        salt = body.get("cache_salt")
        cached = sum(self.cache.take(salt, prompt) for prompt in prompts) if self.caches else 0
        length = sum(map(len, prompts))
        if body.get("stream") and self.kind is RemoteKind.VLLM:
            await channel.begin(self.faults.content_type)
        if self.faults.hold is not None:
            await self.faults.hold.wait()
        await trio.sleep((length - cached) * self.prefill_s_per_token)
        answers = [
            self._say(body, prompt, chat=chat)
            for prompt in prompts
            for _ in range(body.get("n") or 1)
        ]
        shown = cached if self.reports_cached else None
        usage = usage_of(length, sum(said.tokens for said in answers), shown)
        if not body.get("stream"):
            await trio.sleep(self.decode_s_per_token * answers[0].tokens)
            await channel.whole(200, compact(self._whole(body, answers, usage, chat=chat)))
            return
        if not channel.begun:
            await channel.begin(self.faults.content_type)
        await self._stream(channel, self._chunks(body, answers, prompts[0], usage, chat=chat))

    def _say(self, body: Json, prompt: list[int], *, chat: bool) -> Said:
        if self.calls_tools and body.get("tools"):
            return tool_call()
        room = self.context_tokens - len(prompt)
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        stops = body.get("stop") or []
        return say(
            self.tokens,
            prompt,
            max_tokens=min(most or (room if chat else DEFAULT_TOKENS), room),
            stops=[stops] if isinstance(stops, str) else stops,
        )

    async def _stream(self, channel: Channel, chunks: list[bytes]) -> None:
        faults = self.faults
        for number, chunk in enumerate(chunks):
            if faults.hold_after is not None and faults.hold_after[0] == number:
                await faults.hold_after[1].wait()
            if faults.inject_after is not None and faults.inject_after[0] == number:
                await channel.data(faults.inject_after[1])
            if number == faults.cut_after:
                raise trio.BrokenResourceError
            if number == faults.stop_after:
                break
            if chunk != b"[DONE]" or not faults.without_done:
                await channel.data(b"data: " + chunk + b"\n\n")
            await trio.sleep(self.decode_s_per_token)
        await channel.end()

    def _chunks(
        self, body: Json, answers: list[Said], prompt: list[int], usage: Json, *, chat: bool
    ) -> list[bytes]:
        ids = bool(body.get("return_token_ids")) and self.gives_ids
        chunks, model = [], body["model"]
        options = body.get("stream_options") or {}
        for index, said in enumerate(answers):
            if chat:
                first = {"index": index, "delta": {"role": "assistant", "content": ""}}
                more = {"prompt_token_ids": prompt} if ids else {}
                chunks.append(chunk_of(chat, model, [first | _none()], **more))
            for piece in said.pieces:
                choice = {"index": index} | (
                    {"delta": piece.delta} if chat else {"text": piece.delta.get("content", "")}
                )
                choice |= {"logprobs": None, "finish_reason": piece.finish}
                choice |= {"token_ids": list(piece.ids)} if ids else {}
                chunks.append(chunk_of(chat, model, [choice]))
        if options.get("include_usage"):
            more = {"usage": usage}
            if self.kind is RemoteKind.LLAMACPP:
                details = usage.get("prompt_tokens_details", {})
                more = {"usage": usage, "timings": {"cache_n": details.get("cached_tokens", 0)}}
            chunks.append(chunk_of(chat, model, [], **more))
        return [*chunks, b"[DONE]"]

    def _whole(self, body: Json, answers: list[Said], usage: Json, *, chat: bool) -> Json:
        choices = []
        for index, said in enumerate(answers):
            text = "".join(piece.delta.get("content", "") for piece in said.pieces)
            choice: Json = {"index": index, "finish_reason": said.pieces[-1].finish}
            choice |= (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            if body.get("return_token_ids") and self.gives_ids:
                choice["token_ids"] = [each for piece in said.pieces for each in piece.ids]
            choices.append(choice)
        return {"id": "cmpl-1", "model": body["model"], "choices": choices, "usage": usage}


def _none() -> Json:
    return {"logprobs": None, "finish_reason": None}
