"""The multiplexer in pairs over a fake link, against a small model; and what an attacker sends."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from overlay.errors import LocalFault, PeerGone, ProtocolError
from overlay.transport import frame
from overlay.transport.events import Ended, Event, Opened, Received, RoomAgain, WasReset, WentAway
from overlay.transport.frame import DATA, FIN, OPEN, OPENER, ResetCode
from overlay.transport.limits import MESSAGE_BYTES_MAX, Limits, Windows
from overlay.transport.mux import CONTROL_FRAMES_MAX, IDS_USED_UP, Mux
from overlay.transport.outbox import FRAME_COST

SMALL = Windows(
    frame_bytes=4096, stream_bytes=8192, connection_bytes=2 * MESSAGE_BYTES_MAX, streams=4
)
LIMITS = Limits(windows=SMALL, waiting_bytes=10_000)


class Side:
    """One end, and what it has heard."""

    def __init__(self, limits: Limits = LIMITS, theirs: Windows = SMALL) -> None:
        self.mux = Mux(limits=limits, theirs=theirs)
        self.wire: deque[bytes] = deque()
        self.messages: dict[int, list[bytes]] = {}
        self.unread: dict[int, list[int]] = {}
        self.over: dict[int, Event] = {}
        self.others: list[Event] = []

    def take(self, data: bytes) -> None:
        self.mux.receive(data)
        for event in self.mux.events():
            self.hear(event)

    def hear(self, event: Event) -> None:
        match event:
            case Opened(key, _, body, _, last):
                self.messages[key] = [body]
                self.unread[key] = []
                if last:
                    self.over[key] = Ended(key)
            case Received(key, message, cost, last):
                self.messages.setdefault(key, []).append(message)
                self.unread.setdefault(key, []).append(cost)
                if last:
                    self.over[key] = Ended(key)
            case Ended(key) | WasReset(key, _):
                self.over[key] = event
            case _:
                self.others.append(event)

    def read_all(self) -> None:
        for key, costs in self.unread.items():
            for cost in costs:
                self.mux.consumed(key, cost)
            costs.clear()


def settle(left: Side, right: Side, *, reading: bool = True) -> None:
    """Carries bytes both ways until nothing moves any more."""
    moved = True
    while moved:
        moved = False
        for here, there in ((left, right), (right, left)):
            if reading:
                here.read_all()
            data = here.mux.data_to_send(1 << 20)
            for event in here.mux.events():
                here.hear(event)
            if data:
                moved = True
                there.take(data)


class Conversation(RuleBasedStateMachine):
    """Streams opened, used, ended and cancelled by both ends in any order, over a slow link."""

    streams = Bundle("streams")

    @initialize()
    def start(self) -> None:
        self.sides = (Side(), Side())
        self.sent: dict[tuple[int, int], list[bytes]] = {}
        self.finished: set[tuple[int, int]] = set()
        self.wire: tuple[deque[bytes], deque[bytes]] = (deque(), deque())

    @rule(target=streams, side=st.integers(0, 1), size=st.integers(0, 9000), last=st.booleans())
    def open(self, side: int, size: int, *, last: bool) -> object:
        mux = self.sides[side].mux
        if not mux.can_open:
            with pytest.raises(LocalFault):
                mux.open("/a", b"")
            return multiple()
        body = bytes([size % 251]) * size
        key = mux.open("/a", body, last=last)
        self.sent[side, key] = [body]
        if last:
            self.finished.add((side, key))
        return (side, key)

    @rule(stream=streams, size=st.integers(0, 30_000), far=st.booleans())
    def send(self, stream: tuple[int, int], size: int, *, far: bool) -> None:
        side, key = self.end(stream, far=far)
        if (side, key) in self.finished or key not in self.known(side):
            return
        message = bytes([size % 251]) * size
        self.sides[side].mux.send(key, message)
        self.sent.setdefault((side, key), []).append(message)

    @rule(stream=streams, far=st.booleans())
    def finish(self, stream: tuple[int, int], *, far: bool) -> None:
        side, key = self.end(stream, far=far)
        if key in self.known(side):
            self.sides[side].mux.finish(key)
            self.finished.add((side, key))

    @rule(stream=consumes(streams), far=st.booleans())
    def leave(self, stream: tuple[int, int], *, far: bool) -> None:
        side, key = self.end(stream, far=far)
        self.sides[side].mux.leave(key)
        self.finished.add((side, key))

    @rule(stream=streams, far=st.booleans())
    def reset(self, stream: tuple[int, int], *, far: bool) -> None:
        side, key = self.end(stream, far=far)
        self.sides[side].mux.reset(key, ResetCode.CANCELLED)
        self.finished.add((side, key))

    @rule(side=st.integers(0, 1), size=st.integers(1, 20_000))
    def write(self, side: int, size: int) -> None:
        data = self.sides[side].mux.data_to_send(size)
        self.wire[side].extend(data[at : at + 777] for at in range(0, len(data), 777))

    @rule(side=st.integers(0, 1), pieces=st.integers(1, 40))
    def deliver(self, side: int, pieces: int) -> None:
        wire = self.wire[side]
        data = b"".join(wire.popleft() for _ in range(min(pieces, len(wire))))
        if data:
            self.sides[1 - side].take(data)

    @rule(side=st.integers(0, 1))
    def read(self, side: int) -> None:
        self.sides[side].read_all()

    @invariant()
    def messages_arrive_whole_in_order_and_once(self) -> None:
        if not hasattr(self, "sides"):
            return
        for side, here in enumerate(self.sides):
            for key, messages in here.messages.items():
                assert messages == self.sent.get((1 - side, -key), [])[: len(messages)]

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        for side in (0, 1):
            if self.wire[side]:
                self.sides[1 - side].take(b"".join(self.wire[side]))
        settle(*self.sides)
        for side, here in enumerate(self.sides):
            there = self.sides[1 - side].mux
            assert here.mux._outbox.credit + there._outstanding == SMALL.connection_bytes
            for key in list(self.known(side)):
                here.mux.leave(key)
        settle(*self.sides)
        for here in self.sides:
            assert here.mux.streams_open == 0
            assert here.mux._bodies_bytes == 0
            assert not here.mux.has_output

    def end(self, stream: tuple[int, int], *, far: bool) -> tuple[int, int]:
        side, key = stream
        return (1 - side, -key) if far else (side, key)

    def known(self, side: int) -> list[int]:
        return list(self.sides[side].mux._streams)


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase


def opening(stream: int, body: bytes = b"", flags: int = 0) -> bytes:
    payload = frame.encode_opening("/a", 0) + body
    return frame.encode(OPEN, OPENER | flags, stream, payload)


def test_a_call_is_one_frame_each_way() -> None:
    left, right = Side(), Side()
    key = left.mux.open("/a", b"question", last=True)
    request = left.mux.data_to_send(1 << 20)
    assert len(frame.FrameReader(1 << 20).feed(request)) == 1
    right.take(request)
    right.mux.send(-key, b"answer")
    right.mux.finish(-key)
    right.mux.leave(-key)
    reply = right.mux.data_to_send(1 << 20)
    assert len(frame.FrameReader(1 << 20).feed(reply)) == 1
    left.take(reply)
    left.mux.leave(key)
    assert left.messages[key] == [b"answer"]
    assert left.mux.streams_open == right.mux.streams_open == 0
    assert left.mux.data_to_send(1 << 20) == b""


def test_the_largest_message_crosses_windows_that_are_smaller() -> None:
    left, right = Side(), Side()
    message = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
    keys = [left.mux.open("/a", message) for _ in range(4)]
    settle(left, right)
    assert all(right.messages[-key] == [message] for key in keys)


def test_a_larger_message_is_refused_here_and_there() -> None:
    left, right = Side(), Side()
    with pytest.raises(LocalFault):
        left.mux.open("/a", bytes(MESSAGE_BYTES_MAX + 1))
    assert left.mux.streams_open == 0
    chunk = bytes(4000)
    right.take(opening(1, chunk, frame.MORE))
    more = frame.encode(DATA, OPENER | frame.MORE, 1, chunk)
    with pytest.raises(ProtocolError):
        right.take(more * (MESSAGE_BYTES_MAX // len(chunk) + 1))


def test_a_reader_that_does_not_read_bounds_what_is_sent() -> None:
    left, right = Side(), Side()
    key = left.mux.open("/a", b"")
    settle(left, right)
    for _ in range(100):
        left.mux.send(key, bytes(1000))
    settle(left, right, reading=False)
    held = sum(map(len, right.messages[-key]))
    assert held <= SMALL.stream_bytes + 1000
    settle(left, right)
    assert sum(map(len, right.messages[-key])) == 100_000


def test_a_slow_reader_does_not_hold_up_another_stream() -> None:
    left, right = Side(), Side()
    slow, fast = left.mux.open("/a", b""), left.mux.open("/a", b"")
    for _ in range(50):
        left.mux.send(slow, bytes(1000))
    settle(left, right, reading=False)
    left.mux.send(fast, b"here")
    settle(left, right, reading=False)
    assert right.messages[-fast] == [b"", b"here"]


def test_a_sender_is_told_to_wait_and_told_when_to_go_on() -> None:
    left, right = Side(), Side()
    key = left.mux.open("/a", b"")
    while left.mux.has_room(key):
        left.mux.send(key, bytes(1000))
    settle(left, right)
    assert left.others == [RoomAgain(key)]
    assert left.mux.has_room(key)


def test_small_messages_go_between_the_pieces_of_a_large_one() -> None:
    left, right = Side(), Side()
    large = left.mux.open("/a", bytes(MESSAGE_BYTES_MAX))
    small = left.mux.open("/a", b"small", last=True)
    right.take(left.mux.data_to_send(10_000))
    assert right.messages == {-small: [b"small"]}
    settle(left, right)
    assert len(right.messages[-large][0]) == MESSAGE_BYTES_MAX


def test_a_stream_given_up_before_it_was_sent_is_never_heard_of() -> None:
    left, right = Side(), Side()
    left.mux.leave(left.mux.open("/a", b"x"))
    assert left.mux.data_to_send(1 << 20) == b""
    left.mux.open("/a", b"y")
    settle(left, right)
    assert list(right.messages.values()) == [[b"y"]]


def test_credit_of_a_message_given_up_half_way_returns() -> None:
    left, right = Side(), Side()
    key = left.mux.open("/a", bytes(MESSAGE_BYTES_MAX))
    right.take(left.mux.data_to_send(5000))
    left.mux.leave(key)
    settle(left, right)
    assert left.mux._outbox.credit + right.mux._outstanding == SMALL.connection_bytes
    assert right.mux.streams_open == 0


def test_a_slot_is_free_when_the_handler_has_ended_not_at_the_reset() -> None:
    right = Side()
    for stream in range(1, SMALL.streams + 1):
        right.take(opening(stream, b"x"))
        right.take(frame.encode_u32(frame.RESET, OPENER, stream, ResetCode.CANCELLED))
    right.take(opening(100))
    assert -100 not in right.messages
    right.mux.leave(-1)
    right.take(opening(101))
    assert -101 in right.messages


def test_opening_messages_in_work_are_bounded() -> None:
    right = Side(Limits(windows=SMALL, bodies_bytes=5000))
    right.take(opening(1, bytes(4000)))
    right.take(opening(2, bytes(4000)))
    assert list(right.messages) == [-1]
    right.mux.leave(-1)
    right.mux.data_to_send(1 << 20)
    right.take(opening(3, bytes(4000)))
    assert list(right.messages) == [-1, -3]


def test_opening_messages_are_counted_while_they_come() -> None:
    limit = 10 * MESSAGE_BYTES_MAX
    windows = Windows(connection_bytes=1 << 23, streams=200)
    right = Side(Limits(windows=windows, bodies_bytes=limit), windows)
    part = bytes(60_000)
    for stream in range(1, 201):
        right.take(opening(stream, b"x", frame.MORE))
    for stream in range(1, 201):
        for left in range(MESSAGE_BYTES_MAX // len(part), 0, -1):
            more = frame.MORE if left > 1 else 0
            right.take(frame.encode(DATA, OPENER | more, stream, part))
    sizes = [len(messages[0]) for messages in right.messages.values()]
    assert 0 < sum(sizes) <= limit
    told = frame.FrameReader(1 << 20).feed(right.mux.data_to_send(1 << 20))
    codes = {frame.decode_u32(one.payload) for one in told if one.kind == frame.RESET}
    assert codes == {ResetCode.OVERLOADED}
    assert right.mux._theirs_open == len(sizes)
    for key in list(right.messages):
        right.mux.leave(key)
    assert right.mux._bodies_bytes == 0


def test_a_reader_that_is_done_with_the_opening_message_makes_room_for_others() -> None:
    right = Side(Limits(windows=SMALL, bodies_bytes=5000))
    right.take(opening(1, bytes(4000)))
    right.mux.body_done(-1)
    right.take(opening(2, bytes(4000)))
    assert list(right.messages) == [-1, -2]
    right.mux.leave(-2)
    right.take(opening(3, bytes(4000)))
    assert list(right.messages) == [-1, -2, -3], "left, though its last frame has not gone yet"
    assert right.mux._theirs_open == 3


def test_the_last_stream_id_is_used_and_then_said_goodbye() -> None:
    left, right = Side(), Side()
    left.mux._next_id = frame.STREAM_ID_MAX
    key = left.mux.open("/a", b"last")
    with pytest.raises(PeerGone):
        left.mux.open("/a", b"one more")
    settle(left, right)
    assert right.messages[-key] == [b"last"]
    assert right.others == [WentAway(0, IDS_USED_UP)]


def test_goodbye_refuses_new_streams_and_lets_the_old_ones_end() -> None:
    left, right = Side(), Side()
    old = left.mux.open("/a", b"old")
    settle(left, right)
    right.mux.go_away(0, "leaving")
    late = left.mux.open("/a", b"late")
    settle(left, right)
    assert WentAway(0, "leaving") in left.others
    assert left.over[late] == WasReset(late, ResetCode.GOING_AWAY)
    right.mux.send(-old, b"answer", last=True)
    settle(left, right)
    assert left.messages[old] == [b"answer"]
    with pytest.raises(PeerGone):
        left.mux.open("/a", b"")


def test_a_handler_that_ends_first_tells_the_opener_to_stop() -> None:
    left, right = Side(), Side()
    key = left.mux.open("/a", b"")
    settle(left, right)
    right.mux.send(-key, b"enough")
    right.mux.leave(-key)
    settle(left, right)
    assert left.messages[key] == [b"enough"]
    assert left.over[key] == WasReset(key, ResetCode.DONE)
    left.mux.send(key, b"dropped")
    left.mux.leave(key)
    settle(left, right)
    assert left.mux.streams_open == right.mux.streams_open == 0


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param([opening(1), opening(1)], id="stream id used twice"),
        pytest.param([opening(5), opening(4)], id="stream ids fall"),
        pytest.param([opening(0)], id="stream 0"),
        pytest.param([frame.encode(OPEN, 0, 1, b"\0\0\0\0\x01/")], id="opens our stream"),
        pytest.param([frame.encode(OPEN, OPENER, 1, b"\0\0\0\0\x00")], id="no protocol"),
        pytest.param([frame.encode(OPEN, OPENER, 1, b"\0\0\0\0\x09/a")], id="cut protocol"),
        pytest.param([frame.encode(DATA, OPENER, 1, b"x")], id="data for no stream"),
        pytest.param([frame.encode(DATA, 0, 1, b"x")], id="answer to no question"),
        pytest.param(
            [opening(1, b"", FIN), frame.encode(DATA, OPENER, 1, b"x")], id="data after the end"
        ),
        pytest.param(
            [opening(1, b"x", frame.MORE), frame.encode(frame.END, OPENER, 1)],
            id="end inside a message",
        ),
        pytest.param([frame.encode_u32(frame.WINDOW, 0, 0, 1)], id="credit for nothing"),
        pytest.param(
            [opening(1), frame.encode_u32(frame.WINDOW, OPENER, 1, 1 << 31)],
            id="stream credit for nothing",
        ),
        pytest.param([frame.encode(frame.WINDOW, 0, 0, b"x")], id="short window"),
        pytest.param([frame.encode(frame.PING, 0, 0, b"x")], id="short ping"),
        pytest.param([frame.encode(77, 0, 0)], id="unknown kind"),
        pytest.param([opening(1)] + [frame.encode(DATA, OPENER, 1, bytes(4096))] * 3, id="window"),
        pytest.param(
            [opening(1)] + [frame.encode(DATA, OPENER, 1)] * (8192 // FRAME_COST + 1),
            id="empty messages beyond the window",
        ),
        pytest.param(
            [frame.encode_ping(frame.PING, 1)] * (CONTROL_FRAMES_MAX + 1), id="ping flood"
        ),
        pytest.param(
            [opening(n) for n in range(1, CONTROL_FRAMES_MAX + 10)], id="flood of refused streams"
        ),
    ],
)
def test_a_broken_rule_ends_the_connection(attack: list[bytes]) -> None:
    right = Side()
    with pytest.raises(ProtocolError):
        right.take(b"".join(attack))


def test_an_unknown_kind_marked_optional_is_skipped() -> None:
    right = Side()
    right.take(frame.encode(77, frame.OPTIONAL, 0, b"from the future") + opening(1))
    assert -1 in right.messages


def test_late_frames_of_a_stream_that_has_ended_are_dropped_and_their_credit_returns() -> None:
    right = Side()
    right.take(opening(1))
    right.mux.reset(-1, ResetCode.INTERNAL)
    right.mux.leave(-1)
    for _ in range(2000):
        right.take(frame.encode(DATA, OPENER, 1, bytes(4000)))
    assert right.mux._outstanding < SMALL.connection_bytes
