"""Prompts are read by the best means there is, and never by one that reads them otherwise."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.errors import InvalidRequest
from inference.remote.kinds import KINDS, TokenizeForm
from inference.remote.local_model import find_local
from inference.remote.readers import (
    PROBES,
    LocalReader,
    ServerReader,
    ServerTokens,
    TextReader,
    Tokens,
    choose_reader,
    probe,
)
from inference.remote.server import Server, ServerUnreachable
from inference.remote.settings import RemoteKind
from inference.request import BodyPrompt, Prompt, TextPrompt, canonical_json
from inference.text_units import text_units
from inference.tokenizer import PromptTokenizer
from tests.inference.bench import save_tokenizer
from tests.inference.remote.bench import body_of, chat, settings_of, with_tools
from tests.inference.remote.fake_model import RealTokens
from tests.inference.remote.fake_server import FakeServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "tiny"
    made.mkdir()
    save_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def local(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(folder, context_tokens=2048)


def body(**fields: object) -> BodyPrompt:
    return BodyPrompt(chat="messages" in fields, fields=canonical_json(fields))


@asynccontextmanager
async def asked(fake: FakeServer) -> AsyncIterator[ServerTokens]:
    async with fake.running():
        server = Server(settings_of(fake))
        form = KINDS[fake.kind].tokenize
        assert form is not None
        yield ServerTokens(server, form, fake.models[0])
        await server.aclose()


def real(local: PromptTokenizer) -> FakeServer:
    return FakeServer(RemoteKind.VLLM, tokens=RealTokens(local))


# The tokenizer itself


def test_a_body_of_plain_messages_is_read_as_a_chat(local: PromptTokenizer) -> None:
    said = chat("Why?", "Because.", "Go on")
    ids = local.tokenize(said)
    assert ids == local.tokenize(body(messages=body_of(said)["messages"]))
    assert ids == local.tokenize(
        body(messages=body_of(said)["messages"], tools=[{"type": "function"}], documents=[])
    )


def test_template_arguments_reach_the_template(local: PromptTokenizer) -> None:
    said = body_of(chat("Why?", "Be"))["messages"]
    plain = local.tokenize(body(messages=said))
    unprompted = local.tokenize(body(messages=said, add_generation_prompt=False))
    assert plain is not None
    assert unprompted is not None
    assert plain[: len(unprompted)] == unprompted
    assert len(plain) > len(unprompted)
    going_on = local.tokenize(body(messages=said, continue_final_message=True))
    assert going_on == unprompted[:-1]
    assert local.tokenize(body(messages=said, chat_template_kwargs={"x": 1})) == plain


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        {"messages": ["x"]},
        {"messages": "x"},
        {"messages": [{"role": "user", "content": "x"}], "something": 1},
        {"messages": [{"role": "user", "content": "x"}], "tools": "x"},
        {"messages": [{"role": "user", "content": "x"}], "tools": [1]},
        {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": 1},
        {
            "messages": [{"role": "user", "content": "x"}],
            "chat_template_kwargs": {"tokenize": True},
        },
        {
            "messages": [{"role": "user", "content": "x"}],
            "chat_template_kwargs": {"chat_template": ""},
        },
        {"prompt": ["x", "y"]},
        {"prompt": "x", "suffix": "y"},
        {"prompt": []},
        {"prompt": [-1]},
        {"prompt": [1 << 31]},
        {"prompt": [True]},
        {},
    ],
)
def test_what_engines_read_each_in_their_way_is_left_to_them(
    local: PromptTokenizer, fields: dict[str, Any]
) -> None:
    assert local.tokenize(body(**fields)) is None


def test_prompts_of_bodies(local: PromptTokenizer) -> None:
    ids = local.tokenize(TextPrompt(text="once"))
    assert ids == local.tokenize(body(prompt="once")) == local.tokenize(body(prompt=["once"]))
    assert local.tokenize(body(prompt=[5, 6])) == (5, 6)
    assert local.tokenize(replace(body(prompt="once"), opaque=True)) is None


# Asking the server


async def test_vllm_is_asked_for_messages_tools_and_text() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with asked(fake) as server:
        assert await server.ask(chat("Why?")) == tuple(fake.tokens.chat(body_of(chat("Why?"))))
        assert await server.ask(with_tools("Why?"))
        assert await server.ask(TextPrompt(text="once")) == tuple(fake.tokens.text("once"))
        assert await server.ask(body(prompt=["once"])) == tuple(fake.tokens.text("once"))
        assert await server.ask(body(prompt=[1, 2])) == (1, 2)
    sent = fake.asked("/tokenize")
    assert [sorted(each) for each in sent] == [
        ["messages", "model"],
        ["messages", "model", "tools"],
        ["model", "prompt"],
        ["model", "prompt"],
    ]


async def test_llamacpp_is_asked_for_the_template_first() -> None:
    fake = FakeServer(RemoteKind.LLAMACPP)
    async with asked(fake) as server:
        assert await server.ask(chat("Why?")) == tuple(fake.tokens.chat(body_of(chat("Why?"))))
        assert await server.ask(TextPrompt(text="once")) == tuple(fake.tokens.text("once"))
    assert len(fake.asked("/apply-template")) == 1
    assert fake.asked("/tokenize")[1] == {
        "content": "once",
        "add_special": True,
        "parse_special": True,
    }


@pytest.mark.parametrize(
    "prompt",
    [
        body(messages=[], documents=[{}]),
        body(messages=[], something=1),
        body(prompt="x", suffix="y"),
        BodyPrompt(chat=True, fields='{"messages":[]}', opaque=True),
    ],
)
async def test_a_prompt_that_cannot_be_asked_for_is_not_sent(prompt: Prompt) -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with asked(fake) as server:
        assert await server.ask(prompt) is None
    assert fake.seen == []


async def test_going_on_with_a_message_asks_for_no_new_one() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with asked(fake) as server:
        await server.ask(
            body(messages=[{"role": "user", "content": "x"}], continue_final_message=True)
        )
    assert fake.asked("/tokenize")[0]["add_generation_prompt"] is False


class Liar:
    """A tokenizer of a server that gives something else than tokens."""

    def __init__(self, given: object) -> None:
        self.given = given

    async def post_json(self, path: str, given: object, **more: object) -> dict[str, object]:
        del path, given, more
        return {"tokens": self.given}


@pytest.mark.parametrize("given", [None, [], "x", [1.5], [-1], [1 << 31], [True], [{"id": 1}], {}])
async def test_what_are_no_tokens_are_none(given: object) -> None:
    server: Any = Liar(given)
    assert await ServerTokens(server, TokenizeForm.VLLM, "m").ask(TextPrompt(text="x")) is None


async def test_a_server_that_is_gone_is_told_when_probing_and_none_when_reading() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with asked(fake) as server:
        reader = ServerReader(server, await probe(server))
    gone = ServerTokens(Server(settings_of(fake)), TokenizeForm.VLLM, "toy")
    with pytest.raises(ServerUnreachable):
        await probe(gone)
    reader._asked = gone
    assert await reader.read(chat("Why?")) is None


# Choosing


async def test_own_files_are_taken_when_the_server_agrees(local: PromptTokenizer) -> None:
    fake = real(local)
    async with asked(fake) as server:
        choice = await choose_reader(local, server, model="m")
        probes = len(fake.seen)
        assert isinstance(choice.reader, LocalReader)
        assert choice.degraded == ()
        assert choice.reader.tokenizer == local.digest
        assert choice.reader.template == local.template_digest
        for prompt in (chat("Why?"), TextPrompt(text="once"), with_tools("Why?")):
            assert await choice.reader.read(prompt) == local.tokenize(prompt)
    assert len(fake.seen) == probes


class Other:
    """A tokenizer that reads some prompts in another way."""

    digest, template_digest = "d", "t"

    def __init__(self, local: PromptTokenizer, *differs: str) -> None:
        self._local = local
        self._differs = [PROBES[name] for name in differs]

    def tokenize(self, prompt: Prompt) -> Tokens | None:
        ids = self._local.tokenize(prompt)
        return None if ids is None else (*ids, *((0,) if prompt in self._differs else ()))


@pytest.mark.parametrize("differs", ["text", "chat", "system"])
async def test_files_that_read_otherwise_are_not_used(local: PromptTokenizer, differs: str) -> None:
    async with asked(real(local)) as server:
        choice = await choose_reader(Other(local, differs), server, model="m")
        assert isinstance(choice.reader, ServerReader)
        assert differs in choice.degraded[0]
        assert await choice.reader.read(chat("Why?")) == local.tokenize(chat("Why?"))


async def test_only_prompts_of_the_kind_that_differs_go_to_the_server(
    local: PromptTokenizer,
) -> None:
    fake = real(local)
    async with asked(fake) as server:
        choice = await choose_reader(Other(local, "tools", "developer"), server, model="m")
        assert isinstance(choice.reader, LocalReader)
        probes = len(fake.seen)
        assert await choice.reader.read(with_tools("Why?")) == local.tokenize(with_tools("Why?"))
        developer = body(messages=[{"role": "developer", "content": "x"}])
        assert await choice.reader.read(developer)
        assert len(fake.seen) == probes + 2
        assert await choice.reader.read(chat("Why?"))
        assert len(fake.seen) == probes + 2


async def test_what_the_files_do_not_tell_the_server_does(local: PromptTokenizer) -> None:
    async with asked(real(local)) as server:
        choice = await choose_reader(local, server, model="m")
        assert isinstance(choice.reader, LocalReader)
    fake = FakeServer(RemoteKind.VLLM)
    async with asked(fake) as server:
        reader = LocalReader(local, server, frozenset(PROBES))
        parts = body(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}])
        assert await reader.read(parts) == tuple(fake.tokens.chat(json.loads(parts.fields)))


async def test_files_alone_are_used_unchecked(local: PromptTokenizer) -> None:
    choice = await choose_reader(local, None, model="m")
    assert isinstance(choice.reader, LocalReader)
    assert "unchecked" in choice.reader.words
    assert await choice.reader.read(chat("Why?")) == local.tokenize(chat("Why?"))
    assert await choice.reader.read(with_tools("Why?")) is None
    assert await choice.reader.read(body(messages=[{"role": "developer", "content": "x"}])) is None


async def test_a_server_without_files_here_is_asked(local: PromptTokenizer) -> None:
    async with asked(real(local)) as server:
        one = await choose_reader(None, server, model="m")
    async with asked(FakeServer(RemoteKind.VLLM)) as server:
        other = await choose_reader(None, server, model="m")
    async with asked(FakeServer(RemoteKind.LLAMACPP)) as server:
        alike = await choose_reader(None, server, model="m")
    assert isinstance(one.reader, ServerReader)
    assert one.reader.tokenizer.startswith("server/1:")
    assert one.reader.tokenizer != other.reader.tokenizer == alike.reader.tokenizer


async def test_without_any_tokenizer_prompts_are_text() -> None:
    choice = await choose_reader(None, None, model="m")
    assert isinstance(choice.reader, TextReader)
    assert not choice.reader.tokens
    assert await choice.reader.read(chat("Why?")) == text_units(chat("Why?"))
    assert "m: no tokenizer" in choice.degraded[0]
    fake = FakeServer(RemoteKind.VLLM, has_tokenize=False)
    async with asked(fake) as server:
        assert isinstance((await choose_reader(None, server, model="m")).reader, TextReader)


class TextOnly(RealTokens):
    """Of a server whose /tokenize takes no messages, or whose model has no template."""

    def chat(self, body: dict[str, Any]) -> list[int]:
        from tests.inference.remote.fake_model import FakeRefusal

        raise FakeRefusal(400, "no chat template")


async def test_a_server_that_reads_no_messages(local: PromptTokenizer) -> None:
    fake = FakeServer(RemoteKind.VLLM, tokens=TextOnly(local))
    async with asked(fake) as server:
        without = await choose_reader(None, server, model="m")
        assert isinstance(without.reader, TextReader)
        assert "no chat template" in without.degraded[0]
        with_files = await choose_reader(local, server, model="m")
        assert isinstance(with_files.reader, LocalReader)
        assert "no chat template" in with_files.degraded[0]


async def test_a_prompt_that_is_wrong_is_the_callers_error(local: PromptTokenizer) -> None:
    choice = await choose_reader(local, None, model="m")
    with pytest.raises(InvalidRequest):
        await choice.reader.read(TextPrompt(text="x" * 10_000_000))


# Files of this host


def test_files_are_found_by_folder(folder: Path) -> None:
    found = find_local((None, "/nowhere", str(folder)), context_tokens=100)
    assert found.tokenizer is not None
    assert found.problem is None


@pytest.mark.parametrize("name", ["/nowhere", "no/such-model", "x" * 5000, "toy", "a\x00b", "../x"])
def test_files_that_are_not_here_are_not_fetched(name: str) -> None:
    assert find_local((name,), context_tokens=100).tokenizer is None


def test_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    found = find_local((str(tmp_path),), context_tokens=100)
    assert found.tokenizer is None
    assert found.problem is not None
