"""An engine's own JSON on its way to a client: as it came, but for the request's id."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos.remote_toy import RemoteToyConfig
from overlay.http.app import make_app
from overlay.http.limits import HttpLimits
from overlay.request import Delta, Started
from tests.overlay.http.fronts import FINISHED, SERVING, MadeUpFront, ScriptedIngress, Step
from tests.overlay.http.peers import served
from tests.overlay.http.test_app import CHAT, asking
from tests.overlay.http.world import Answer, connected

PASSING = Started(model="toy", served_by=SERVING, variant="ab/bfloat16", passes_chunks=True)
USAGE = {"id": "x", "choices": [], "usage": {"prompt_tokens": 1}}
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def chunk(content: str, **more: Any) -> dict[str, Any]:
    return {"id": "theirs", "choices": [{"index": 0, "delta": {"content": content}}], **more}


def passed(value: object) -> Delta:
    return Delta(text="", token_ids=None, chunk=json.dumps(value).encode())


async def answer_to(*script: Step, **change: Any) -> Answer:
    front = MadeUpFront(ingress=ScriptedIngress(script=script, passes_bodies=True))
    async with connected(make_app(front), HttpLimits()) as client:
        return await client.ask(asking({**CHAT, **change}))


async def test_chunks_are_handed_on_as_they_came_under_this_requests_id() -> None:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    theirs = [chunk("a", odd={"b": [1]}), chunk("", service_tier=None), end, USAGE]
    answer = await answer_to(PASSING, *map(passed, theirs), FINISHED, stream=True, tools=[TOOL])
    *events, done = answer.events()
    assert done == "[DONE]"
    ours = f"chatcmpl-{answer.headers['x-request-id']}"
    assert events == [{**each, "id": ours} for each in theirs]
    assert answer.headers["x-rhizome-variant"] == "ab/bfloat16"


async def test_a_second_beginning_is_not_shown_and_missing_usage_is_ours() -> None:
    """The first server was lost when it had said no more than who speaks."""
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    script = [opening, opening, chunk("a"), opening, end]
    answer = await answer_to(
        *(PASSING, *map(passed, script), FINISHED),
        stream=True,
        stream_options={"include_usage": True},
    )
    *events, done = answer.events()
    assert done == "[DONE]"
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}, {}]
    assert events[-1]["usage"]["prompt_tokens"] == 20


async def test_an_answer_resumed_by_another_engine_ends_in_our_form() -> None:
    rest = Delta(text="b", token_ids=(2,))
    answer = await answer_to(PASSING, passed(chunk("a")), rest, FINISHED, stream=True)
    first, second, last, done = answer.events()
    assert first["choices"][0]["delta"] == {"content": "a"}
    assert second["choices"][0]["delta"] == {"content": "b"}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"
    assert {first["id"], second["id"], last["id"]} == {f"chatcmpl-{answer.headers['x-request-id']}"}


async def test_where_an_own_engine_answers_after_all_it_says_who_speaks() -> None:
    answer = await answer_to(PASSING, Delta(text="b", token_ids=(2,)), FINISHED, stream=True)
    assert answer.events()[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


async def test_a_whole_answer_is_the_engines_own() -> None:
    theirs = {"id": "theirs", "choices": [{"message": {"tool_calls": [1]}}], "usage": {"a": 1}}
    answer = await answer_to(PASSING, passed(theirs), FINISHED, tools=[TOOL])
    value = answer.json()
    assert value.pop("id") == f"chatcmpl-{answer.headers['x-request-id']}"
    assert value.pop("rhizome")["served_by"] == SERVING
    assert value == {name: theirs[name] for name in ("choices", "usage")}


@pytest.mark.parametrize(
    "data", [b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":NaN}']
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_peer_that_sends_no_json_fails_the_request(data: bytes, *, stream: bool) -> None:
    broken = Delta(text="a", token_ids=None, chunk=data)
    answer = await answer_to(PASSING, broken, FINISHED, stream=stream)
    if stream:
        assert answer.events()[-1]["error"]["code"] == "engine_failed"
    else:
        assert (answer.status, answer.error["code"]) == (502, "engine_failed")


async def test_the_official_clients_tool_loop() -> None:
    engine = RemoteToyConfig(prefill_tokens_per_s=1e9, decode_s_per_token=0.0, end_every=0)
    async with served(engine) as peer, peer.client() as client:
        messages: list[Any] = [{"role": "user", "content": "what is it?"}]
        first = await client.chat.completions.create(
            model="toy", messages=messages, tools=[TOOL], max_tokens=4
        )
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = first.choices[0].message.tool_calls or ()
        assert call.type == "function"
        messages += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "42"},
        ]
        names, arguments = [], ""
        async for each in await client.chat.completions.create(
            model="toy", messages=messages, tools=[TOOL], max_tokens=4, stream=True
        ):
            for part in each.choices[0].delta.tool_calls or ():
                assert part.function is not None
                names += [part.function.name] if part.function.name else []
                arguments += part.function.arguments or ""
        assert names == ["look_up"]
        assert arguments
