"""A model in one line: equal where hashes or answers can be compared, bounded, never a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.request import OutputIdentity, PrefixIdentity, ServedModel
from overlay.served import LINE_CHARS_MAX, advertised, line_of, read_line

MODEL = ServedModel(
    name="smol",
    context_tokens=8192,
    prefix=PrefixIdentity(served_model="smol", tokenizer="t", template="c"),
    output=OutputIdentity(weights="w", quantisation="none", dtype="float32"),
)


def test_a_line_reads_back_as_what_it_tells() -> None:
    assert read_line(line_of(MODEL)) == advertised(MODEL)


def test_digests_differ_with_what_they_stand_for_and_only_then() -> None:
    told = advertised(MODEL)
    other_template = replace(MODEL, prefix=replace(MODEL.prefix, template="d"))
    other_weights = replace(MODEL, output=replace(MODEL.output, weights="v"))
    other_dtype = replace(MODEL, output=replace(MODEL.output, dtype="bfloat16"))
    assert advertised(other_template).prefix != told.prefix
    assert advertised(other_template).weights == told.weights
    assert advertised(other_weights).weights != told.weights
    assert advertised(other_weights).prefix == told.prefix
    assert advertised(other_dtype).weights == told.weights
    assert advertised(other_dtype).dtype == "bfloat16"
    moved = replace(MODEL.prefix, served_model="smolt", tokenizer="")
    assert advertised(replace(MODEL, prefix=moved)).prefix != told.prefix


def test_a_name_that_is_too_long_is_cut_and_never_matches() -> None:
    long = replace(MODEL, name="x" * 500)
    line = line_of(long)
    assert len(line) <= LINE_CHARS_MAX
    read = read_line(line)
    assert read is not None
    assert read.name != long.name
    assert read.prefix == advertised(long).prefix


@pytest.mark.parametrize(
    "line",
    [
        *("", "\t" * 4, "a\tb\tc\td\te", "a\t1\tc\td", "a\t1\tc\td\te\tf\tg", "a\t²\tc\td\te"),
        *(
            "\x1b[2J\t1\tc\td\te",
            "a\t1\tc\td\te\x07",
            "a\u202eb\t1\tc\td\te",
            "a\t1000000000\tc\td\te",
        ),
    ],
)
def test_a_line_of_another_form_is_no_model(line: str) -> None:
    assert read_line(line) is None


def test_an_engine_that_is_given_whole_bodies_says_so() -> None:
    remote = replace(MODEL, passes_bodies=True, estimated=True)
    assert line_of(remote) == line_of(MODEL) + "\tbe"
    read = read_line(line_of(remote))
    assert read == advertised(remote)
    assert read.passes_bodies
    assert read.estimated
    assert not advertised(MODEL).passes_bodies


@given(st.text(max_size=LINE_CHARS_MAX))
def test_no_line_makes_a_reader_fail(line: str) -> None:
    read_line(line)
    read_line(line.replace(" ", "\t"))
