"""The multiplexer of one connection: streams of messages over ordered bytes. Sans-IO.

Bytes go in by ``receive``, events come out of it; ``data_to_send`` gives what is to be written.
No clock, socket or task. Rules:

1. A message spans as many frames as it needs and is given out whole.
2. Credit counts bytes and frames. A message starts when its stream has any credit and the
   connection has credit for all of it; so what has started can always be completed, and a receiver
   holds at most its connection window. Credit returns when the reader has taken the message.
3. Control frames go first, then data, one chunk per stream in turn.
4. A stream that the far side opened occupies a slot until its handler has ended *and* its last
   frame is on its way, not until a RESET comes (HTTP/2 rapid reset, CVE-2023-44487).
5. A frame for a stream that has ended is dropped, for one that never was is an error.
6. Opening messages are counted part by part as they come, until their readers are done with them.
7. Who has used up its stream ids says goodbye: only a new connection has new ones.

Streams are named by a key: positive for those we opened, negative for the far side's.
"""

from __future__ import annotations

from typing import Final

from overlay.errors import LocalFault, PeerGone, ProtocolError
from overlay.transport import frame
from overlay.transport.events import (
    Ended,
    Event,
    Opened,
    Ponged,
    Received,
    RoomAgain,
    WasReset,
    WentAway,
)
from overlay.transport.frame import (
    DATA,
    FIN,
    MORE,
    OPEN,
    OPENER,
    STREAM_ID_MAX,
    FrameReader,
    GoawayCode,
    ResetCode,
)
from overlay.transport.limits import MESSAGE_BYTES_MAX, Limits, Windows
from overlay.transport.outbox import FRAME_COST, Outbox
from overlay.transport.record import StreamRecord

IDS_USED_UP: Final = "the stream ids are used up"

CONTROL_FRAMES_MAX: Final = 4096
"""Unsent answers to the far side's control frames; one that asks and never reads gets no more."""


