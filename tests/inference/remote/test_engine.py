"""The remote engine in front of fake servers: answers and errors."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InferenceError,
    InvalidRequest,
    UnknownModel,
)
from inference.remote.settings import RemoteKind
from inference.request import BodyPrompt, FinishReason, TextPrompt, canonical_json
from tests.inference.remote.bench import (
    PATIENT,
    WORDS,
    ask,
    chat,
    ids_of,
    remote,
    request_for,
    resumed,
    text_of,
    with_tools,
)
from tests.inference.remote.fake_server import FakeServer

LONG = chat(WORDS * 4)


@pytest.mark.parametrize("kind", list(RemoteKind))
async def test_an_answer_of_each_kind_is_passed_on(kind: RemoteKind) -> None:
    fake = FakeServer(kind)
    async with remote(fake) as bench:
        events = await ask(bench, await request_for(bench, LONG))
        whole = await ask(bench, await request_for(bench, LONG, stream=False))
        plain = await ask(bench, await request_for(bench, TextPrompt(text=WORDS)))
    assert text_of(events) == text_of(whole) != ""
    assert text_of(plain) != text_of(events)
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 8
    assert len(whole) == 1
    assert whole[0].chunk is not None
    assert json.loads(whole[0].chunk)["choices"]
    for event in events[:-1]:
        assert event.chunk is not None
        assert "token_ids" not in json.loads(event.chunk)["choices"][0]
    salted = "cache_salt" in fake.asked("/v1/chat/completions")[0]
    assert salted == (kind in {RemoteKind.VLLM, RemoteKind.SGLANG})


async def test_usage_that_the_client_wants_is_in_a_chunk() -> None:
    async with remote(FakeServer(RemoteKind.VLLM)) as bench:
        options = {"include_usage": True}
        events = await ask(bench, await request_for(bench, LONG, stream_options=options))
    assert b'"usage"' in (events[-2].chunk or b"")


async def test_what_is_expected_to_be_cached_is_told_first_and_what_was_at_the_end() -> None:
    async with remote(FakeServer(RemoteKind.VLLM)) as bench:
        request = await request_for(bench, LONG)
        cold = await ask(bench, request)
        warm = await ask(bench, request)
        other = await ask(bench, await request_for(bench, LONG, namespace="b"))
        blocks = (len(request.token_ids) - 1) // 16
        told, outcomes = list(bench.picture.told), list(bench.picture.outcomes)
    assert [events[0].cached_tokens for events in (cold, warm, other)] == [0, 16 * blocks, 0]
    usages = [events[-1].usage for events in (cold, warm, other)]
    assert [usage and usage.cached_tokens for usage in usages] == [0, 16 * blocks, 0]
    names = [name for name, _ in told if name != "tick"]
    assert names == ["learn", "started", "prefilled", "finished"] * 3
    assert ("learn", ("a", b"a" * 32, "salt-of-a")) in told
    assert [outcome.cached_tokens for outcome in outcomes] == [0, 16 * blocks, 0]
    assert all(outcome.answered and outcome.alone for outcome in outcomes)
    assert all(outcome.first_token_s is not None for outcome in outcomes)


async def test_counts_are_in_the_units_of_the_prompt() -> None:
    async with remote(FakeServer(RemoteKind.OPENAI)) as bench:
        request = await request_for(bench, LONG)
        await ask(bench, request)
        await ask(bench, request)
        cold, warm = bench.picture.outcomes
    assert cold.prompt_tokens == warm.prompt_tokens == len(request.token_ids)
    assert cold.cached_tokens == 0
    assert warm.cached_tokens is not None
    assert (len(request.token_ids) - 1) // 16 * 16 <= warm.cached_tokens < len(request.token_ids)


async def test_calls_of_tools_and_several_choices_pass_through() -> None:
    fake = FakeServer(RemoteKind.VLLM, calls_tools=True)
    async with remote(fake) as bench:
        events = await ask(bench, await request_for(bench, with_tools("Who?")))
        two = await ask(bench, await request_for(bench, LONG, n=2))
    assert events[-1].finish_reason is FinishReason.TOOL_CALLS
    calls = [event for event in events if b"tool_calls" in (event.chunk or b"")]
    assert len(calls) == 4
    assert all(event.token_ids is None for event in events)
    # Each choice has a chunk for its role and eight for its tokens; the text is the first one's.
    assert len([event for event in two if event.chunk]) == 18
    assert len([event for event in two if event.text]) == 8
    assert two[-1].usage is not None
    assert two[-1].usage.completion_tokens == 16


async def test_a_stream_may_end_without_its_mark() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    fake.faults.without_done = True
    async with remote(fake) as bench:
        events = await ask(bench, await request_for(bench, LONG))
    assert events[-1].finish_reason is FinishReason.LENGTH


async def test_an_answer_goes_on_where_another_engine_left_off() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        request = await request_for(bench, LONG, max_tokens=12)
        whole = await ask(bench, request)
        ids = ids_of(whole)
        assert len(ids) == 12
        for cut in (1, 5, 11):
            rest = await ask(bench, resumed(request, ids[:cut], f"cut-{cut}"))
            assert ids_of(rest) == ids[cut:]
            assert text_of(whole).endswith(text_of(rest))
            assert all(event.chunk is None for event in rest)
            assert rest[-1].finish_reason is FinishReason.LENGTH
        over = await ask(bench, resumed(request, ids, "over"))
        assert len(fake.asked("/v1/completions")) == 6  # three of them looked the server over
    assert (ids_of(over), over[-1].finish_reason) == ((), FinishReason.LENGTH)


async def test_an_answer_without_a_limit_goes_on_to_the_end_of_the_context() -> None:
    async with remote(FakeServer(RemoteKind.VLLM, context_tokens=256)) as bench:
        request = await request_for(bench, LONG, max_tokens=None)
        whole = await ask(bench, request)
        ids = ids_of(whole)
        assert len(ids) == 256 - len(request.token_ids) > 2 * 16
        rest = await ask(bench, resumed(request, ids[:5], "cut"))
        assert ids_of(rest) == ids[5:]
        # A context that is full is the end of an answer, and not the client's mistake.
        full = await ask(bench, resumed(request, ids, "full"))
    assert (ids_of(full), full[-1].finish_reason) == ((), FinishReason.LENGTH)


@pytest.mark.parametrize("cut_after", [9, 10])
async def test_an_answer_is_whole_although_its_usage_never_came(cut_after: int) -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        request = await request_for(bench, LONG)
        good = await ask(bench, request)
        fake.faults.cut_after = cut_after
        events = await ask(bench, request)
    assert text_of(events) == text_of(good)
    assert ids_of(events) == ids_of(good)
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert (events[-1].usage is None) == (cut_after == 9)
    # With a usage chunk that only we asked for, nothing is between that piece and the end.
    assert [event.ended for event in events[-2:]] == [FinishReason.LENGTH, None]


async def test_several_prompts_are_answered_at_once() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    fields = canonical_json({"prompt": [WORDS, [1, 2, 3]]})
    async with remote(fake) as bench:
        request = await request_for(bench, BodyPrompt(chat=False, fields=fields), max_tokens=None)
        events = await ask(bench, replace(request, token_ids=()))
    indices = [json.loads(e.chunk)["choices"][0]["index"] for e in events if e.chunk]
    assert indices == [0] * 16 + [1] * 16
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 32


# Errors


@pytest.mark.parametrize(
    ("status", "body", "error", "param"),
    [
        (400, {"message": "top_k is odd", "param": "top_k"}, InvalidRequest, "top_k"),
        (422, {"message": "no"}, InvalidRequest, None),
        (400, {"message": "maximum context length is 5"}, ContextOverflow, "messages"),
        (400, {"message": "no", "type": "exceed_context_size_error"}, ContextOverflow, "messages"),
        (404, {"message": "The model does not exist", "param": "model"}, UnknownModel, None),
        (404, {"message": "Not Found"}, EngineFailed, None),
        (429, {"message": "later"}, EngineOverloaded, None),
        (503, {"message": "later"}, EngineOverloaded, None),
        (401, {"message": "key"}, EngineFailed, None),
        (500, {"message": "secret prompt"}, EngineFailed, None),
        (302, {"message": "elsewhere"}, EngineFailed, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_servers_error_is_raised_on_entering(
    status: int, body: dict[str, str], error: type[InferenceError], param: str | None, stream: bool
) -> None:
    fake = FakeServer(RemoteKind.OPENAI)
    fake.faults.status, fake.faults.status_body = status, json.dumps({"error": body}).encode()
    async with remote(fake) as bench:
        request = await request_for(bench, LONG, stream=stream)
        with pytest.raises(error) as caught:
            async with bench.engine.submit(request):
                pytest.fail("entered")
        assert type(caught.value) is error
        assert getattr(caught.value, "param", None) == param
        assert "secret" not in str(caught.value)
        assert bench.engine.load().running == 0
        assert not bench.picture.outcomes[0].answered
        fake.faults.status = None
        await ask(bench, request)


async def test_bad_requests_are_refused_before_anything_is_sent() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        good = await request_for(bench, LONG)
        sent = len(fake.seen)
        for request, error in (
            (replace(good, model="another"), UnknownModel),
            (replace(good, token_ids=good.token_ids * 100), ContextOverflow),
            (replace(good, token_ids=(), body=b""), InvalidRequest),
            (replace(good, token_ids=(1 << 40,)), InvalidRequest),
            (replace(good, body=b'{"messages":[],"rid":"x"}'), InvalidRequest),
            (replace(good, body=b'{"messages":[],"user":"\\ud800"}'), InvalidRequest),
            (replace(good, body=b'{"messages":[],"x":1e999}'), InvalidRequest),
        ):
            with pytest.raises(error):
                async with bench.engine.submit(request):
                    pytest.fail("entered")
        with pytest.raises(UnknownModel):
            await bench.engine.tokenize("another", LONG)
        assert len(fake.seen) == sent
        async with bench.engine.submit(good):
            with pytest.raises(InvalidRequest):
                async with bench.engine.submit(good):
                    pytest.fail("entered twice")
        await ask(bench, good)


@pytest.mark.parametrize(
    "faults",
    [
        {"cut_after": 0},
        {"cut_after": 3},
        {"stop_after": 3},
        {"inject_after": (3, b"data: no json\n\n")},
        {"inject_after": (3, b'data: {"error":{"message":"secret prompt"}}\n\n')},
        {"inject_after": (2, b"data: " + b"x" * (1 << 20))},
        {"content_type": "text/html"},
    ],
    ids=str,
)
async def test_an_answer_that_goes_wrong_fails(faults: dict[str, Any]) -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        request = await request_for(bench, LONG)
        for name, value in faults.items():
            setattr(fake.faults, name, value)
        with pytest.raises(EngineFailed) as caught:
            await ask(bench, request)
        assert "secret" not in str(caught.value)
        assert bench.engine.load().running == 0
        await fake.quiet()
        for name in faults:
            setattr(fake.faults, name, type(fake.faults).__dataclass_fields__[name].default)
        await ask(bench, request)


async def test_a_redirect_is_not_followed() -> None:
    fake, elsewhere = FakeServer(RemoteKind.VLLM), FakeServer(RemoteKind.VLLM)
    async with elsewhere.running(), remote(fake) as bench:
        fake.faults.redirect = f"{elsewhere.url}/v1/chat/completions"
        with pytest.raises(EngineFailed):
            await ask(bench, await request_for(bench, LONG))
    assert elsewhere.seen == []


async def test_an_error_that_comes_late_is_raised_by_the_stream() -> None:
    fake = FakeServer(RemoteKind.LLAMACPP)  # says nothing before it has computed the prompt
    fake.faults.hold = trio.Event()
    async with remote(fake, timeouts=replace(PATIENT, enter_s=0.01)) as bench:
        request = await request_for(bench, LONG)
        async with bench.engine.submit(request) as stream:
            with trio.move_on_after(0.02):
                await anext(stream)
                pytest.fail("nothing was sent")
            fake.stop()
            with pytest.raises(EngineFailed):
                await anext(stream)


async def test_neither_prompts_nor_keys_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fake = FakeServer(RemoteKind.VLLM, api_key="hunter2")
    async with remote(fake, api_key="hunter2") as bench:
        await ask(bench, await request_for(bench, LONG))
        fake.faults.cut_after = 2
        with pytest.raises(EngineFailed):
            await ask(bench, await request_for(bench, LONG))
        shown = caplog.text + str(bench.engine.posture()) + str(bench.engine.capabilities())
    assert "hunter2" not in shown
    assert "Blocks of sixteen" not in shown
    assert "salt-of-a" not in shown


async def test_prompts_that_the_server_reads_otherwise_are_told() -> None:
    async with remote(FakeServer(RemoteKind.VLLM)) as bench:
        request = await request_for(bench, LONG)
        good = await ask(bench, request)
        assert "prompts misread" not in dict(bench.engine.posture())
        misread = replace(request, token_ids=request.token_ids[:-1])
        events = await ask(bench, misread)
        assert dict(bench.engine.posture())["prompts misread"] == "1 of 2 since start"
    assert len(ids_of(good)) == 8
    assert all(event.token_ids is None for event in events)
