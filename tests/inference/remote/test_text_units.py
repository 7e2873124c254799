"""Prompts as text: what goes on from another begins with it, and what says the same is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidRequest
from inference.request import BodyPrompt, ChatPrompt, Message, TextPrompt, canonical_json
from inference.text_units import UNIT_BYTES, text_units

Said = list[tuple[str, str]]


def chat(said: Said) -> ChatPrompt:
    return ChatPrompt(messages=tuple(Message(role=r, content=c) for r, c in said))


def body(**fields: object) -> BodyPrompt:
    return BodyPrompt(chat="messages" in fields, fields=canonical_json(fields))


def listed(said: Said) -> list[dict[str, str]]:
    return [{"role": r, "content": c} for r, c in said]


messages = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant", "system"]), st.text(st.characters(codec="utf-8"))
    )
)


@given(messages, messages)
def test_a_longer_conversation_extends_a_shorter_one(first: Said, more: Said) -> None:
    short, long = text_units(chat(first)), text_units(chat(first + more))
    assert short is not None
    assert long is not None
    # The last unit of the shorter one may be filled up by what follows.
    assert long[: len(short) - 1] == short[:-1]


@given(messages)
def test_messages_are_the_same_in_either_form(said: Said) -> None:
    assert text_units(chat(said)) == text_units(body(messages=listed(said)))
    nothing = body(messages=listed(said), tools=[], chat_template_kwargs={}, documents=None)
    assert text_units(chat(said)) == text_units(nothing)


def test_text_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    joined = body(messages=[{"role": "user", "content": parts, "name": None}])
    assert text_units(joined) == text_units(chat([("user", "ab")]))


def test_tools_stand_before_the_conversation() -> None:
    said = listed([("user", "x" * 200)])
    one, other = (text_units(body(messages=said, tools=[{"name": n}])) for n in "ab")
    assert one is not None
    assert other is not None
    assert one[:8] != other[:8]
    assert one[-20:] == other[-20:]


def test_calls_of_tools_count() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert text_units(body(messages=[call])) != text_units(chat([("assistant", "")]))


def test_chat_and_text_are_never_taken_for_each_other() -> None:
    units = text_units(chat([("user", "hi")]))
    assert units is not None
    written = b"".join(unit.to_bytes(UNIT_BYTES, "little") for unit in units).decode()
    assert text_units(TextPrompt(text=written)) != units


def test_plain_prompts_are_the_same_in_each_form() -> None:
    units = text_units(TextPrompt(text="once upon"))
    assert units == text_units(body(prompt="once upon")) == text_units(body(prompt=["once upon"]))
    assert text_units(body(prompt="once upon", suffix="end")) != units


def test_given_tokens_are_units() -> None:
    assert text_units(body(prompt=[1, 2, 3])) == (1, 2, 3)


@pytest.mark.parametrize("prompt", [[True], [-1], [1 << 32], ["a", "b"], [[1]], {"x": 1}, None])
def test_what_is_no_single_prompt_has_no_units(prompt: object) -> None:
    assert text_units(BodyPrompt(chat=False, fields=canonical_json({"prompt": prompt}))) is None


def test_a_picture_has_no_units() -> None:
    said = [{"role": "user", "content": [{"type": "image_url"}]}]
    assert (
        text_units(BodyPrompt(chat=True, fields=canonical_json({"messages": said}), opaque=True))
        is None
    )
    assert text_units(BodyPrompt(chat=True, fields='{"messages":"x"}')) is None


def test_half_a_surrogate_pair_is_the_callers_error() -> None:
    with pytest.raises(InvalidRequest):
        text_units(TextPrompt(text="\ud83d"))
