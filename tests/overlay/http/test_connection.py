"""The h11 driver over memory streams: framing, limits, deadlines, and clients that leave."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from overlay.http.connection import ClientLeft, Message
from tests.overlay.http.world import (
    GET,
    LIMITS,
    Hung,
    Receive,
    Send,
    Streaming,
    connected,
    mirror,
    post,
    respond,
)


async def never(scope: Message, receive: Receive, send: Send) -> None:
    raise AssertionError("this request must not reach the application")


class TestExchanges:
    async def test_a_connection_answers_one_request_after_the_other(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(mirror) as client:
            for number in range(3):
                answer = await client.ask(post(b"body %d" % number, f"/p{number}?a=b"))
                told = answer.json()
                assert (answer.status, told["method"]) == (200, "POST")
                assert (told["path"], told["query"]) == (f"/p{number}", "a=b")
                assert told["body"] == f"body {number}"
                assert answer.headers["server"] == "rhizome"
                assert answer.headers["date"].endswith(" GMT")
                assert "connection" not in answer.headers

    async def test_pipelined_requests_are_answered_in_order(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(mirror) as client:
            await client.send(b"".join(post(b"x" * n, f"/{n}") for n in range(5)) + GET[:9])
            paths = [(await client.answer()).json()["path"] for _ in range(5)]
            assert paths == [f"/{n}" for n in range(5)]
            assert (await client.ask(GET[9:])).json()["method"] == "GET"

    async def test_a_request_that_comes_while_another_is_answered_waits_for_it(
        self, autojump_clock: MockClock
    ) -> None:
        async def slow(scope: Message, receive: Receive, send: Send) -> None:
            await trio.sleep(5)
            await mirror(scope, receive, send)

        async with connected(slow) as client:
            await client.send(post(b"1"))
            await trio.sleep(1)
            await client.send(post(b"2" * 10_000))
            assert (await client.answer()).json()["body"] == "1"
            assert (await client.answer()).json()["body"] == "2" * 10_000

    async def test_a_chunked_body_is_put_together(self, autojump_clock: MockClock) -> None:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b"3\r\nabc\r\n0002;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        async with connected(mirror) as client:
            assert (await client.ask(head + chunks)).json()["body"] == "abcde"
            for byte in head + chunks:
                await client.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await client.answer()).json()["body"] == "abcde"

    async def test_a_client_that_waits_for_100_gets_it(self, autojump_clock: MockClock) -> None:
        request = post(b"abc", "/", "Expect: 100-continue")
        async with connected(mirror) as client:
            await client.send(request[:-3])
            assert b"100" in await client.until(b"\r\n\r\n")
            answer = await client.ask(b"abc")
            assert (answer.informational, answer.json()["body"]) == ((100,), "abc")
            at_once = await client.ask(request)
            assert at_once.json()["body"] == "abc"

    async def test_a_client_that_waits_for_100_is_told_first_that_its_body_is_too_large(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            head = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 65537"
            answer = await client.ask(head + b"\r\n\r\n")
            assert (answer.status, answer.informational) == (413, ())

    async def test_an_answer_to_head_has_no_body_and_the_connection_goes_on(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(mirror) as client:
            answer = await client.ask(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD")
            assert (answer.status, answer.body) == (200, b"")
            assert int(answer.headers["content-length"]) > 50
            assert (await client.ask(GET)).json()["path"] == "/path"

    async def test_a_refused_head_request_has_no_body_either(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            await client.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n")
            assert (await client.answer("HEAD")).status == 413
            assert await client.ended()

    async def test_head_and_first_part_leave_together(self, autojump_clock: MockClock) -> None:
        async with connected(mirror) as client:
            await client.send(GET)
            first = bytes(await client.stream.receive_some(65536))
            assert first.startswith(b"HTTP/1.1 200")
            assert first.endswith(b"}")

    async def test_http_1_0_streams_end_with_the_connection(
        self, autojump_clock: MockClock
    ) -> None:
        async def stream(scope: Message, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"a", b"", b"b"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})

        async with connected(stream) as client:
            answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert (answer.body, answer.headers["connection"]) == (b"ab", "close")
            assert "transfer-encoding" not in answer.headers

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            ("/a%20b/%E2%82%AC?x=%20", "/a b/€", "x=%20"),
            ("/v1/models/org%2Fname", "/v1/models/org/name", ""),
            ("http://host:1/a/b?c", "/a/b", "c"),
            ("HTTPS://host/a", "/a", ""),
            ("http://[::1]:7403", "/", ""),
            ("http://host?q", "/", "q"),
            ("/http://host/", "/http://host/", ""),
            ("*", "*", ""),
        ],
    )
    async def test_targets_are_read_in_every_form(
        self, target: str, path: str, query: str, autojump_clock: MockClock
    ) -> None:
        async with connected(mirror) as client:
            told = (await client.ask(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())).json()
            assert (told["path"], told["query"]) == (path, query)

    @pytest.mark.parametrize(
        "head",
        [
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket",
            "PRI * HTTP/1.1\r\nHost: h",
        ],
    )
    async def test_other_protocols_are_not_switched_to(
        self, head: str, autojump_clock: MockClock
    ) -> None:
        async def nothing(scope: Message, receive: Receive, send: Send) -> None:
            await respond(send, b"", 404)

        async with connected(nothing) as client:
            method = head.partition(" ")[0]
            assert (await client.ask(head.encode() + b"\r\n\r\n", method)).status == 404
            assert (await client.ask(GET)).status == 404

    async def test_close_is_answered_with_close(self, autojump_clock: MockClock) -> None:
        async with connected(mirror) as client:
            answer = await client.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.headers["connection"] == "close"
            assert await client.ended()

    async def test_a_draining_peer_ends_the_connection_with_the_answer(
        self, autojump_clock: MockClock
    ) -> None:
        draining = False
        async with connected(mirror, draining=lambda: draining) as client:
            assert "connection" not in (await client.ask(GET)).headers
            draining = True
            assert (await client.ask(GET)).headers["connection"] == "close"
            assert await client.ended()

    async def test_an_application_hears_that_the_exchange_is_over(
        self, autojump_clock: MockClock
    ) -> None:
        heard: list[str] = []

        async def curious(scope: Message, receive: Receive, send: Send) -> None:
            await mirror(scope, receive, send)
            heard.append((await receive())["type"])

        async with connected(curious) as client:
            for _ in range(2):
                assert (await client.ask(GET)).status == 200
            await trio.testing.wait_all_tasks_blocked()
        assert heard == ["http.disconnect"] * 2


class TestRefusals:
    @pytest.mark.parametrize("pieces", [1, 50])
    async def test_a_head_that_is_too_large_is_refused(
        self, pieces: int, autojump_clock: MockClock
    ) -> None:
        request = GET[:-2] + b"X: " + b"x" * 4200 + b"\r\n\r\n"
        async with connected(never) as client:
            step = len(request) // pieces
            for start in range(0, len(request), step):
                await client.send(request[start : start + step])
                await trio.testing.wait_all_tasks_blocked()
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
            assert answer.headers["connection"] == "close"
            assert await client.ended()

    async def test_a_head_without_end_is_refused_while_it_comes(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            assert (await client.ask(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)).status == 431

    @pytest.mark.parametrize("declared", [True, False])
    async def test_a_body_that_is_too_large_is_refused(
        self, declared: bool, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            if declared:
                await client.send(post(b"x" * 65_537))
            else:
                await client.send(
                    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 17
                )
            answer = await client.answer()
            assert (answer.status, answer.error["type"]) == (413, "invalid_request_error")
            assert await client.ended()

    async def test_a_body_as_large_as_allowed_is_taken(self, autojump_clock: MockClock) -> None:
        async with connected(mirror) as client:
            assert len((await client.ask(post(b"x" * 65_536))).json()["body"]) == 65_536

    async def test_a_refused_client_can_finish_sending_before_the_connection_ends(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(never, lockstep=True) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, b"x" * 200_000)
                assert (await client.answer()).status == 413

    async def test_a_refused_client_that_never_stops_is_left(
        self, autojump_clock: MockClock
    ) -> None:
        limits = replace(LIMITS, linger_bytes=1_000_000)
        async with connected(never, limits, lockstep=True) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.answer)
                with pytest.raises(trio.BrokenResourceError):
                    await client.send(b"x" * 9_999_999)
        async with connected(never) as client:
            began_s = trio.current_time()
            await client.ask(b"\x00")
            with suppress(trio.BrokenResourceError):
                while not client.served.is_set():
                    await client.send(b"x")
                    await trio.sleep(1)
            assert trio.current_time() - began_s <= 6

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x00",
            b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nX\x00: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
            b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"G\xc3T / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ],
        ids=repr,
    )
    async def test_garbage_is_answered_with_400_and_the_end(
        self, garbage: bytes, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            answer = await client.ask(garbage)
            assert (answer.status, answer.error["code"]) == (400, "malformed_request")
            assert await client.ended()

    @pytest.mark.parametrize(
        ("target", "param"),
        [
            ("/v1/chat/completions", "messages"),
            ("http://h/v1/completions?a=b", "prompt"),
            ("/v1/models", None),
        ],
    )
    async def test_a_refusal_has_an_id_a_date_and_the_form_of_every_other_error(
        self, target: str, param: str | None, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            head = f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n"
            answer = await client.ask(head.encode())
        assert answer.error == {
            "message": "the body is larger than 65536 bytes",
            "type": "invalid_request_error",
            "param": param,
            "code": "body_too_large",
        }
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["date"].endswith(" GMT")

    async def test_nothing_is_proxied(self, autojump_clock: MockClock) -> None:
        async with connected(never) as client:
            answer = await client.ask(b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "CONNECT")
            assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
            assert await client.ended()

    @pytest.mark.parametrize("version", ["0.9", "2.0", "3.0"])
    async def test_other_versions_are_refused(
        self, version: str, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            answer = await client.ask(f"PRI * HTTP/{version}\r\n\r\nSM\r\n\r\n".encode())
            assert (answer.status, answer.error["code"]) == (505, "http_version_not_supported")

    @pytest.mark.parametrize(
        ("framing", "status"),
        [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\nContent-Length: 6", 400),
            ("Content-Length: 5, 6", 400),
            ("Content-Length: -5", 400),
            ("Content-Length: +5", 400),
            ("Content-Length: 0x5", 400),
            ("Content-Length: 5.0", 400),
            ("Content-Length: five", 400),
            ("Content-Length:", 400),
            ("Content-Length: " + "9" * 21, 400),
            ("Content-Length: 99999999999", 413),
            ("Content-Length : 5", 400),
            ("Transfer-Encoding : chunked", 400),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
            ("Transfer-Encoding: xchunked", 501),
            ("Transfer-Encoding: chunked, identity", 501),
        ],
    )
    async def test_a_body_that_could_be_framed_in_two_ways_is_refused(
        self, framing: str, status: int, autojump_clock: MockClock
    ) -> None:
        smuggled = f"GET /smuggled HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n".encode()
        async with connected(never) as client:
            answer = await client.ask(
                f"POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n0\r\n\r\n".encode() + smuggled
            )
            assert answer.status == status
            assert await client.ended()


class TestDeadlines:
    async def test_a_silent_client_is_left_without_a_word(self, autojump_clock: MockClock) -> None:
        async with connected(never) as client:
            assert await client.ended()
            assert trio.current_time() == pytest.approx(LIMITS.header_s)

    async def test_a_slow_head_is_refused(self, autojump_clock: MockClock) -> None:
        async with connected(never) as client:
            async with trio.open_nursery() as nursery:

                async def dribble() -> None:
                    for byte in GET:
                        await client.send(bytes([byte]))
                        await trio.sleep(1)

                nursery.start_soon(dribble)
                assert (await client.answer()).status == 408
                nursery.cancel_scope.cancel()
            assert LIMITS.header_s <= trio.current_time() <= LIMITS.header_s + 1.1

    async def test_an_idle_connection_is_left_without_a_word(
        self, autojump_clock: MockClock
    ) -> None:
        async with connected(mirror) as client:
            await client.ask(GET)
            assert await client.ended()
            assert trio.current_time() == pytest.approx(LIMITS.idle_s)

    async def test_the_next_head_has_its_own_time(self, autojump_clock: MockClock) -> None:
        async with connected(mirror) as client:
            await client.ask(GET)
            await trio.sleep(LIMITS.idle_s - 1)
            await client.send(GET[:10])
            await trio.sleep(LIMITS.header_s - 1)
            assert (await client.ask(GET[10:])).status == 200
            await client.send(GET[:10])
            began_s = trio.current_time()
            assert (await client.answer()).status == 408
            assert trio.current_time() - began_s == pytest.approx(LIMITS.header_s)

    async def test_a_slow_body_is_refused(self, autojump_clock: MockClock) -> None:
        async with connected(never) as client:
            await client.send(post(b"x" * 100)[:-1])
            assert (await client.answer()).status == 408
            assert trio.current_time() == pytest.approx(LIMITS.body_s)
            assert await client.ended()

    async def test_a_client_that_reads_nothing_ends_the_work(
        self, autojump_clock: MockClock
    ) -> None:
        app = Streaming()
        async with connected(app, lockstep=True) as client:
            await client.send(GET)
            await app.changed.wait()
            assert trio.current_time() == pytest.approx(LIMITS.write_s)
            assert (app.running, app.ends) == (0, [ClientLeft.__name__])

    async def test_a_client_that_reads_slowly_is_served_on(self, autojump_clock: MockClock) -> None:
        app = Streaming(every_s=0)
        async with connected(app, lockstep=True) as client:
            await client.send(GET)
            for _ in range(10):
                await trio.sleep(LIMITS.write_s - 1)
                assert await client.stream.receive_some(65536)
            assert app.running == 1

    async def test_a_refusal_that_is_not_read_ends_too(self, autojump_clock: MockClock) -> None:
        async with connected(never, lockstep=True) as client:
            await client.send(b"\x00")
            await client.served.wait()
            assert trio.current_time() == pytest.approx(LIMITS.write_s)


class TestClientsThatLeave:
    @pytest.mark.parametrize("half", [False, True])
    async def test_the_work_is_cancelled_in_mid_stream(
        self, half: bool, autojump_clock: MockClock
    ) -> None:
        app = Streaming(every_s=1000)
        async with connected(app) as client:
            await client.send(GET)
            await client.until(b"tick")
            if half:
                await client.stream.send_eof()  # type: ignore[attr-defined]  # memory streams have it
            else:
                await client.stream.aclose()
            await app.changed.wait()
            assert trio.current_time() == 0
            assert (app.running, app.ends) == (0, ["Cancelled"])

    async def test_the_work_is_cancelled_before_it_answers(self, autojump_clock: MockClock) -> None:
        ended = trio.Event()

        async def slow(scope: Message, receive: Receive, send: Send) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        async with connected(slow) as client:
            await client.send(post(b"x"))
            await trio.testing.wait_all_tasks_blocked()
            await client.stream.aclose()
            await ended.wait()

    async def test_work_that_only_listens_hears_it(self, autojump_clock: MockClock) -> None:
        heard: list[str] = []

        async def listening(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            with trio.CancelScope(shield=True):
                heard.append((await receive())["type"])

        async with connected(listening) as client:
            await client.send(post(b"x"))
            await trio.testing.wait_all_tasks_blocked()
            await client.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
        assert heard == ["http.disconnect"]

    @pytest.mark.parametrize("sent", [GET[:12], post(b"xyz")[:-2], b""], ids=repr)
    async def test_half_a_request_reaches_nobody(
        self, sent: bytes, autojump_clock: MockClock
    ) -> None:
        async with connected(never) as client:
            if sent:
                await client.send(sent)
            await client.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()

    async def test_an_application_that_swallows_the_loss_changes_nothing(
        self, autojump_clock: MockClock
    ) -> None:
        async def stubborn(scope: Message, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                try:
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
                except ClientLeft:
                    return

        async with connected(stubborn, lockstep=True) as client:
            await client.send(GET)
            await client.served.wait()
            assert trio.current_time() == pytest.approx(LIMITS.write_s)

    async def test_a_flood_behind_a_request_is_not_read(self, autojump_clock: MockClock) -> None:
        app = Streaming(every_s=1000)
        async with connected(app, lockstep=True) as client:
            await client.send(GET)
            with trio.move_on_after(5) as scope:
                await client.send(b"x" * 1_000_000)
            assert scope.cancelled_caught
            assert app.running == 1


class TestApplicationsThatFail:
    async def test_before_the_answer_is_500(
        self, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
    ) -> None:
        async def broken(scope: Message, receive: Receive, send: Send) -> None:
            raise ValueError("secret detail")

        async with connected(broken) as client:
            answer = await client.ask(GET)
            assert (answer.status, answer.error["type"]) == (500, "server_error")
            assert b"secret" not in answer.body
            assert await client.ended()
        assert "the HTTP application failed" in caplog.text

    @pytest.mark.parametrize("start", [True, False])
    async def test_an_application_that_says_nothing_is_500(
        self, start: bool, autojump_clock: MockClock
    ) -> None:
        async def silent(scope: Message, receive: Receive, send: Send) -> None:
            if start:
                await send({"type": "http.response.start", "status": 200, "headers": []})

        async with connected(silent) as client:
            assert (await client.ask(GET)).status == 500

    async def test_a_head_that_cannot_be_sent_is_500(self, autojump_clock: MockClock) -> None:
        async def injecting(scope: Message, receive: Receive, send: Send) -> None:
            headers = [(b"x", b"a\r\nb: c")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

        async with connected(injecting) as client:
            assert (await client.ask(GET)).status == 500

    @pytest.mark.parametrize("fails", [True, False])
    async def test_half_an_answer_is_cut_so_that_nobody_takes_it_for_whole(
        self, fails: bool, autojump_clock: MockClock
    ) -> None:
        async def half(scope: Message, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            if fails:
                raise ValueError

        async with connected(half) as client:
            with pytest.raises(Hung) as caught:
                await client.ask(GET)
            assert caught.value.got == b"half"

    async def test_more_than_was_promised_ends_the_connection(
        self, autojump_clock: MockClock
    ) -> None:
        async def generous(scope: Message, receive: Receive, send: Send) -> None:
            await respond(send, b"a")
            await send({"type": "http.response.body", "body": b"b"})

        async with connected(generous) as client:
            assert (await client.ask(GET)).body == b"a"
            assert await client.ended()

    async def test_after_the_answer_harms_nothing(self, autojump_clock: MockClock) -> None:
        async def late(scope: Message, receive: Receive, send: Send) -> None:
            await mirror(scope, receive, send)
            raise ValueError

        async with connected(late) as client:
            for _ in range(2):
                assert (await client.ask(GET)).status == 200

    async def test_a_client_that_leaves_is_no_failure(
        self, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
    ) -> None:
        app = Streaming(every_s=0)
        async with connected(app, lockstep=True) as client:
            await client.send(GET)
            await trio.sleep(LIMITS.write_s + 1)
        assert app.ends == [ClientLeft.__name__]
        assert not caplog.records
