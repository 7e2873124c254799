"""A real vLLM, as recorded: its answers through the whole engine, its errors, its tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference.errors import ContextOverflow, InferenceError, InvalidRequest, UnknownModel
from inference.remote.failures import failure_of
from inference.remote.readers import PROBES
from inference.remote.server import refused
from inference.remote.settings import RemoteKind
from inference.request import BodyPrompt, canonical_json
from inference.store.files import default_cache_dir, find_model
from inference.tokenizer import PromptTokenizer
from tests.inference.remote.bench import WORDS, ask, chat, ids_of, remote, request_for, text_of
from tests.inference.remote.fake_http import Channel
from tests.inference.remote.fake_server import FakeServer, Seen
from tests.inference.remote.recordings import exchanges

RECORDED = exchanges()


class Replay(FakeServer):
    """Answers chats with a recorded answer, cut on the wire where the recording is not."""

    name = ""

    async def _generate(self, channel: Channel, seen: Seen) -> None:
        if not self.name or not seen.path.startswith("/v1/chat"):
            await super()._generate(channel, seen)
            return
        exchange = RECORDED[self.name]
        if "body" in exchange:
            await channel.whole(exchange["status"], exchange["body"].encode())
            return
        await channel.begin(exchange["content_type"])
        raw = "".join(exchange["chunks"]).encode()
        for at in range(0, len(raw), 100):
            await channel.data(raw[at : at + 100])
        await channel.end()


@pytest.mark.parametrize(
    "name",
    [
        "chat_stream_ids_usage",
        "chat_until_end",
        "chat_stop_string",
        "tools_auto_stream",
        "tools_required_stream",
        "schema_stream",
        "logprobs_stream",
        "n2_stream",
        "cached_again_stream",
    ],
)
async def test_a_recorded_stream_passes_through_the_engine(name: str) -> None:
    asked = RECORDED[name]["request"]["json"]
    more = {field: asked[field] for field in ("n", "tools", "stop", "logprobs") if field in asked}
    fake = Replay(RemoteKind.VLLM)
    async with remote(fake) as bench:
        fake.name = name
        request = await request_for(bench, chat(WORDS), **more)
        first = json.loads(RECORDED[name]["chunks"][0].removeprefix("data: "))
        prompt = tuple(first.get("prompt_token_ids") or ())
        events = await ask(bench, replace(request, token_ids=prompt))
    said = "".join(
        choice["delta"].get("content") or ""
        for chunk in RECORDED[name]["chunks"]
        if "choices" in chunk
        for choice in json.loads(chunk.removeprefix("data: "))["choices"]
        if choice["index"] == 0
    )
    assert text_of(events) == said
    usage = events[-1].usage
    assert usage is not None
    assert usage.cached_tokens is not None
    assert all(b"token_ids" not in (event.chunk or b"") for event in events if not more)
    if not more and asked.get("return_token_ids"):
        assert len(ids_of(events)) == usage.completion_tokens


@pytest.mark.parametrize("name", ["chat", "tools_required", "cached_again"])
async def test_a_recorded_whole_answer_passes_through_the_engine(name: str) -> None:
    if "body" not in RECORDED[name]:
        pytest.skip("recorded as a stream")
    fake = Replay(RemoteKind.VLLM)
    async with remote(fake) as bench:
        fake.name = name
        events = await ask(bench, await request_for(bench, chat(WORDS), stream=False))
    assert [event.chunk for event in events] == [RECORDED[name]["body"].encode()]


@pytest.mark.parametrize(
    ("name", "error", "param"),
    [
        ("error_too_long", ContextOverflow, "messages"),
        ("error_too_long_stream", ContextOverflow, "messages"),
        ("error_completion_too_long", ContextOverflow, "messages"),
        ("error_model", UnknownModel, None),
        ("error_type_messages", InvalidRequest, "messages"),
        ("error_type_temperature", InvalidRequest, "temperature"),
        ("error_range_top_p", InvalidRequest, "top_p"),
        ("error_no_messages", InvalidRequest, None),
        ("error_tool_choice", InvalidRequest, "tool_choice"),
    ],
)
def test_recorded_errors_are_understood(
    name: str, error: type[InferenceError], param: str | None
) -> None:
    exchange = RECORDED[name]
    found = failure_of(refused(exchange["status"], json.loads(exchange["body"])), chat=True)
    assert type(found) is error
    assert getattr(found, "param", None) == param
    assert "Hi" not in str(found)
    assert len(str(found)) <= 300


def tokenized() -> list[tuple[str, BodyPrompt, tuple[int, ...]]]:
    found = []
    for name, exchange in RECORDED.items():
        if not name.startswith("tokenize") or exchange["status"] != 200:
            continue
        fields: dict[str, Any] = dict(exchange["request"]["json"])
        fields.pop("return_token_strs", None)
        ids = tuple(json.loads(exchange["body"])["tokens"])
        prompt = BodyPrompt(chat="messages" in fields, fields=canonical_json(fields))
        found.append((name, prompt, ids))
    return found


@pytest.mark.model
def test_recorded_tokens_are_those_of_our_own_tokenizer() -> None:
    folder = find_model(None, default_cache_dir(), lambda _what, _share: None).folder
    tokenizer = PromptTokenizer(folder, context_tokens=2048)
    read = {name for name, prompt, ids in tokenized() if tokenizer.tokenize(prompt) == ids}
    assert read >= {
        "tokenize",
        "tokenize_system",
        "tokenize_tools",
        "tokenize_developer",
        "tokenize_without_generation_prompt",
        "tokenize_continue",
        "tokenize_prompt",
    }
    others = [prompt for name, prompt, _ in tokenized() if name not in read]
    assert all(tokenizer.tokenize(prompt) is None for prompt in others)
    assert all(tokenizer.tokenize(prompt) for prompt in PROBES.values())
