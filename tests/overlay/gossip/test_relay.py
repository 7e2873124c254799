"""What a host carries of one stream: a checkpoint and the deltas behind it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.gossip.relay import STREAM_BYTES_MAX, TAIL_FRAMES_MAX, CarriedStream


def tail(stream: CarriedStream, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        assert stream.add(seq, b"%d" % seq, checkpoint=False)


def numbers(stream: CarriedStream, seq: int) -> list[tuple[int, bool]]:
    return [(number, checkpoint) for number, checkpoint, _ in stream.after(seq)]


def test_a_stream_begins_with_delta_1_or_a_checkpoint() -> None:
    stream = CarriedStream()
    assert not stream.add(2, b"x", checkpoint=False)
    assert stream.seq == 0
    assert stream.add(9, b"all", checkpoint=True)
    assert stream.add(10, b"x", checkpoint=False)
    assert stream.seq == 10


def test_gaps_and_old_frames_are_not_taken() -> None:
    stream = CarriedStream()
    tail(stream, 1, 3)
    assert [stream.add(seq, b"x", checkpoint=False) for seq in (1, 3, 5)] == [False] * 3
    assert stream.add(2, b"two", checkpoint=True)
    assert [stream.add(seq, b"x", checkpoint=True) for seq in (1, 2)] == [False] * 2
    assert stream.seq == 3


def test_a_checkpoint_takes_the_place_of_what_it_holds() -> None:
    stream = CarriedStream()
    tail(stream, 1, 6)
    assert stream.add(4, b"four", checkpoint=True)
    assert numbers(stream, 0) == [(4, True), (5, False), (6, False)]
    assert stream.add(9, b"nine", checkpoint=True)
    assert numbers(stream, 0) == [(9, True)]
    assert stream.size_bytes == 4


def test_somebody_gets_what_is_behind_what_it_has() -> None:
    stream = CarriedStream()
    stream.add(4, b"four", checkpoint=True)
    tail(stream, 5, 7)
    assert numbers(stream, 3) == [(4, True), (5, False), (6, False), (7, False)]
    assert numbers(stream, 4) == [(5, False), (6, False), (7, False)]
    assert numbers(stream, 6) == [(7, False)]
    assert numbers(stream, 7) == numbers(stream, 900) == []


def test_a_tail_that_was_never_closed_is_let_go_so_that_a_checkpoint_can_come() -> None:
    stream = CarriedStream()
    tail(stream, 1, TAIL_FRAMES_MAX)
    assert not stream.add(TAIL_FRAMES_MAX + 1, b"x", checkpoint=False)
    assert stream.seq == 0
    assert stream.add(TAIL_FRAMES_MAX, b"all", checkpoint=True)
    assert stream.add(TAIL_FRAMES_MAX + 1, b"x", checkpoint=False)


def test_a_frame_that_is_too_large_is_not_taken() -> None:
    stream = CarriedStream()
    assert not stream.add(1, bytes(STREAM_BYTES_MAX + 1), checkpoint=True)
    assert not stream.add(1, bytes(STREAM_BYTES_MAX + 1), checkpoint=False)
    assert stream.size_bytes == 0


@given(
    frames=st.lists(
        st.tuples(st.integers(0, 40), st.booleans(), st.sampled_from([1, 1000, 900_000])),
        max_size=60,
    )
)
def test_whatever_comes_it_stays_bounded_and_without_gaps(
    frames: list[tuple[int, bool, int]],
) -> None:
    stream = CarriedStream()
    for seq, checkpoint, size in frames:
        stream.add(seq, bytes(size), checkpoint=checkpoint)
        assert stream.size_bytes <= 2 * STREAM_BYTES_MAX
        assert len(stream.tail) <= TAIL_FRAMES_MAX
        first = stream.checkpoint_seq + 1
        assert list(stream.tail) == list(range(first, first + len(stream.tail)))
