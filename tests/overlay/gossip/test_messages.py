"""Messages: what is none is a ProtocolError, and the size of a bundle says little."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ProtocolError
from overlay.gossip.messages import (
    PADDED_MIN_BYTES,
    Bundle,
    Frame,
    Head,
    Heads,
    Known,
    KnownEpoch,
    LoadHint,
    Repair,
    decode_content,
    decode_frame,
    decode_head,
    decode_message,
    encode,
    padded,
)
from overlay.gossip.tagset import pack_tags, unpack_tags

DECODERS: list[Callable[[bytes], object]] = [
    decode_message,
    decode_head,
    decode_frame,
    decode_content,
    unpack_tags,
]
KNOWN = Known("p", 1, 2, 3, 4, [(bytes(8), 5)])
MESSAGES = [
    Bundle(record=b"r", head=b"h", frames=[b"f"], pad=b""),
    Heads(known=[KNOWN], epochs=[KnownEpoch(bytes(16), bytes(16), 1, 2)], answer=True),
    Repair(epochs=[b"e"], records=[b"r"], heads=[b"h"], frames=[b"f"]),
]


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=200))
def test_garbage_is_a_protocol_error_and_nothing_else(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    try:
        decode(data)
    except ProtocolError:
        return


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_read_as_they_were_written(message: Bundle | Heads | Repair) -> None:
    assert decode_message(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_an_altered_or_cut_message_is_a_message_or_a_protocol_error(
    message: Bundle | Heads | Repair, place: int, value: int, cut: bool
) -> None:
    data = bytearray(encode(message))
    place %= len(data)
    data[place] = value
    try:
        decode_message(bytes(data[:place] if cut else data))
    except ProtocolError:
        return


def test_a_head_or_frame_of_another_version_is_refused() -> None:
    head = Head(v=2, generation=1, hseq=1, unix_ms=1, load=LoadHint(), streams=[])
    frame = Frame(v=9, stream=bytes(8), generation=1, seq=1, checkpoint=False, envelope=b"")
    with pytest.raises(ProtocolError):
        decode_head(encode(head))
    with pytest.raises(ProtocolError):
        decode_frame(encode(frame))
    assert decode_head(encode(msgspec.structs.replace(head, v=1))).hseq == 1
    assert decode_frame(encode(msgspec.structs.replace(frame, v=1))).seq == 1


def test_deep_nesting_is_a_protocol_error() -> None:
    for byte in (b"\x91", b"\x81\xa4type"):
        with pytest.raises(ProtocolError):
            decode_message(byte * 100_000)


@pytest.mark.parametrize(
    "sizes", [range(900), range(65_000, 66_200), range(130_700, 131_300)], ids=str
)
def test_every_bundle_is_a_power_of_two_from_512_bytes_on(sizes: range) -> None:
    for size in sizes[:: 1 if len(sizes) < 1000 else 3]:
        data = padded(None, b"h", [bytes(size)])
        assert len(data) >= PADDED_MIN_BYTES
        assert len(data) & (len(data) - 1) == 0
        assert len(data) < 4 * max(size, PADDED_MIN_BYTES)
    message = decode_message(data)
    assert isinstance(message, Bundle)
    assert message.frames == [bytes(sizes[-1])] or len(sizes) >= 1000


@given(tags=st.sets(st.integers(0, (1 << 48) - 1), max_size=30))
def test_tags_are_six_bytes_each_in_ascending_order(tags: set[int]) -> None:
    data = pack_tags(tags)
    assert len(data) == 6 * len(tags)
    assert unpack_tags(data) == sorted(tags)
