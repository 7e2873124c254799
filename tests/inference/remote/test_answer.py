"""Chunks become events: nothing is lost, nothing that only we asked for is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference.errors import EngineFailed
from inference.remote.answer import CHUNK_BYTES_MAX, AnswerReader
from inference.remote.body import Upstream
from inference.request import EngineUsage, FinishReason, TokenEvent
from tests.inference.remote.recordings import exchanges, payloads

RECORDED = exchanges()
DONE = b"[DONE]"


def upstream(**given: Any) -> Upstream:
    return Upstream(**{"path": "/", "body": b"", "stream": True} | given)


def chunk(delta: dict[str, Any] | None = None, **choice: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta or {}, **choice}]}).encode()


def end(reason: str = "stop") -> bytes:
    return chunk(finish_reason=reason)


def read(reader: AnswerReader, *data: bytes) -> list[TokenEvent]:
    return [event for each in data if (event := reader.chunk(each)) is not None]


def reader(**given: Any) -> AnswerReader:
    return AnswerReader(upstream(**given), cached_tokens=32)


def test_chunks_are_passed_on_byte_for_byte() -> None:
    data = [b'{ "choices" : [{"delta":{"content":"h\\u00e9","x":[1e3]}}], "new":{} }', end()]
    events = read(reader(), *data, DONE)
    assert [event.chunk for event in events] == [*data, None]
    assert [event.text for event in events] == ["hé", "", ""]
    assert [event.cached_tokens for event in events] == [32, None, None]
    assert [event.finish_reason for event in events] == [None, None, FinishReason.STOP]


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("function_call", FinishReason.TOOL_CALLS),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("a new one", FinishReason.STOP),
    ],
)
def test_why_an_answer_ended(reason: str, meant: FinishReason) -> None:
    assert read(reader(), end(reason), DONE)[-1].finish_reason is meant


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_was_given_up_fails(reason: str) -> None:
    with pytest.raises(EngineFailed):
        reader().chunk(end(reason))


def test_usage_that_only_we_asked_for_is_not_shown() -> None:
    last = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    every = b'{"id":"a","usage":null,"choices":[{"index":0,"delta":{"content":"x"}}],"z":1}'
    hidden = read(reader(hide_usage=True), every, end(), last, DONE)
    assert [event.chunk for event in hidden] == [
        b'{"id":"a","choices":[{"index":0,"delta":{"content":"x"}}],"z":1}',
        end(),
        None,
    ]
    shown = read(reader(), every, end(), last, DONE)
    assert [event.chunk for event in shown] == [every, end(), last, None]
    assert hidden[-1].usage == shown[-1].usage == EngineUsage(prompt_tokens=3, completion_tokens=2)


@pytest.mark.parametrize(
    ("usage", "more", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 16}}, {}, 16),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, {}, 0),
        ({"prompt_tokens_details": {"cached_tokens": 99}}, {}, 20),
        ({"prompt_tokens_details": None}, {}, None),
        ({}, {"timings": {"cache_n": 7}}, 7),
        ({}, {"timings": {"cache_n": -7}}, None),
        ({"prompt_tokens_details": {"cached_tokens": True}}, {}, None),
    ],
)
def test_cached_tokens_as_each_server_tells_them(
    usage: dict[str, Any], more: dict[str, Any], cached: int | None
) -> None:
    counts = {"prompt_tokens": 20, "completion_tokens": 2}
    last = json.dumps({"choices": [], "usage": counts | usage, **more}).encode()
    found = read(reader(), end(), last, DONE)[-1].usage
    assert found is not None
    assert found.cached_tokens == cached


def test_usage_that_makes_no_sense_is_as_if_not_there() -> None:
    for usage in ({"prompt_tokens": -1}, {"prompt_tokens": "9"}, {}, [], "x", 1 << 70):
        data = json.dumps({"choices": [], "usage": usage}).encode()
        assert read(reader(), end(), data, DONE)[-1].usage is None


def ids_of(*data: bytes, **given: Any) -> list[tuple[int, ...] | None]:
    answer = reader(has_ids=True, hide_ids=True, **given)
    return [event.token_ids for event in read(answer, *data)]


def test_tokens_are_given_and_not_shown() -> None:
    answer = reader(has_ids=True, hide_ids=True)
    data = chunk({"content": "a"}, token_ids=[5, 6], logprobs=None)
    event = answer.chunk(data)
    assert event is not None
    assert event.token_ids == (5, 6)
    assert event.chunk == b'{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":null}]}'


def test_tokens_of_half_a_character_wait_for_it() -> None:
    first, second = chunk({"content": ""}, token_ids=[5]), chunk({"content": "語"}, token_ids=[6])
    assert ids_of(first, second) == [(), (5, 6)]
    ended = chunk({"content": ""}, token_ids=[7], finish_reason="length")
    assert ids_of(first, ended, DONE) == [(), (5, 7), ()]


@pytest.mark.parametrize(
    "odd",
    [
        chunk({"content": "x"}),
        chunk({"content": "x"}, token_ids=["5"]),
        chunk({"content": "x"}, token_ids=[-5]),
        chunk({"content": "x"}, token_ids=5),
        chunk({"reasoning_content": "x"}, token_ids=[5]),
        chunk({"tool_calls": [{"index": 0}]}, token_ids=[5]),
        chunk({}, token_ids=[5]),
        chunk({"content": "x"}, token_ids=[5], logprobs={"content": []}),
    ],
)
def test_no_tokens_are_given_from_the_first_piece_on_that_has_more_to_it(odd: bytes) -> None:
    plain = chunk({"content": "a"}, token_ids=[1])
    assert ids_of(plain, odd, plain, end(), DONE) == [(1,), None, None, None, None]


def test_calls_of_tools_are_untouched() -> None:
    call = chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]})
    events = read(reader(), call, end("tool_calls"), DONE)
    assert events[0].chunk == call
    assert (events[0].text, events[-1].finish_reason) == ("", FinishReason.TOOL_CALLS)


def test_several_choices_end_when_all_have() -> None:
    def of(index: int, **choice: Any) -> bytes:
        return json.dumps(
            {"choices": [{"index": index, "delta": {"content": "x"}, **choice}]}
        ).encode()

    answer = reader(choices=2)
    events = read(answer, of(0), of(1), of(0, finish_reason="length"))
    assert not answer.finished
    events += read(answer, of(1, finish_reason="stop"), DONE)
    assert [event.text for event in events] == ["x", "", "x", "", ""]
    assert events[-1].finish_reason is FinishReason.LENGTH


def test_the_piece_that_ends_the_last_choice_says_so() -> None:
    """What breaks after it is no matter to whoever has all of the answer."""
    usage = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    events = read(reader(), chunk({"content": "a"}), end(), usage, DONE)
    assert [event.ended for event in events] == [None, FinishReason.STOP, None, None]
    two = read(
        reader(choices=2), chunk({"content": "a"}), end(), chunk(index=1, finish_reason="length")
    )
    assert [event.ended for event in two] == [None, None, FinishReason.STOP]
    continued = read(reader(passes_chunks=False, has_ids=True), end(), DONE)
    assert [(event.ended, event.finish_reason) for event in continued] == [
        (FinishReason.STOP, None),
        (None, FinishReason.STOP),
    ]


def test_a_reason_that_is_none_is_passed_over() -> None:
    answer = reader()
    read(answer, chunk(finish_reason=["abort"]), chunk(finish_reason={"a": 1}))
    assert not answer.finished


def test_a_stream_that_stops_short_fails() -> None:
    for data in ((), (chunk({"content": "x"}),)):
        answer = reader()
        read(answer, *data)
        with pytest.raises(EngineFailed, match="broke off"):
            answer.end()
        with pytest.raises(EngineFailed, match="broke off"):
            answer.chunk(DONE)


def test_nothing_comes_after_the_end() -> None:
    answer = reader()
    read(answer, end(), DONE)
    assert answer.said_end
    assert answer.chunk(chunk({"content": "more"})) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"\xff",
        b"[]",
        b'"x"',
        b'{"choices":1}',
        b'{"choices":[1]}',
        b'{"choices":[],"n":NaN}',
        b'{"choices":[],"n":1e999}',
        b'{"choices":[],"n":-1e999}',
        b'{"choices":[{"delta":{"content":"a\\ud800"}}]}',
        b'{"choices":[{"delta":{"a\\uDfff":1}}]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"error":{"message":"secret prompt"}}',
        b'{"object":"error","message":"secret prompt"}',
        b'{"x":"' + b"y" * CHUNK_BYTES_MAX + b'"}',
    ],
    ids=lambda data: str(data[:20]),
)
def test_what_is_no_chunk_fails_the_answer_without_showing_it(data: bytes) -> None:
    for ask in (reader().chunk, reader().whole):
        with pytest.raises(EngineFailed) as caught:
            ask(data)
        assert "secret" not in str(caught.value)


def test_a_whole_answer_is_one_event() -> None:
    body = {
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 40,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 16},
        },
    }
    data = json.dumps(body).encode()
    event = reader(stream=False).whole(data)
    assert (event.text, event.chunk, event.token_ids) == ("hi", data, None)
    assert (event.cached_tokens, event.finish_reason) == (16, FinishReason.LENGTH)
    del body["usage"]
    assert reader(stream=False).whole(json.dumps(body).encode()).cached_tokens == 32


def test_a_whole_answer_without_any_fails() -> None:
    with pytest.raises(EngineFailed):
        reader().whole(b'{"choices":[]}')


def test_a_continuation_has_text_only() -> None:
    answer = reader(passes_chunks=False, has_ids=True, hide_ids=True)
    piece = b'{"choices":[{"index":0,"text":"on","token_ids":[4],"finish_reason":"stop"}]}'
    events = read(answer, piece, DONE)
    assert [(event.text, event.token_ids, event.chunk) for event in events] == [
        ("on", (4,), None),
        ("", (), None),
    ]


@pytest.mark.parametrize(
    ("first", "started"),
    [
        (chunk({"role": "assistant", "content": ""}), False),
        (b'{"choices":[]}', False),
        (chunk({"content": "x"}), True),
        (chunk({"reasoning": "x"}), True),
        (chunk({"tool_calls": [{}]}), True),
        (chunk({}, token_ids=[1]), True),
        (end(), True),
    ],
)
def test_it_is_known_when_the_prompt_has_been_computed(first: bytes, started: bool) -> None:
    answer = reader()
    answer.chunk(first)
    assert answer.started is started


STREAMS = sorted(
    name
    for name, each in RECORDED.items()
    if each.get("chunks") and each["status"] == 200 and "[DONE]" in each["chunks"][-1]
)


@pytest.mark.parametrize("name", STREAMS)
def test_every_recorded_stream_is_read(name: str) -> None:
    exchange = RECORDED[name]
    asked = exchange["request"]["json"]
    prompts = asked.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and isinstance(prompts[0], list) else 1
    given = upstream(choices=asked.get("n", 1) * several)
    data = payloads(exchange)
    events = read(AnswerReader(given, cached_tokens=0), *data)
    assert [event.chunk for event in events] == [*data[:-1], None]
    assert events[-1].finish_reason is not None
    wants_usage = (asked.get("stream_options") or {}).get("include_usage")
    assert (events[-1].usage is not None) == bool(wants_usage)


@pytest.mark.parametrize(
    "name", ["chat_stream_ids_usage", "chat_until_end", "completion_ids_usage"]
)
def test_recorded_tokens_are_those_of_the_answer(name: str) -> None:
    given = upstream(has_ids=True, hide_ids=True, hide_usage=True)
    events = read(AnswerReader(given, cached_tokens=0), *payloads(RECORDED[name]))
    ids = [
        each for event in events for each in event.token_ids or (-1,) * (event.token_ids is None)
    ]
    usage = events[-1].usage
    assert usage is not None
    assert len(ids) == usage.completion_tokens
    assert -1 not in ids
    for event in events[:-1]:
        assert event.chunk is not None
        assert b"token_ids" not in event.chunk
        assert b"usage" not in event.chunk


def test_recorded_calls_of_tools_give_no_tokens() -> None:
    given = upstream(has_ids=True, hide_ids=True)
    events = read(
        AnswerReader(given, cached_tokens=0), *payloads(RECORDED["tools_required_stream"])
    )
    assert events[-1].finish_reason is FinishReason.TOOL_CALLS
    assert not any(event.token_ids for event in events)


@pytest.mark.parametrize("name", ["chat", "chat_ids", "completion_text", "tools_required", "n2"])
def test_every_recorded_whole_answer_is_read(name: str) -> None:
    data = RECORDED[name]["body"].encode()
    event = AnswerReader(upstream(stream=False), cached_tokens=0).whole(data)
    assert event.chunk == data
    assert event.usage is not None
    assert event.usage.cached_tokens is not None
    assert event.finish_reason is not None


def test_a_server_that_knows_no_n_gives_one_answer() -> None:
    events = read(reader(choices=3), chunk({"content": "x"}), end(), DONE)
    assert events[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("where", ["body", "choice"])
@pytest.mark.parametrize(("told", "misread"), [([1, 2], False), ([1, 3], True), (None, False)])
def test_an_answer_to_another_prompt_is_not_gone_on_with(
    where: str, told: list[int] | None, misread: bool
) -> None:
    choice: dict[str, Any] = {"index": 0, "text": "x", "token_ids": [5]}
    body: dict[str, Any] = {"choices": [choice]}
    (body if where == "body" else choice)["prompt_token_ids"] = told
    answer = AnswerReader(upstream(has_ids=True, hide_ids=True), cached_tokens=0, prompt=(1, 2))
    event = answer.chunk(json.dumps(body).encode())
    assert event is not None
    assert event.token_ids == (None if misread else (5,))
    assert answer.misread is misread


@pytest.mark.parametrize(("counted", "misread"), [(2, False), (3, True)])
def test_a_count_tells_a_prompt_that_was_read_otherwise(counted: int, misread: bool) -> None:
    body = {"choices": [{"text": "x"}], "usage": {"prompt_tokens": counted, "completion_tokens": 1}}
    answer = AnswerReader(upstream(stream=False), cached_tokens=0, prompt=(1, 2))
    answer.whole(json.dumps(body).encode())
    assert answer.misread is misread
    streamed = AnswerReader(upstream(), cached_tokens=0, prompt=(1, 2))
    last = json.dumps({"choices": [], "usage": body["usage"]}).encode()
    read(streamed, end(), last, DONE)
    assert streamed.misread is misread
