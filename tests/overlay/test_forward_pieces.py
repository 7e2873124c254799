"""Pieces of an answer that are too large for one message, and put together again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import forward
from overlay.errors import ProtocolError
from overlay.forward import ANSWER_BYTES_MAX, CHUNK_BYTES_MAX, Joined, Tokens, pieces_of
from overlay.transport.limits import MESSAGE_BYTES_MAX


@given(st.integers(0, 3 * CHUNK_BYTES_MAX), st.integers(0, 3 * CHUNK_BYTES_MAX), st.integers(0, 4))
@settings(max_examples=60)
def test_a_piece_of_any_size_comes_whole(text: int, chunk: int, ids: int) -> None:
    piece = Tokens(
        token_ids=list(range(ids)), text="ä" * text, cached_tokens=3, chunk=b"c" * chunk or b"x"
    )
    joined = Joined()
    messages = [forward.encode(each) for each in pieces_of(piece)]
    assert all(len(each) < MESSAGE_BYTES_MAX for each in messages)
    found = []
    for message in messages:
        read = forward.decode_answer(message)
        assert isinstance(read, Tokens)
        found.append(joined.add(read))
    assert found.pop() == piece
    assert not any(found)
    assert joined.add(Tokens(token_ids=None, text="next")) == Tokens(token_ids=None, text="next")


def test_an_answer_that_never_ends_is_given_up() -> None:
    joined = Joined()
    part = Tokens(token_ids=None, text="", chunk=b"c" * CHUNK_BYTES_MAX, more=True)
    for _ in range(ANSWER_BYTES_MAX // CHUNK_BYTES_MAX):
        assert joined.add(part) is None
    with pytest.raises(ProtocolError):
        joined.add(part)
