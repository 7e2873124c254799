from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.detokenizer import UNFINISHED_TOKENS_MAX, Decode, TextStream


def decode(token_ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(token_ids).decode(errors="replace")


def vocabulary_of(words: Sequence[str]) -> Decode:
    """A tokenizer whose tokens are these words."""
    return lambda token_ids: "".join(words[token] for token in token_ids)


def said(tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
    stream = TextStream(decode, stop=stop)
    return stream.push(tokens) + stream.flush()


def cut(text: str, stop: Sequence[str]) -> str:
    """The obvious model: character by character, until the text ends in a stop string."""
    for end in range(1, len(text) + 1):
        ending = [string for string in stop if string and text[:end].endswith(string)]
        if ending:
            return text[: end - max(len(string) for string in ending)]
    return text


texts = st.text("ab\nßé€語😀", max_size=24)
stops = st.lists(st.text("ab\n€😀", max_size=4), max_size=3)


@given(texts)
def test_no_character_is_split(text: str) -> None:
    stream = TextStream(decode)
    out = ""
    for token in text.encode():
        piece = stream.push([token])
        assert "\N{REPLACEMENT CHARACTER}" not in piece
        out += piece
        assert text.startswith(out)
    assert out == text
    assert stream.flush() == ""


@given(texts, stops)
@example("abab\n", ["ba", "abab"])
@example("aaab", ["aab"])
def test_text_ends_at_the_stop_string_that_ends_first(text: str, stop: list[str]) -> None:
    assert said(text.encode(), stop) == cut(text, stop)


@given(st.lists(st.text("abc", max_size=5), max_size=5), st.lists(st.text("abc", max_size=4)))
@example(["cabcb"], ["abcb", "bc"])
def test_long_tokens_are_cut_where_short_ones_would_be(words: list[str], stop: list[str]) -> None:
    stream = TextStream(vocabulary_of(words), stop=stop)
    assert stream.push(range(len(words))) + stream.flush() == cut("".join(words), stop)


@given(texts, stops)
def test_text_that_may_still_be_cut_is_held_back(text: str, stop: list[str]) -> None:
    stream = TextStream(decode, stop=stop)
    out = ""
    for count, token in enumerate(text.encode(), start=1):
        out += stream.push([token])
        known = text.encode()[:count].decode(errors="ignore")
        possible = [
            cut(known + rest, stop) for string in stop for rest in (string[i:] for i in range(5))
        ]
        assert all(each.startswith(out) for each in possible)


@given(texts, stops, st.data())
def test_pieces_do_not_depend_on_how_tokens_are_batched(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    tokens = text.encode()
    at = data.draw(st.integers(0, len(tokens)))
    stream = TextStream(decode, stop=stop)
    assert stream.push(tokens[:at]) + stream.push(tokens[at:]) + stream.flush() == said(
        tokens, stop
    )


@pytest.mark.parametrize("stop", [(), ("END",), ("語x", "E")])
def test_a_resumed_stream_goes_on_where_the_other_one_stood(stop: tuple[str, ...]) -> None:
    tokens = "a€ E EN 語 语😀 END x".encode()
    stream = TextStream(decode, stop=stop)
    pieces = [stream.push([token]) for token in tokens]
    last = stream.flush()
    for at in range(len(tokens) + 1):
        resumed = TextStream(decode, stop=stop, emitted=tokens[:at])
        assert [resumed.push([token]) for token in tokens[at:]] == pieces[at:]
        assert resumed.flush() == last
        assert resumed.stopped == stream.stopped


def test_a_stop_string_across_tokens_is_found_at_every_cut() -> None:
    text = "one two STOP three"
    for first in range(len(text)):
        for second in range(first, len(text)):
            parts = [text[:first], text[first:second], text[second:]]
            stream = TextStream(vocabulary_of(parts), stop=["STOP"])
            out = "".join(stream.push([token]) for token in range(3))
            assert (out, stream.stopped, stream.flush()) == ("one two ", True, "")


def test_what_was_held_back_comes_out_at_the_end() -> None:
    stream = TextStream(decode, stop=["STOP"])
    assert stream.push(b"so STO") == "so "
    assert stream.flush() == "STO"
    assert not stream.stopped
    stream = TextStream(decode)
    assert stream.push("€".encode()[:2]) == ""
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"


def test_nothing_is_said_after_a_stop_string() -> None:
    stream = TextStream(decode, stop=["."])
    assert stream.push(b"a.b") == "a"
    assert stream.push(b"c") == ""
    assert stream.flush() == ""


def test_bytes_that_never_become_a_character_do_not_hold_the_text_forever() -> None:
    stream = TextStream(decode)
    noise = [0xFF] * (3 * UNFINISHED_TOKENS_MAX)
    assert len(stream.push(noise)) >= 2 * UNFINISHED_TOKENS_MAX
    assert stream.push(b" ok").endswith(" ok")


def test_a_tokenizer_that_drops_the_first_space_is_read_right() -> None:
    words = vocabulary_of([" a", " b", " c"])
    stream = TextStream(lambda token_ids: words(token_ids).removeprefix(" "))
    assert [stream.push([token]) for token in range(3)] == ["a", " b", " c"]
