"""Whatever a client sends, a connection ends in time, by itself, and leaves nothing running."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from overlay.http.connection import HttpConnection, Message
from tests.overlay.http.world import ADDRESS, GET, LIMITS, Receive, Send, mirror, post, stamp

MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]

LONGEST_S = 10_000.0
"""More than all deadlines of the longest drawn conversation together."""

FRAGMENTS = [
    GET,
    post(b"hello"),
    post(b"hello", "/", "Expect: 100-continue"),
    post(b"", "/", "Connection: close"),
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: [\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    b"GET /%ff%00%zz?%ff HTTP/1.0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\r\n",
    b"Content-Length: 5\r\n",
    b"x" * 5000,
]

pieces = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS),
        st.binary(max_size=200),
        st.tuples(st.sampled_from(FRAGMENTS), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]]),
        st.tuples(st.sampled_from(FRAGMENTS), st.integers(0, 60), st.integers(0, 255)).map(
            lambda at: at[0][: at[1]] + bytes([at[2]]) + at[0][at[1] + 1 :]
        ),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=300)
@given(
    sent=pieces,
    pauses_s=st.lists(st.sampled_from([0.0, 0.5, 9.0, 40.0]), min_size=8, max_size=8),
    end=st.sampled_from(["close", "eof", "silence"]),
    reads=st.booleans(),
    work_s=st.sampled_from([0.0, 1.0]),
)
def test_any_bytes_end_in_time(
    sent: list[bytes], pauses_s: list[float], end: str, reads: bool, work_s: float
) -> None:
    running = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep(work_s)
            await mirror(scope, receive, send)
        finally:
            running -= 1

    async def talk(stream: MemoryStream) -> None:
        try:
            for data, pause_s in zip(sent, pauses_s, strict=False):
                await stream.send_all(data)
                await trio.sleep(pause_s)
            if end == "eof":
                await stream.send_eof()
        except trio.BrokenResourceError:
            pass
        if end == "close":
            await stream.aclose()

    async def listen(stream: MemoryStream) -> None:
        try:
            while reads and await stream.receive_some(65536):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        connection = HttpConnection(
            app,
            ours,
            LIMITS,
            stamp=stamp(),
            client=ADDRESS,
            scheme="http",
            draining=lambda: False,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, theirs)
            nursery.start_soon(listen, theirs)
            with trio.fail_after(LONGEST_S):
                await connection.run()
            await ours.aclose()
            nursery.cancel_scope.cancel()
        assert running == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


@settings(deadline=None, max_examples=100)
@given(sent=pieces, after=st.integers(0, 60))
def test_cancelled_anywhere_it_ends(sent: list[bytes], after: int) -> None:
    """``after`` scheduler steps into the conversation, everything is cancelled."""
    running = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        try:
            await mirror(scope, receive, send)
        finally:
            running -= 1

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        connection = HttpConnection(
            app,
            ours,
            LIMITS,
            stamp=stamp(),
            client=ADDRESS,
            scheme="http",
            draining=lambda: False,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            for data in sent:
                await theirs.send_all(data)
            for _ in range(after):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert running == 0
        assert trio.lowlevel.current_statistics().tasks_living <= 3  # main, init and the system's

    trio.run(main, clock=MockClock(autojump_threshold=0))
