"""Pieces of answers: how they are known again, and when a client got what engines said."""

from __future__ import annotations

import json

import pytest

from chaos.pieces import Said, is_carried, piece_of, text_of_chunk

ALL = Said(("a", "b", "c"), whole=True)
CUT = Said(("a", "b", "c"), whole=False)


@pytest.mark.parametrize(
    ("got", "said", "complete", "carried"),
    [
        ("abc", [ALL], True, True),
        ("ab", [ALL], True, False),
        ("ac", [ALL], True, False),
        ("abbc", [ALL], True, False),
        ("acb", [ALL], True, False),
        ("abc", [CUT], True, False),
        ("ab", [ALL], False, True),
        ("ba", [ALL], False, False),
        ("", [ALL], False, True),
        ("", [], False, True),
        ("", [], True, False),
        ("", [Said((), whole=True)], True, True),
        # Broken off after "ab" at one, and gone on with at another.
        ("abxy", [CUT, Said(("x", "y"), whole=True)], True, True),
        ("aby", [CUT, Said(("x", "y"), whole=True)], True, False),
        ("abx", [CUT, Said(("x", "y"), whole=True)], True, False),
        ("abx", [CUT, Said(("x", "y"), whole=True)], False, True),
        # One that was asked in vain, before or after the one that answered.
        ("abc", [Said(("z",), whole=False), ALL], True, True),
        ("abc", [ALL, Said(("z",), whole=False)], True, True),
    ],
)
def test_a_client_gets_what_engines_said(
    got: str, said: list[Said], *, complete: bool, carried: bool
) -> None:
    assert is_carried(got, said, complete=complete) is carried


def test_a_piece_is_known_by_its_chunk_else_by_its_tokens_else_by_its_text() -> None:
    assert piece_of((1, 2), "x", b"{}") == piece_of(None, "y", b"{}") != piece_of(None, "", b"[]")
    assert piece_of((1, 2), "x", None) == "1,2"
    assert piece_of(None, "x", None) == "x"
    assert piece_of((), "", None) == ""


def test_a_chunk_says_text_or_the_arguments_of_a_call() -> None:
    def chunk(name: str, said: object) -> bytes:
        return json.dumps({"choices": [{name: said}]}).encode()

    call = {"function": {"arguments": "now"}}
    assert text_of_chunk(chunk("delta", {"content": "so"})) == "so"
    assert text_of_chunk(chunk("message", {"content": None, "tool_calls": [call]})) == "now"
    assert text_of_chunk(chunk("delta", {})) == ""