class Mux:
    """One end of a connection, after HELLO."""

    def __init__(self, *, limits: Limits, theirs: Windows) -> None:
        self._ours = limits.windows
        self._limits = limits
        self._theirs = theirs
        self._reader = FrameReader(self._ours.frame_bytes)
        self._outbox = Outbox(
            theirs, waiting_bytes=limits.waiting_bytes, on_fin_sent=self._on_fin_sent
        )
        self._streams: dict[int, StreamRecord] = {}
        self._next_id = 1
        self._last_theirs = 0
        self._ours_open = 0
        self._theirs_open = 0
        self._bodies_bytes = 0
        self._outstanding = 0
        self._unreturned = 0
        self._events: list[Event] = []
        self.going_away = False
        self.far_going_away = False

    # -- streams, from our side

    @property
    def can_open(self) -> bool:
        """Whether the far side takes one more stream now."""
        return self._ours_open < self._theirs.streams

    @property
    def streams_open(self) -> int:
        """Streams of both sides that are not over."""
        return len(self._streams)

    def open(self, protocol: str, body: bytes, *, deadline_ms: int = 0, last: bool = False) -> int:
        """Opens a stream and gives its key.

        Raises:
            PeerGone: When one side is leaving; after the last stream id that is us.
            LocalFault: When the body is too large or no slot is free.
        """
        if self.going_away or self.far_going_away:
            raise PeerGone("the connection takes no new streams")
        if not self.can_open:
            raise LocalFault("the far side takes no more streams now")
        key = self._next_id
        stream = StreamRecord(key, self._theirs.stream_bytes)
        stream.opening_out = frame.encode_opening(protocol, deadline_ms)
        self._streams[key] = stream
        try:
            self.send(key, body, last=last)
        except LocalFault:
            del self._streams[key]
            raise
        self._next_id += 1
        self._ours_open += 1
        if key == STREAM_ID_MAX:
            self.go_away(GoawayCode.DONE, IDS_USED_UP)
        return key

    def send(self, key: int, message: bytes, *, last: bool = False) -> None:
        """Queues a message; one for a stream that is over is dropped.

        Raises:
            LocalFault: When it is larger than a message may be, or comes after the last one.
        """
        if len(message) > MESSAGE_BYTES_MAX:
            raise LocalFault(f"a message of {len(message)} bytes is over {MESSAGE_BYTES_MAX}")
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            return
        if stream.fin_queued:
            raise LocalFault("a message after the last one")
        stream.fin_queued = last
        self._outbox.add(stream, message)

    def finish(self, key: int) -> None:
        """Sends no more on this stream; what is queued still goes."""
        stream = self._streams.get(key)
        if stream is not None and not stream.closed and not stream.fin_queued:
            stream.fin_queued = True
            self._outbox.queue(stream)

    def reset(self, key: int, code: int) -> None:
        """Gives the stream up at once; the far side never hears of one that was not yet sent."""
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            return
        if stream.opening_out is None:
            self._outbox.control.append(self._reset_frame(key, code))
        self._close(stream)

    def leave(self, key: int) -> None:
        """Nobody here reads or writes this stream any more.

        A stream whose far side has finished still sends what is queued. Of one whose far side has
        not, ours that is unfinished is reset as cancelled, and theirs is finished and then reset
        as done.
        """
        stream = self._streams.get(key)
        if stream is None or stream.left:
            return
        stream.left = True
        if stream.held:
            self._give_back(stream.held)
            stream.held = stream.parts_cost = 0
            stream.parts = None
        self._body_done(stream)
        if not stream.closed:
            if key > 0 and not stream.fin_in:
                self.reset(key, ResetCode.CANCELLED)
            else:
                self.finish(key)
                if stream.fin_sent and not stream.fin_in:
                    self.reset(key, ResetCode.DONE)
        if stream.closed:
            self._forget(stream)

    def consumed(self, key: int, cost: int) -> None:
        """A received message was taken by its reader."""
        stream = self._streams.get(key)
        if stream is None or stream.left:
            return
        stream.held -= cost
        self._give_back(cost)
        stream.unreturned += cost
        if stream.unreturned * 2 >= self._ours.stream_bytes and not stream.fin_in:
            if not stream.closed:
                flags = OPENER if key > 0 else 0
                self._outbox.control.append(
                    frame.encode_u32(frame.WINDOW, flags, abs(key), stream.unreturned)
                )
            stream.outstanding -= stream.unreturned
            stream.unreturned = 0

    def body_done(self, key: int) -> None:
        """The opening message is not kept any more; leaving the stream says so too."""
        stream = self._streams.get(key)
        if stream is not None:
            self._body_done(stream)

    def _body_done(self, stream: StreamRecord) -> None:
        self._bodies_bytes -= stream.body_bytes
        stream.body_bytes = 0

    def has_room(self, key: int) -> bool:
        """Whether a sender may go on; when not, ``RoomAgain`` says when it may."""
        stream = self._streams.get(key)
        return stream is None or self._outbox.has_room(stream)

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` would give something now."""
        return bool(self._outbox.control or self._outbox.ready)

    def ping(self, number: int) -> None:
        """Queues a ping."""
        self._outbox.control.append(frame.encode_ping(frame.PING, number))

    def go_away(self, code: int, reason: str) -> None:
        """Says goodbye: streams under way go on, new ones of the far side are refused."""
        if not self.going_away:
            self.going_away = True
            self._outbox.control.append(self.farewell(code, reason))

    def farewell(self, code: int, reason: str) -> bytes:
        """The frame that says goodbye, for when nothing else is to be sent any more."""
        return frame.encode_goaway(code, self._last_theirs, reason)

    def last_words(self, protocol: str, body: bytes) -> bytes:
        """A stream with one message, for when nothing else is to be sent any more.

        Nothing, where that is more than the far side takes in one frame.
        """
        payload = frame.encode_opening(protocol, 0) + body
        if len(payload) > self._theirs.frame_bytes:
            return b""
        return frame.encode(frame.OPEN, frame.FIN | frame.OPENER, self._next_id, payload)

    # -- bytes out and in

    def data_to_send(self, size_bytes: int) -> bytes:
        """The next bytes to write: about ``size_bytes``, or b"" when nothing can go now."""
        data = self._outbox.data_to_send(size_bytes)
        self._events += map(RoomAgain, self._outbox.woken())
        return data

    def _on_fin_sent(self, stream: StreamRecord) -> bytes:
        trailer = b""
        if stream.fin_in:
            self._close(stream)
        elif stream.left:
            trailer = self._reset_frame(stream.key, ResetCode.DONE)
            self._close(stream)
        return trailer

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def receive(self, data: bytes) -> None:
        """Takes bytes from the far side; what they mean comes out of ``events``.

        Raises:
            ProtocolError: When the far side broke a rule; the connection is to be ended.
        """
        for kind, flags, stream, payload in self._reader.feed(data):
            if kind == DATA:
                self._on_data(-stream if flags & OPENER else stream, flags, payload)
            elif kind == OPEN:
                self._on_open(stream, flags, payload)
            else:
                self._on_control(kind, flags, stream, payload)
        if len(self._outbox.control) > CONTROL_FRAMES_MAX:
            raise ProtocolError("the far side asks and does not read the answers")

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        key = -stream if flags & OPENER else stream
        match kind:
            case frame.WINDOW:
                self._on_window(key, frame.decode_u32(payload))
            case frame.RESET:
                self._on_reset(key, frame.decode_u32(payload))
            case frame.END:
                self._on_end(key, payload)
            case frame.PING:
                number = frame.decode_ping(payload)
                self._outbox.control.append(frame.encode_ping(frame.PONG, number))
            case frame.PONG:
                self._events.append(Ponged(frame.decode_ping(payload)))
            case frame.GOAWAY:
                goaway = frame.decode_goaway(payload)
                self.far_going_away = True
                self._events.append(WentAway(goaway.code, goaway.reason))
            case _:
                if not flags & frame.OPTIONAL:
                    raise ProtocolError(f"unknown kind of frame {kind}")

    def _on_open(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not flags & OPENER or stream_id <= self._last_theirs:
            raise ProtocolError("stream ids must rise")
        self._last_theirs = stream_id
        opening = frame.decode_opening(payload)
        size = len(opening.body)
        self._take(size + FRAME_COST)
        refusal = self._refusal()
        if refusal is not None:
            self._give_back(size + FRAME_COST)
            self._outbox.control.append(self._reset_frame(-stream_id, refusal))
            return
        stream = StreamRecord(-stream_id, self._theirs.stream_bytes)
        stream.opening_in = opening
        self._streams[-stream_id] = stream
        self._theirs_open += 1
        self._take_part(stream, flags, opening.body)

    def _refusal(self) -> ResetCode | None:
        if self.going_away:
            return ResetCode.GOING_AWAY
        if self._theirs_open >= self._ours.streams:
            return ResetCode.OVERLOADED
        return None

    def _on_data(self, key: int, flags: int, payload: bytes) -> None:
        cost = len(payload) + FRAME_COST
        self._take(cost)
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            self._check_known(key)
            self._give_back(cost)
        elif stream.fin_in:
            raise ProtocolError("a message after the end of its stream")
        elif stream.left:
            self._give_back(cost)
            stream.fin_in = bool(flags & FIN)
            if stream.fin_in and stream.fin_sent:
                self._close(stream)
        else:
            self._take_part(stream, flags, payload)

    def _take_part(self, stream: StreamRecord, flags: int, payload: bytes) -> None:
        """Adds a frame to the message under way and gives the message out when it is whole."""
        if stream.parts is None and stream.outstanding >= self._ours.stream_bytes:
            raise ProtocolError("a message beyond the stream's window")
        cost = len(payload) + FRAME_COST
        if stream.opening_in is not None:
            stream.body_bytes += len(payload)
            self._bodies_bytes += len(payload)
            if self._bodies_bytes > self._limits.bodies_bytes:
                self._give_back(cost)
                self._outbox.control.append(self._reset_frame(stream.key, ResetCode.OVERLOADED))
                self._close(stream)
                return
        stream.outstanding += cost
        stream.held += cost
        message = payload
        if flags & MORE or stream.parts is not None:
            parts = bytearray() if stream.parts is None else stream.parts
            parts += payload
            if len(parts) > MESSAGE_BYTES_MAX:
                raise ProtocolError(f"a message over {MESSAGE_BYTES_MAX} bytes")
            if flags & MORE:
                stream.parts = parts
                stream.parts_cost += cost
                return
            message, stream.parts = bytes(parts), None
            cost += stream.parts_cost
            stream.parts_cost = 0
        last = bool(flags & FIN)
        stream.fin_in = last
        if stream.opening_in is None:
            self._events.append(Received(stream.key, message, cost, last))
        else:
            opening, stream.opening_in = stream.opening_in, None
            self._events.append(
                Opened(stream.key, opening.protocol, message, opening.deadline_ms, last)
            )
            self.consumed(stream.key, cost)
        if last and stream.fin_sent:
            self._close(stream)

    def _on_end(self, key: int, payload: bytes) -> None:
        stream = self._streams.get(key)
        if payload or (stream is not None and (stream.parts is not None or stream.fin_in)):
            raise ProtocolError("an END frame inside a message")
        if stream is None or stream.closed:
            self._check_known(key)
            return
        stream.fin_in = True
        self._events.append(Ended(key))
        if stream.fin_sent:
            self._close(stream)

    def _on_reset(self, key: int, code: int) -> None:
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            self._check_known(key)
            return
        told = not stream.left and stream.opening_in is None
        self._close(stream)
        if told:
            self._events.append(WasReset(key, code))

    def _on_window(self, key: int, cost: int) -> None:
        if key == 0:
            self._outbox.add_credit(cost)
            return
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            self._check_known(key)
            return
        stream.credit += cost
        if stream.credit > self._theirs.stream_bytes:
            raise ProtocolError("more credit than was ever taken")
        if stream.out or (stream.fin_queued and not stream.fin_sent):
            self._outbox.queue(stream)

    # -- shared

    def _check_known(self, key: int) -> None:
        if not (0 < key < self._next_id or -self._last_theirs <= key < 0):
            raise ProtocolError("a frame for a stream that never was")

    def _take(self, cost: int) -> None:
        self._outstanding += cost
        if self._outstanding > self._ours.connection_bytes:
            raise ProtocolError("data beyond the connection's window")

    def _give_back(self, cost: int) -> None:
        self._unreturned += cost
        if self._unreturned * 4 >= self._ours.connection_bytes:
            self._outbox.control.append(frame.encode_u32(frame.WINDOW, 0, 0, self._unreturned))
            self._outstanding -= self._unreturned
            self._unreturned = 0

    @staticmethod
    def _reset_frame(key: int, code: int) -> bytes:
        return frame.encode_u32(frame.RESET, OPENER if key > 0 else 0, abs(key), code)

    def _close(self, stream: StreamRecord) -> None:
        """Nothing more goes or comes on this stream; credit for what will not be sent returns."""
        stream.closed = True
        self._outbox.drop(stream)
        if stream.parts is not None:
            stream.held -= stream.parts_cost
            self._give_back(stream.parts_cost)
            stream.parts, stream.parts_cost = None, 0
        if stream.left or stream.opening_in is not None:
            self._forget(stream)

    def _forget(self, stream: StreamRecord) -> None:
        """The slot is free again."""
        if self._streams.pop(stream.key, None) is None:
            return
        if stream.key > 0:
            self._ours_open -= 1
        else:
            self._theirs_open -= 1
            if stream.body_bytes:
                self._body_done(stream)
