"""Connections over memory: calls, streams, cancellation, refusals, liveness and their end."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
import trio
import trio.testing

from overlay.errors import (
    Deadline,
    LocalFault,
    OverlayError,
    Overloaded,
    PeerGone,
    ProtocolError,
    StreamReset,
)
from overlay.transport import frame
from overlay.transport.connection import RETIRE_S, Connection, Stream
from overlay.transport.frame import ResetCode
from overlay.transport.limits import MESSAGE_BYTES_MAX, Limits, Windows
from overlay.transport.mux import IDS_USED_UP
from tests.overlay.transport.world import echo, pair


async def test_a_call_brings_the_answer() -> None:
    async with pair({"/echo": echo}) as both:
        assert await both.left.call("/echo", b"hello", timeout_s=1) == b"hello"
        assert await both.left.call("/echo", b"", timeout_s=1) == b""
        large = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
        assert await both.left.call("/echo", large, timeout_s=5) == large
        assert both.left.statistics().streams_open == 0


async def test_both_ends_call_each_other_at_once() -> None:
    async def both_ways(connection: Connection, stream: Stream) -> None:
        await stream.send(b"re:" + stream.body)

    async with pair({"/a": both_ways}) as both:
        answers = []

        async def ask(number: int) -> None:
            answers.append(await both.left.call("/a", str(number).encode(), timeout_s=5))

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        assert sorted(answers) == sorted(b"re:" + str(n).encode() for n in range(200))


async def test_a_stream_carries_messages_both_ways_until_both_finish() -> None:
    seen = []

    async def shout(connection: Connection, stream: Stream) -> None:
        assert stream.deadline_s == 5.0
        while (message := await stream.receive()) is not None:
            seen.append(message)
            await stream.send(message.upper())
        await stream.finish()

    async with pair({"/shout": shout}) as both:
        async with both.left.open("/shout", b"", deadline_s=5.0) as stream:
            for word in (b"a", b"", b"c" * 300_000):
                await stream.send(word)
                assert await stream.receive() == word.upper()
            await stream.finish()
            assert await stream.receive() is None
            assert await stream.receive() is None
            with pytest.raises(LocalFault):
                await stream.send(b"more")
        assert len(seen) == 3


async def test_leaving_a_stream_early_cancels_the_far_handler() -> None:
    cancelled = trio.Event()

    async def forever(connection: Connection, stream: Stream) -> None:
        await stream.send(b"started")
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with pair({"/forever": forever, "/echo": echo}) as both:
        async with both.left.open("/forever", b"") as stream:
            assert await stream.receive() == b"started"
        with trio.fail_after(5):
            await cancelled.wait()
        assert await both.left.call("/echo", b"x", timeout_s=1) == b"x"


async def test_a_handler_that_was_cancelled_for_one_stream_is_not_cancelled_for_the_next() -> None:
    async def slow(connection: Connection, stream: Stream) -> None:
        if stream.body == b"wait":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        await stream.send(b"done")

    async with pair({"/slow": slow}) as both:
        for _ in range(50):
            with trio.move_on_after(0):
                await both.left.call("/slow", b"wait", timeout_s=1)
            async with both.left.open("/slow", b"wait"):
                await trio.testing.wait_all_tasks_blocked()
            assert await both.left.call("/slow", b"go", timeout_s=1) == b"done"


async def test_a_call_out_of_time_fails_as_deadline_and_cancels_its_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended = []

    async def late(connection: Connection, stream: Stream) -> None:
        try:
            await trio.sleep(60)
        finally:
            ended.append(trio.current_time())

    async with pair({"/late": late}) as both:
        began_s = trio.current_time()
        with pytest.raises(Deadline):
            await both.left.call("/late", b"", timeout_s=7)
        assert trio.current_time() == pytest.approx(began_s + 7)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [pytest.approx(began_s + 7)]


async def test_deadlines_of_calls_are_kept_whatever_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def never(connection: Connection, stream: Stream) -> None:
        await trio.sleep_forever()

    async with pair({"/never": never}) as both:
        began_s = trio.current_time()

        async def ask(timeout_s: float) -> None:
            with pytest.raises(Deadline):
                await both.left.call("/never", b"", timeout_s=timeout_s)
            assert trio.current_time() == pytest.approx(began_s + timeout_s)

        async with trio.open_nursery() as nursery:
            for timeout_s in (5.0, 1.0, 3.0, 0.5, 4.0):
                nursery.start_soon(ask, timeout_s)


async def test_a_stream_on_which_nothing_comes_in_time_fails_then_and_not_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(connection: Connection, stream: Stream) -> None:
        for pause_s in (2.0, 2.0, 9.0):
            await trio.sleep(pause_s)
            await stream.send(b"more")

    async with pair({"/slow": slow}) as both, both.left.open("/slow", b"") as stream:
        began_s = trio.current_time()
        for _ in range(2):
            assert await stream.receive(by_s=trio.current_time() + 3) == b"more"
        assert trio.current_time() == pytest.approx(began_s + 4)
        with pytest.raises(Deadline):
            await stream.receive(by_s=trio.current_time() + 3)
        assert trio.current_time() == pytest.approx(began_s + 7)


async def test_a_reader_that_has_left_is_not_watched_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(connection: Connection, stream: Stream) -> None:
        await trio.sleep(60)
        await stream.send(b"late")

    async with pair({"/slow": slow}) as both, both.left.open("/slow", b"") as stream:
        with trio.move_on_after(1):
            await stream.receive(by_s=trio.current_time() + 2)
        assert await stream.receive() == b"late"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("bug"), ResetCode.INTERNAL),
        (ProtocolError("malformed"), ResetCode.PROTOCOL),
        (Overloaded("full"), ResetCode.OVERLOADED),
        (PeerGone("another connection"), ResetCode.INTERNAL),
    ],
)
async def test_a_failing_handler_resets_its_stream_with_the_cause(
    error: Exception, code: ResetCode
) -> None:
    async def fail(connection: Connection, stream: Stream) -> None:
        raise error

    async with pair({"/fail": fail, "/echo": echo}) as both:
        with pytest.raises(StreamReset) as caught:
            await both.left.call("/fail", b"", timeout_s=1)
        assert caught.value.code == code
        assert await both.left.call("/echo", b"x", timeout_s=1) == b"x"


async def test_an_unknown_protocol_is_refused() -> None:
    async with pair({}) as both:
        with pytest.raises(StreamReset) as caught:
            await both.left.call("/nothing/1", b"", timeout_s=1)
        assert caught.value.code == ResetCode.UNSUPPORTED
        assert both.right.statistics().streams_refused == 1


async def test_a_handler_that_answers_nothing_fails_the_call() -> None:
    async def silent(connection: Connection, stream: Stream) -> None:
        await trio.lowlevel.checkpoint()

    async with pair({"/silent": silent}) as both:
        with pytest.raises(ProtocolError):
            await both.left.call("/silent", b"", timeout_s=1)


async def test_callers_wait_for_a_free_stream_and_all_are_served() -> None:
    limits = Limits(windows=Windows(streams=4))
    most = active = 0

    async def count(connection: Connection, stream: Stream) -> None:
        nonlocal most, active
        active += 1
        most = max(most, active)
        await trio.lowlevel.checkpoint()
        active -= 1
        await stream.send(b"ok")

    async with pair({"/count": count}, limits=limits) as both:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(lambda: both.left.call("/count", b"", timeout_s=5))
        assert 1 <= most <= 4


async def test_a_call_that_finds_no_free_stream_in_time_fails_as_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def never(connection: Connection, stream: Stream) -> None:
        await trio.sleep_forever()

    limits = Limits(windows=Windows(streams=1))
    async with pair({"/never": never}, limits=limits) as both, both.left.open("/never", b""):
        with pytest.raises(Deadline):
            await both.left.call("/never", b"", timeout_s=2)


async def test_a_slow_reader_parks_the_sender_and_nothing_grows() -> None:
    sent = 0

    async def pour(connection: Connection, stream: Stream) -> None:
        nonlocal sent
        for _ in range(1000):
            await stream.send(bytes(10_000))
            sent += 1

    async with pair({"/pour": pour, "/echo": echo}) as both:
        async with both.left.open("/pour", b"") as stream:
            await trio.testing.wait_all_tasks_blocked()
            window = Windows().stream_bytes + Limits().waiting_bytes + 20_000
            assert sent * 10_000 <= window
            assert await both.left.call("/echo", b"x", timeout_s=1) == b"x"
            received = 0
            while await stream.receive() is not None:
                received += 1
        assert received == sent == 1000


async def test_the_end_of_the_connection_fails_what_is_under_way_on_both_ends() -> None:
    far_saw: list[BaseException] = []

    async def wait(connection: Connection, stream: Stream) -> None:
        try:
            await stream.receive()
        except OverlayError as error:
            far_saw.append(error)
            raise

    async with pair({"/wait": wait}) as both:
        failures = []

        async def ask() -> None:
            try:
                async with both.left.open("/wait", b"") as stream:
                    await stream.receive()
            except PeerGone as error:
                failures.append(str(error))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await both.right.aclose(0, "leaving")
        await trio.testing.wait_all_tasks_blocked()
        assert failures == ["the far side said goodbye: leaving"] * 3
        assert both.right.closed == "leaving"
        with pytest.raises(PeerGone):
            await both.left.call("/wait", b"", timeout_s=1)
        with pytest.raises(PeerGone):
            await both.right.call("/wait", b"", timeout_s=1)


async def test_draining_lets_streams_under_way_end_and_takes_no_new_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(connection: Connection, stream: Stream) -> None:
        await trio.sleep(3)
        await stream.send(b"done")

    async with pair({"/slow": slow}) as both:
        answers = []

        async def ask() -> None:
            answers.append(await both.left.call("/slow", b"", timeout_s=10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            began_s = trio.current_time()
            nursery.start_soon(lambda: both.right.aclose(0, "bye", drain_s=30))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises((PeerGone, StreamReset)):
                await both.left.call("/slow", b"", timeout_s=1)
        assert answers == [b"done"]
        assert trio.current_time() - began_s == pytest.approx(3, abs=0.6)


async def test_a_silent_peer_is_gone_after_the_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = trio.testing.memory_stream_pair()
    async with pair({}, channels=(left, right)) as both:
        await trio.sleep(30)
        assert both.left.closed is None
        assert both.left.rtt_s is not None
        assert trio.current_time() - both.left.last_heard_s <= 2
        right.send_stream.send_all_hook = trio.sleep_forever
        began_s = trio.current_time()
        with pytest.raises(PeerGone):
            await both.left.call("/echo", b"", timeout_s=60)
        limits = Limits()
        assert trio.current_time() - began_s <= limits.ping_every_s + limits.ping_timeout_s
        assert "silent" in str(both.left.closed)


async def test_garbage_ends_the_connection_with_a_reason_for_the_far_side() -> None:
    left, right = trio.testing.memory_stream_pair()
    async with pair({"/echo": echo}, channels=(left, right)) as both:
        await trio.testing.wait_all_tasks_blocked()
        await left.send_all(frame.encode(77, 0, 0, b"garbage"))
        await trio.testing.wait_all_tasks_blocked()
        assert both.right.closed == "unknown kind of frame 77"
        assert both.left.closed == "the far side said goodbye: unknown kind of frame 77"


async def test_ten_thousand_random_cancellations_leave_nothing_behind() -> None:
    rng = random.Random(20260601)
    cancelled = 0

    async def answer(connection: Connection, stream: Stream) -> None:
        for _ in range(stream.body[0] % 3):
            await trio.lowlevel.checkpoint()
        await stream.send(stream.body)

    async with pair({"/answer": answer}) as both:

        async def caller() -> None:
            nonlocal cancelled
            while cancelled < 10_000:
                scope = trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, rng.randrange(12))
                    with scope:
                        body = bytes([rng.randrange(256)]) * rng.randrange(1, 400)
                        assert await both.left.call("/answer", body, timeout_s=60) == body
                    cancelled += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(caller)
        for number in range(200):
            body = bytes([number])
            assert await both.left.call("/answer", body, timeout_s=5) == body
        await trio.testing.wait_all_tasks_blocked()
        assert both.left.statistics().streams_open == 0
        assert both.right.statistics().streams_open == 0
        assert both.right.statistics().handlers_failed == 0


async def cancel_after(scope: trio.CancelScope, checkpoints: int) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("checkpoint", range(25))
async def test_a_stream_cancelled_at_any_checkpoint_costs_only_itself(checkpoint: int) -> None:
    async def shout(connection: Connection, stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            await stream.send(message)

    async with pair({"/shout": shout, "/echo": echo}) as both:
        scope = trio.CancelScope()

        async def use() -> None:
            with scope:
                async with both.left.open("/shout", b"") as stream:
                    for _ in range(5):
                        await stream.send(bytes(100_000))
                        await stream.receive()
                    await stream.finish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(cancel_after, scope, checkpoint)
        assert await both.left.call("/echo", b"x", timeout_s=5) == b"x"
        await trio.testing.wait_all_tasks_blocked()
        assert both.left.statistics().streams_open == both.right.statistics().streams_open == 0


async def test_a_connection_is_used_only_while_it_runs() -> None:
    async with pair({}) as both:
        with pytest.raises(LocalFault):
            await both.left.run({})
        with pytest.raises(LocalFault):
            await both.left.call("no-slash", b"", timeout_s=1)
        with pytest.raises(LocalFault):
            await both.left.call("/a", bytes(MESSAGE_BYTES_MAX + 1), timeout_s=1)
        await both.left.aclose(0, "done")
        await both.left.aclose(0, "again")
        assert both.left.closed == "done"


async def test_a_handler_may_close_the_connection_it_serves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def close(connection: Connection, stream: Stream) -> None:
        await connection.aclose(0, "enough")

    async with pair({"/close": close}) as both:
        with pytest.raises(PeerGone, match="enough"):
            await both.left.call("/close", b"", timeout_s=30)
        await trio.testing.wait_all_tasks_blocked()
        assert both.right.closed == "enough"


async def test_who_is_dropped_is_shown_the_last_words_and_is_not_heard_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shown = []

    async def show(connection: Connection, stream: Stream) -> None:
        shown.append(stream.body)
        for number in range(100):
            with suppress(OverlayError):
                await connection.call("/hear", bytes([number]), timeout_s=1)

    async with pair({"/show": show}) as both:
        await trio.testing.wait_all_tasks_blocked()
        both.left.drop("not admitted", ("/show", b"why"))
        assert both.left.closed == "not admitted"
        await trio.sleep(3)
        assert shown == [b"why"]
        seen = both.left.statistics()
        assert (seen.streams_accepted, seen.streams_refused) == (0, 0)
        assert both.right.closed == "the far side said goodbye: not admitted"


async def test_last_words_that_are_too_long_for_the_far_side_are_left_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shown: list[bytes] = []

    async def show(connection: Connection, stream: Stream) -> None:
        shown.append(stream.body)

    async with pair({"/show": show}) as both:
        await trio.testing.wait_all_tasks_blocked()
        both.left.drop("not admitted", ("/show", bytes(Limits().windows.frame_bytes)))
        await trio.sleep(3)
        assert shown == []
        assert both.right.closed == "the far side said goodbye: not admitted"


async def test_who_is_dropped_and_reads_nothing_is_waited_for_half_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pair() as both:

        async def reads_nothing() -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        both.left._channel.receive_some = reads_nothing  # type: ignore[method-assign]  # a far side that hangs
        await trio.testing.wait_all_tasks_blocked()
        both.right.drop("not admitted", ("/show", b"why"))
        began_s = trio.current_time()
        await both.right._ended.wait()
        assert trio.current_time() - began_s <= 2 * Limits().close_s


async def test_a_connection_whose_stream_ids_are_used_up_ends_when_its_streams_have(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def wait(connection: Connection, stream: Stream) -> None:
        await trio.sleep(float(stream.body))
        await stream.send(b"done")

    async with pair({"/wait": wait}) as both:
        both.left._mux._next_id = frame.STREAM_ID_MAX
        began_s = trio.current_time()
        assert await both.left.call("/wait", b"1", timeout_s=5) == b"done"
        await trio.sleep(0.1)
        assert both.left.closed == IDS_USED_UP
        assert both.right.closed == f"the far side said goodbye: {IDS_USED_UP}"
    async with pair({"/wait": wait}) as both:
        both.left._mux._next_id = frame.STREAM_ID_MAX
        began_s = trio.current_time()
        with pytest.raises(PeerGone):
            await both.left.call("/wait", b"600", timeout_s=600)
        assert trio.current_time() - began_s == pytest.approx(RETIRE_S)


async def test_a_handler_that_reads_on_no_longer_holds_the_opening_message() -> None:
    kept = []

    async def read(connection: Connection, stream: Stream) -> None:
        kept.append(len(stream.body))
        await stream.receive()
        kept.append(len(stream.body))
        await stream.receive()

    limits = Limits(bodies_bytes=5000)
    async with (
        pair({"/read": read}, limits=limits) as both,
        both.left.open("/read", bytes(4000)) as first,
    ):
        await first.send(b"more")
        await trio.testing.wait_all_tasks_blocked()
        assert kept == [4000, 0]
        async with both.left.open("/read", bytes(4000)):
            await trio.testing.wait_all_tasks_blocked()
            assert kept == [4000, 0, 4000]


async def test_who_has_an_idle_limit_is_ended_by_it_while_nothing_is_served(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def wait(connection: Connection, stream: Stream) -> None:
        await trio.sleep(float(stream.body))
        await stream.send(b"done")

    async with pair({"/wait": wait}, right_limits=Limits(idle_s=60)) as both:
        await trio.sleep(50)
        assert await both.left.call("/wait", b"100", timeout_s=200) == b"done"
        await trio.sleep(50)
        assert await both.left.call("/wait", b"0", timeout_s=5) == b"done"
        await trio.sleep(50)
        assert both.left.closed is None
        await trio.sleep(15)
        assert both.left.closed == "the far side said goodbye: no request for too long"
