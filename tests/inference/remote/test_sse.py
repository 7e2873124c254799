"""Events come out whole, however the wire is cut, and never grow without bound."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.remote.sse import EVENT_BYTES_MAX, EventTooLarge, SseParser

STREAM = (
    b': ping\n\ndata: {"a":1}\n\nevent: x\r\ndata:two\r\ndata:  lines\r\n\r\n'
    b"id: 7\rdata: \xc3\xa9\r\rretry\n\ndata: [DONE]\n\n"
)
PAYLOADS = [b'{"a":1}', b"two\n lines", b"\xc3\xa9", b"[DONE]"]


def fed(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    return [payload for piece in pieces for payload in parser.feed(piece)]


def test_a_stream_cut_at_every_byte_gives_the_same_events() -> None:
    assert fed([STREAM]) == PAYLOADS
    for cut in range(len(STREAM) + 1):
        assert fed([STREAM[:cut], STREAM[cut:]]) == PAYLOADS, cut
    assert fed([bytes([each]) for each in STREAM]) == PAYLOADS


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_cut_anywhere_gives_the_same_events(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    assert fed([STREAM[a:b] for a, b in itertools.pairwise(ends)]) == PAYLOADS


def test_an_event_is_given_only_when_it_is_complete() -> None:
    assert fed([b"data: 1\n"]) == []
    assert fed([b"data: 1\n\ndata: 2"]) == [b"1"]


@pytest.mark.parametrize(
    "endless", [b"data: " + b"x" * 4096, b"data: x\n", b"x" * 4096 + b"\n", b": ping\n"]
)
def test_an_event_without_end_is_an_error(endless: bytes) -> None:
    parser = SseParser()

    def feed() -> None:
        for _ in range(EVENT_BYTES_MAX):
            parser.feed(endless)

    with pytest.raises(EventTooLarge):
        feed()


def test_many_small_events_are_no_large_one() -> None:
    parser = SseParser(event_bytes_max=100)
    for _ in range(100):
        assert parser.feed(b": ping\n\ndata: 12345678\n\n") == [b"12345678"]
