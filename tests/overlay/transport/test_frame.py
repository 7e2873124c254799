"""Frames: any split of the bytes gives the same frames, and nothing is kept beyond the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ProtocolError
from overlay.transport import frame
from overlay.transport.frame import Frame, FrameReader

LIMIT = 4096

frames = st.lists(
    st.builds(
        Frame,
        kind=st.integers(0, 255),
        flags=st.integers(0, 255),
        stream=st.integers(0, frame.STREAM_ID_MAX),
        payload=st.binary(max_size=200),
    ),
    max_size=8,
)


@given(frames, st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_any_split_of_the_bytes_gives_the_same_frames(sent: list[Frame], sizes: list[int]) -> None:
    data = b"".join(frame.encode(f.kind, f.flags, f.stream, f.payload) for f in sent)
    reader = FrameReader(LIMIT)
    received: list[Frame] = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        received += reader.feed(data[at : at + size])
        at += size
        turn += 1
    assert received == sent
    assert reader.rest == b""


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_arbitrary_bytes_give_frames_or_one_typed_error_in_bounded_memory(
    pieces: list[bytes],
) -> None:
    reader = FrameReader(64)
    try:
        for piece in pieces:
            assert all(len(f.payload) <= 64 for f in reader.feed(piece))
            assert len(reader.rest) < frame.HEADER_BYTES + 64
    except ProtocolError:
        pass


def test_an_oversized_frame_is_refused_by_its_header_alone() -> None:
    header = frame.HEADER.pack(LIMIT + 1, 1, frame.DATA, 0)
    with pytest.raises(ProtocolError):
        FrameReader(LIMIT).feed(header)


@given(
    st.from_regex(r"/[a-z/0-9]{1,100}", fullmatch=True),
    st.integers(0, 1 << 40),
    st.binary(max_size=50),
)
def test_an_opening_survives_the_wire(protocol: str, deadline_ms: int, body: bytes) -> None:
    opening = frame.decode_opening(frame.encode_opening(protocol, deadline_ms) + body)
    assert opening == frame.Opening(protocol, min(deadline_ms, frame.DEADLINE_MS_MAX), body)


@given(st.binary(max_size=300))
def test_arbitrary_payloads_decode_or_raise_one_typed_error(payload: bytes) -> None:
    decoders = (
        frame.decode_opening,
        frame.decode_u32,
        frame.decode_ping,
        frame.decode_goaway,
    )
    for decode in decoders:
        try:
            decode(payload)
        except ProtocolError:
            continue


def test_a_goodbye_says_why_in_printable_words_of_bounded_length() -> None:
    data = frame.encode_goaway(frame.GoawayCode.DONE, 7, "bye\n\x1b[31m" + "x" * 1000)
    [sent] = FrameReader(LIMIT).feed(data)
    goaway = frame.decode_goaway(sent.payload)
    assert goaway.last_stream == 7
    assert goaway.reason.isprintable()
    assert len(goaway.reason) <= frame.REASON_BYTES_MAX


def test_frames_on_the_wire_have_not_changed() -> None:
    data = frame.encode(frame.OPEN, frame.FIN | frame.OPENER, 3, frame.encode_opening("/a", 9))
    assert data.hex() == "0000000700000003020500000009022f61"
    assert frame.encode_u32(frame.RESET, 0, 5, 1).hex() == "000000040000000506000000" + "0001"
