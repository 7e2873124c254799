"""A server is looked over before it serves; what is missing is told and not fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio

from inference.errors import UnknownModel
from inference.remote.cards import WrongKind
from inference.remote.events.endpoints import EndpointUnusable, EventSource
from inference.remote.preflight import Preflight, look
from inference.remote.readers import LocalReader, ServerReader, TextReader
from inference.remote.server import Server, ServerBroken, ServerRefused, ServerUnreachable
from inference.remote.settings import RemoteKind, RemoteTimeouts
from inference.tokenizer import PromptTokenizer
from tests.inference.bench import save_tokenizer
from tests.inference.remote.bench import secrets, settings_of
from tests.inference.remote.fake_model import RealTokens
from tests.inference.remote.fake_server import FakeServer, Seen
from tests.inference.remote.recordings import exchanges


async def looked(fake: FakeServer, **given: Any) -> Preflight:
    async with fake.running():
        settings = settings_of(fake, **given)
        found = await outcome.acapture(look, Server(settings), settings, secret=secrets())
    return found.unwrap()


async def test_vllm(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    fake = FakeServer(RemoteKind.VLLM, block_tokens=32, context_tokens=4096, root=str(tmp_path))
    found = await looked(fake)
    assert found.version == "vLLM 0.32.0"
    assert [(m.name, m.context_tokens, m.passes_bodies) for m in found.models] == [
        ("toy", 4096, True)
    ]
    assert (found.block_tokens, found.server_block_tokens, found.cache_blocks) == (32, 32, 160)
    assert isinstance(found.readers["toy"], ServerReader)
    assert found.models[0].prefix.tokenizer == found.readers["toy"].tokenizer
    assert (found.salts, found.reports_cached, found.gives_token_ids) == (True, True, True)
    assert found.isolation == "a cache salt for each tenant"
    assert found.degraded == ()
    asked = fake.asked("/v1/completions")
    assert len(asked) == 3
    assert [len(each["prompt"]) for each in asked] == [80] * 3
    assert all(each["max_tokens"] == 1 for each in asked)


async def test_sglang() -> None:
    fake = FakeServer(RemoteKind.SGLANG, slots=12, block_tokens=1, more_info={"dtype": "bfloat16"})
    found = await looked(fake)
    assert (found.slots, found.block_tokens, found.server_block_tokens) == (12, 16, 1)
    assert found.models[0].output.dtype == "bfloat16"
    assert found.salts


async def test_llamacpp() -> None:
    found = await looked(FakeServer(RemoteKind.LLAMACPP, slots=3, context_tokens=1024))
    assert (found.slots, found.models[0].context_tokens) == (3, 1024)
    assert (found.salts, found.reports_cached, found.gives_token_ids) == (False, True, False)
    assert found.version == "llama.cpp b1"


@pytest.mark.parametrize("kind", [RemoteKind.OLLAMA, RemoteKind.OPENAI])
async def test_a_server_that_tells_little(kind: RemoteKind) -> None:
    fake = FakeServer(kind)
    found = await looked(fake)
    assert isinstance(found.readers["toy"], TextReader)
    assert found.models[0].by_text
    assert (found.salts, found.reports_cached, found.gives_token_ids) == (False, False, False)
    assert any("context length" in words for words in found.degraded)
    assert fake.asked("/v1/completions") == []
    assert (await looked(fake, context_tokens=999)).models[0].context_tokens == 999


async def test_an_owners_word_comes_first() -> None:
    fake = FakeServer(RemoteKind.LLAMACPP, slots=3, context_tokens=1024)
    found = await looked(fake, slots=7, context_tokens=512)
    assert (found.slots, found.models[0].context_tokens) == (7, 512)


async def test_several_models_or_the_one_that_is_wanted() -> None:
    fake = FakeServer(RemoteKind.OLLAMA, models=("a", "b:latest"))
    assert [model.name for model in (await looked(fake)).models] == ["a", "b:latest"]
    assert [model.name for model in (await looked(fake, model="b:latest")).models] == ["b:latest"]
    with pytest.raises(UnknownModel, match=r"it has a, b:latest"):
        await looked(fake, model="c")


@pytest.mark.parametrize("kind", list(RemoteKind))
@pytest.mark.parametrize("real", list(RemoteKind))
async def test_another_kind_is_told_by_name(kind: RemoteKind, real: RemoteKind) -> None:
    if kind is real or kind is RemoteKind.OPENAI:
        assert (await looked(FakeServer(real), kind=kind)).models
        return
    suggested = RemoteKind.OPENAI if real is RemoteKind.OPENAI else real
    with pytest.raises(WrongKind, match=f"as {suggested.value}"):
        await looked(FakeServer(real), kind=kind)


async def test_the_right_kind_behind_another_owners_name() -> None:
    assert (await looked(FakeServer(RemoteKind.VLLM, owner="my company"))).version == "vLLM 0.32.0"


async def test_a_salt_without_effect_is_found_out() -> None:
    found = await looked(FakeServer(RemoteKind.VLLM, salted=False))
    assert not found.salts
    assert any("ignores salts" in words for words in found.degraded)


async def test_a_salt_that_cannot_be_checked_is_believed_of_versions_that_have_it() -> None:
    fake = FakeServer(RemoteKind.VLLM, reports_cached=False)
    found = await looked(fake)
    assert (found.salts, found.reports_cached) == (True, False)
    assert found.isolation == "a cache salt for each tenant (not checked: vLLM 0.32.0 has it)"
    assert any("--enable-prompt-tokens-details" in words for words in found.degraded)
    assert len(fake.asked("/v1/completions")) == 2


@pytest.mark.parametrize(
    ("version", "salts"),
    [
        ("0.10.0", True),
        ("0.11.1rc2.dev5+g12", True),
        ("1.0", True),
        ("v0.12", True),
        ("0.9.2", False),
        ("0.1.dev1+g12", False),
        ("dev", False),
        ("", False),
        ("0.10" + "0" * 50, False),
        ("\u0660.\u0661\u0660", False),
    ],
)
async def test_an_unchecked_salt_rests_on_the_version(version: str, salts: bool) -> None:
    found = await looked(FakeServer(RemoteKind.VLLM, version=version, reports_cached=False))
    assert (found.salts, bool(found.isolation)) == (salts, salts)
    assert any("not known to keep tenants apart" in words for words in found.degraded) != salts
    seen = await looked(FakeServer(RemoteKind.VLLM, version=version))
    assert (seen.salts, seen.isolation) == (True, "a cache salt for each tenant")


@pytest.mark.parametrize(
    "given", [{"reports_cached": False}, {"caches": False}, {"block_tokens": 1024}]
)
async def test_an_unchecked_salt_of_sglang_keeps_nobody_apart(given: dict[str, Any]) -> None:
    found = await looked(FakeServer(RemoteKind.SGLANG, **given))
    assert (found.salts, found.isolation) == (False, "")
    assert any("not known to keep tenants apart" in words for words in found.degraded)


async def test_a_cache_that_is_off_is_told() -> None:
    found = await looked(FakeServer(RemoteKind.VLLM, caches=False))
    assert any("may be off" in words for words in found.degraded)


async def test_large_blocks_are_not_probed() -> None:
    fake = FakeServer(RemoteKind.VLLM, block_tokens=1024)
    found = await looked(fake)
    assert any("too large" in words for words in found.degraded)
    assert fake.asked("/v1/completions") == []


async def test_a_server_that_refuses_the_probe_serves_anyway() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    fake.faults.status = 429
    found = await looked(fake)
    assert found.salts
    assert any("refuses a tiny completion" in words for words in found.degraded)


async def test_tokens_that_are_not_given_are_noticed() -> None:
    assert not (await looked(FakeServer(RemoteKind.SGLANG, gives_ids=False))).gives_token_ids
    assert not (await looked(FakeServer(RemoteKind.VLLM, has_tokenize=False))).gives_token_ids


SOURCE = {
    "enable_kv_cache_events": True,
    "publisher": "zmq",
    "endpoint": "tcp://*:5557",
    "replay_endpoint": "tcp://*:5558",
    "topic": "kv",
}


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, ()),
        (
            {"0": SOURCE},
            (
                EventSource(
                    endpoint="tcp://127.0.0.1:5557", replay="tcp://127.0.0.1:5558", topic="kv"
                ),
            ),
        ),
        (
            {
                "1": SOURCE | {"endpoint": "ipc:///b"},
                "0": {"endpoint": "ipc:///a", "publisher": "zmq"},
            },
            (
                EventSource(endpoint="ipc:///a"),
                EventSource(endpoint="ipc:///b", replay="tcp://127.0.0.1:5558", topic="kv"),
            ),
        ),
        (
            {"0": {"endpoint": "tcp://127.0.0.1:5557"}},
            (EventSource(endpoint="tcp://127.0.0.1:5557", binds=True),),
        ),
        ({"0": SOURCE | {"publisher": "null"}}, ()),
        ({"0": SOURCE | {"enable_kv_cache_events": False}}, ()),
        ({"0": SOURCE, "1": {"endpoint": "exec:rm"}}, ()),
        ({"0": SOURCE, "1": 5}, ()),
        ({"x": SOURCE}, ()),
    ],
)
async def test_where_vllm_tells_its_events(told: dict[str, Any], found: tuple[Any, ...]) -> None:
    assert (await looked(FakeServer(RemoteKind.VLLM, event_sources=told))).sources == found


async def test_where_sglang_tells_its_events() -> None:
    config = json.dumps({"publisher": "zmq", "endpoint": "tcp://*:5557", "topic": "kv"})
    info = {"kv_events_config": config, "dp_size": 2}
    found = await looked(FakeServer(RemoteKind.SGLANG, more_info=info))
    assert [source.endpoint for source in found.sources] == [
        "tcp://127.0.0.1:5557",
        "tcp://127.0.0.1:5558",
    ]
    for broken in ("{", 5, "[]", None):
        fake = FakeServer(RemoteKind.SGLANG, more_info={"kv_events_config": broken})
        assert (await looked(fake)).sources == ()


async def test_an_owner_says_where_events_are() -> None:
    fake = FakeServer(RemoteKind.OPENAI)
    found = await looked(fake, events="tcp://127.0.0.1:7000", events_bind=True, ranks=2)
    assert [(each.endpoint, each.binds) for each in found.sources] == [
        ("tcp://127.0.0.1:7000", True),
        ("tcp://127.0.0.1:7001", True),
    ]
    with pytest.raises(EndpointUnusable):
        await looked(fake, events="ipc:///x", ranks=2)


async def test_events_of_blocks_that_fit_none_of_ours_are_not_used() -> None:
    found = await looked(FakeServer(RemoteKind.VLLM, block_tokens=24, event_sources={"0": SOURCE}))
    assert (found.block_tokens, found.sources) == (16, ())
    assert any("24 tokens" in words for words in found.degraded)


async def test_the_tokenizer_of_a_local_folder_is_used(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    local = PromptTokenizer(tmp_path, context_tokens=100)
    fake = FakeServer(RemoteKind.VLLM, tokens=RealTokens(local), root=str(tmp_path))
    found = await looked(fake)
    assert isinstance(found.readers["toy"], LocalReader)
    assert found.models[0].prefix.tokenizer == local.digest
    other = FakeServer(RemoteKind.VLLM)
    assert isinstance((await looked(other, tokenizer=str(tmp_path))).readers["toy"], ServerReader)


async def test_a_tokenizer_is_of_one_model(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    given = {"tokenizer": str(tmp_path)}
    fake = FakeServer(RemoteKind.OLLAMA, models=("a", "b"))
    found = await looked(fake, **given)
    assert all(isinstance(reader, TextReader) for reader in found.readers.values())
    assert any("--engine-model" in words for words in found.degraded)
    one = await looked(fake, model="b", **given)
    assert isinstance(one.readers["b"], LocalReader)
    # Two names of one model.
    local = PromptTokenizer(tmp_path, context_tokens=100)
    names = FakeServer(RemoteKind.VLLM, models=("a", "b"), root="/m", tokens=RealTokens(local))
    both = (await looked(names, **given)).readers.values()
    assert all(isinstance(reader, LocalReader) for reader in both)


async def test_a_server_that_is_not_there() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    await looked(fake)
    with pytest.raises(ServerUnreachable):
        await look(Server(settings_of(fake)), settings_of(fake), secret=secrets())


async def test_a_server_that_wants_a_key() -> None:
    fake = FakeServer(RemoteKind.VLLM, api_key="hunter2")
    assert (await looked(fake, api_key="hunter2")).salts
    with pytest.raises(ServerRefused):
        await looked(fake, api_key="wrong")


async def test_a_silent_server_is_given_up() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    fake.faults.deaf = trio.Event()
    with pytest.raises(ServerUnreachable):
        await looked(fake, timeouts=RemoteTimeouts(answer_s=0.05))


class Odd(FakeServer):
    """A server that answers one path with something else."""

    pages: dict[str, Any]

    def _page(self, seen: Seen) -> Any:
        return self.pages.get(seen.path) or super()._page(seen)


@pytest.mark.parametrize(
    "models", [{"data": []}, {"data": "x"}, {"data": [5]}, {"data": [{"id": ""}]}, {"x": 1}]
)
async def test_a_server_that_lists_no_models_is_broken(models: dict[str, Any]) -> None:
    fake = Odd(RemoteKind.VLLM)
    fake.pages = {"/v1/models": models}
    with pytest.raises(ServerBroken):
        await looked(fake)


@pytest.mark.parametrize("value", [None, -1, 0, "x", 1.5, True, 1 << 60, [], {}])
async def test_numbers_that_make_no_sense_are_as_if_not_told(value: Any) -> None:
    fake = Odd(RemoteKind.LLAMACPP)
    fake.pages = {
        "/props": {
            "default_generation_settings": {"n_ctx": value},
            "total_slots": value,
            "build_info": value,
        }
    }
    found = await looked(fake)
    assert (found.slots, found.models[0].context_tokens) == (1, 8192)


class Replayed(FakeServer):
    """A vLLM whose answers to small questions are recorded ones."""

    def _page(self, seen: Seen) -> Any:
        recorded = exchanges()
        names = {
            "/v1/models": "models",
            "/version": "version",
            "/kv_event_sources": "kv_event_sources",
            "/health": "health",
            "/metrics": "metrics",
        }
        if seen.path not in names:
            return super()._page(seen)
        body = recorded[names[seen.path]]["body"]
        return json.loads(body) if body.startswith("{") else body


async def test_a_recorded_vllm_is_looked_over() -> None:
    fake = Replayed(RemoteKind.VLLM, models=("/models/SmolLM2-135M-Instruct",))
    found = await looked(fake)
    assert found.version == "vLLM 0.32.0"
    assert (found.block_tokens, found.cache_blocks) == (32, 160)
    assert found.models[0].context_tokens == 2048
    assert found.sources == (
        EventSource(
            endpoint="ipc:///run/vllm/events", replay="ipc:///run/vllm/replay", topic="kv-events"
        ),
    )
