"""Every rule of a completion body: honoured, harmless, or refused with the field's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.request import BodyPrompt, ChatPrompt, Message, TextPrompt
from overlay.body import (
    BODY_BYTES_MAX,
    SEED_MAX,
    check_engines_can,
    parse_chat,
    parse_completion,
)
from overlay.errors import RequestError
from overlay.request import Call

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> Call:
    return parse_chat(json.dumps({"messages": HELLO, **fields}).encode())


def refused(raw: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_engines_can(parse_chat(raw), beyond=False)
    return caught.value


def refused_chat(**fields: Any) -> RequestError:
    return refused(json.dumps({"messages": HELLO, **fields}).encode())


def test_the_smallest_chat_has_no_wishes() -> None:
    call = chat()
    assert call.chat
    assert call.prompt == ChatPrompt(messages=(Message(role="user", content="hello"),))
    assert (call.model, call.stop, call.stream, call.include_usage) == ("", (), False, False)
    assert call.temperature is call.top_p is call.seed is call.max_tokens is None
    assert json.loads(call.raw)["messages"] == HELLO


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"model": "m"}, "model", "m"),
        ({"temperature": 0}, "temperature", 0.0),
        ({"temperature": 2}, "temperature", 2.0),
        ({"top_p": 1}, "top_p", 1.0),
        ({"top_p": 1e-9}, "top_p", 1e-9),
        ({"top_k": 5}, "top_k", 5),
        ({"top_k": -1}, "top_k", 0),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"n": 3}, "answers", 3),
        ({"seed": 7}, "seed", 7),
        ({"seed": -1}, "seed", SEED_MAX),
        ({"stop": "a"}, "stop", ("a",)),
        ({"stop": ["a", "b", "c", "d"]}, "stop", ("a", "b", "c", "d")),
        ({"stop": []}, "stop", ()),
        ({"stop": None}, "stop", ()),
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_tokens": 6, "max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_tokens": 6, "max_completion_tokens": None}, "max_tokens", 6),
        ({"stream": True}, "stream", True),
        ({"stream": None}, "stream", False),
        ({"stream": True, "stream_options": {"include_usage": True}}, "include_usage", True),
        ({"stream": True, "stream_options": {"include_usage": False}}, "include_usage", False),
        ({"stream": True, "stream_options": {}}, "include_usage", False),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            "include_usage",
            False,
        ),
    ],
)
def test_sampling_and_streaming_are_honoured(
    fields: dict[str, Any], name: str, value: object
) -> None:
    assert getattr(chat(**fields), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "u"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("service_tier", "auto"),
        ("n", 1),
        ("logprobs", False),
        ("tools", []),
        ("tool_choice", "none"),
        ("response_format", {"type": "text"}),
        ("frequency_penalty", 0.0),
        ("logit_bias", {}),
        ("reasoning_effort", None),
        ("unheard_of", None),
    ],
)
def test_what_changes_nothing_is_accepted(name: str, value: object) -> None:
    assert json.loads(chat(**{name: value}).raw)[name] == value


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"n": "1"}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"n": 0}, "n", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 1.1}, "min_p", "invalid_value"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"logit_bias": {"1": 1}}, "logit_bias", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"tenant": "other"}, "tenant", "unknown_parameter"),
        ({"prompt": "x"}, "prompt", "unknown_parameter"),
        ({"x" * 500: 1}, "x" * 64, "unknown_parameter"),
        ({"model": 3}, "model", "invalid_type"),
        ({"model": "m" * 257}, "model", "invalid_type"),
        ({"temperature": "0"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": False}, "seed", "invalid_type"),
        ({"seed": 1 << 63}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a", 1]}, "stop", "invalid_value"),
        ({"stop": "s" * 257}, "stop", "invalid_value"),
        ({"stop": {"a": 1}}, "stop", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.0}, "max_tokens", "invalid_type"),
        ({"max_tokens": (1 << 20) + 1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
        ),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "unsupported_parameter",
        ),
    ],
)
def test_each_bad_field_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused_chat(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hello", "messages"),
        ({}, "messages"),
        ([{"role": "user", "content": " \n"}], "messages"),
        (["hello"], "messages.0"),
        ([*HELLO, {"content": "x"}], "messages.1.role"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": ["user"], "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": 1}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0"),
        ([{"role": "user", "content": ["x"]}], "messages.0.content.0"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content.0.text"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "messages.0.tool_calls"),
        ([{"role": "user", "content": "\ud800"}], "messages.0.content"),
        (HELLO * 4097, "messages"),
    ],
)
def test_each_bad_message_is_named(messages: object, param: str) -> None:
    error = refused_chat(messages=messages)
    assert (error.status, error.param) == (400, param)


def test_roles_and_text_parts() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        {"role": "assistant", "content": "", "tool_calls": []},
    ]
    prompt = chat(messages=messages).prompt
    assert isinstance(prompt, ChatPrompt)
    assert [m.content for m in prompt.messages] == ["a", "b", "cd", ""]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
        ('{"messages": [{"role": "user", "content": "x"}]}'.encode("utf-16"), 400),
        (b'{"temperature": NaN}', 400),
        (b'{"temperature": Infinity}', 400),
        (b'{"a": ' + b"1" * 5000 + b"}", 400),
        (b'{"n": 1, "n": 2}', 400),
        (b'{"messages": [{"role": "user", "role": "system", "content": "x"}]}', 400),
        (b"[" * 100_000, 400),
        (b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b" " * (BODY_BYTES_MAX + 1), 413),
        (b"{}", 400),
    ],
)
def test_what_is_not_a_json_object_is_refused(raw: bytes, status: int) -> None:
    assert refused(raw).status == status


def test_a_missing_prompt_is_named() -> None:
    assert refused(b"{}").param == "messages"
    with pytest.raises(RequestError) as caught:
        parse_completion(b"{}")
    assert (caught.value.param, caught.value.code) == ("prompt", "missing_required_parameter")


@pytest.mark.parametrize(
    ("prompt", "text"), [("once", "once"), (["once"], "once"), (" ", " "), ("ß", "ß")]
)
def test_one_text_prompt(prompt: object, text: str) -> None:
    call = parse_completion(json.dumps({"prompt": prompt, "echo": False, "best_of": 1}).encode())
    assert not call.chat
    assert call.prompt == TextPrompt(text=text)


@pytest.mark.parametrize("prompt", ["", [""], ["a", "b"], [], [1, 2], [[1]], 3, {}, "\udfff", None])
def test_other_prompts_are_refused(prompt: object) -> None:
    raw = json.dumps({"prompt": prompt}).encode()
    with pytest.raises(RequestError) as caught:
        check_engines_can(parse_completion(raw), beyond=False)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


@pytest.mark.parametrize(
    "fields",
    [
        {"\ud800": 1},
        {"messages": [{"role": "user", "content": "x", "\ud800": 1}]},
        {"stream": True, "stream_options": {"\ud800": True}},
    ],
)
def test_an_error_can_be_sent_whatever_the_field_is_called(fields: dict[str, Any]) -> None:
    error = refused_chat(**fields)
    assert (error.message + str(error.param)).encode()


NAMES = st.sampled_from(
    [
        "messages",
        "prompt",
        "model",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "n",
        "tools",
        "metadata",
        "logit_bias",
        "role",
        "content",
        "type",
        "text",
        "include_usage",
    ]
) | st.text(max_size=3)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**400), "user", "text", "\ud800", 0, 1, 1.0])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": VALUES}), max_size=2)
BODIES = st.dictionaries(NAMES, VALUES, max_size=6) | st.fixed_dictionaries(
    {"messages": MESSAGES, "prompt": VALUES}, optional={"stop": VALUES, "temperature": VALUES}
)


@given(BODIES)
@settings(max_examples=400, deadline=None)
def test_any_json_is_a_call_or_a_request_error(body: dict[str, Any]) -> None:
    check(json.dumps(body).encode())


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_call_or_a_request_error(raw: bytes) -> None:
    check(raw)


def check(raw: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        outcome = outcome_of(parse, raw)
        if isinstance(outcome, RequestError):
            assert outcome.status in {400, 413}
            assert (outcome.message + str(outcome.param)).encode()
        else:
            assert outcome.raw == raw


def outcome_of(parse: Callable[[bytes], Call], raw: bytes) -> Call | RequestError:
    try:
        return parse(raw)
    except RequestError as error:
        return error


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("fields", "beyond", "plain"),
    [
        ({}, (), True),
        ({"n": 2}, ("n",), True),
        ({"made_up": {"a": [1]}}, ("made_up",), True),
        ({"logprobs": True, "top_logprobs": 2}, ("logprobs", "top_logprobs"), True),
        ({"response_format": {"type": "json_object"}}, ("response_format",), True),
        ({"tools": [TOOL]}, ("tools",), False),
        ({"tools": [TOOL], "tool_choice": "auto"}, ("tools",), False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, ("chat_template_kwargs",), False),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            ("stream_options.continuous_usage_stats",),
            True,
        ),
    ],
)
def test_what_only_an_engine_with_the_whole_body_can_do(
    fields: dict[str, Any], beyond: tuple[str, ...], *, plain: bool
) -> None:
    call = chat(**fields)
    assert call.beyond == beyond
    assert isinstance(call.prompt, ChatPrompt) is plain
    check_engines_can(call, beyond=True)


def test_a_conversation_with_tools_is_one_prompt_for_equal_fields() -> None:
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    call = chat(messages=messages, tools=[TOOL], temperature=0)
    assert call.beyond == ("tools", "messages.1.tool_calls")
    assert isinstance(call.prompt, BodyPrompt)
    assert call.prompt.chat
    assert not call.prompt.opaque
    assert json.loads(call.prompt.fields) == {"messages": messages, "tools": [TOOL]}
    assert call.prompt == chat(tools=[TOOL], messages=messages, temperature=1).prompt
    assert call.prompt != chat(tools=[TOOL, TOOL], messages=messages).prompt


@pytest.mark.parametrize(
    ("content", "opaque"),
    [
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}], True),
        ([{"type": "input_audio", "input_audio": {}}], True),
    ],
)
def test_what_is_no_text_is_read_by_no_tokenizer(content: object, *, opaque: bool) -> None:
    prompt = chat(messages=[{"role": "user", "content": content}]).prompt
    assert isinstance(prompt, BodyPrompt)
    assert prompt.opaque is opaque


@pytest.mark.parametrize(("prompt", "opaque"), [([1, 2], False), ([[1], [2]], True)])
def test_prompts_of_token_ids(prompt: object, *, opaque: bool) -> None:
    read = parse_completion(json.dumps({"prompt": prompt}).encode()).prompt
    assert isinstance(read, BodyPrompt)
    assert (read.chat, read.opaque) == (False, opaque)


def test_text_in_several_parts_is_remembered_as_it_came() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = chat(messages=[{"role": "user", "content": content}]).prompt.messages  # type: ignore[union-attr]
    assert (message.content, message.parts) == ("ab", ("a", "b"))
    one = chat(messages=[{"role": "user", "content": content[:1]}])
    assert one.prompt == chat(messages=[{"role": "user", "content": "a"}]).prompt
