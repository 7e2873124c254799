"""The OpenAI-compatible application on a made-up peer: forms, refusals, failures, streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from inference.request import ChatPrompt, TextPrompt
from overlay.errors import RequestError
from overlay.http.app import make_app
from overlay.http.limits import HttpLimits
from overlay.quotas import Quota, QuotaLimits
from overlay.request import Delta
from tests.overlay.http.fronts import (
    FINISHED,
    SERVING,
    STARTED,
    TENANT,
    MadeUpFront,
    ScriptedIngress,
    Step,
    said,
)
from tests.overlay.http.world import ADDRESS, Answer, Client, Hung, connected, post

CHAT: Mapping[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: Mapping[str, Any] = {"model": "toy", "prompt": "Hi"}
CHAT_PATH, COMPLETION_PATH = "/v1/chat/completions", "/v1/completions"
BOTH = [(CHAT_PATH, CHAT), (COMPLETION_PATH, COMPLETION)]
BUSY = RequestError("busy", code="overloaded", status=503, retry_after_s=1.0)


def asking(
    body: Mapping[str, Any] | bytes, path: str = CHAT_PATH, bearer: str | None = "good"
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [] if bearer is None else [f"Authorization: Bearer {bearer}"]
    return post(raw, path, "Content-Type: application/json", *headers)


def getting(path: str, bearer: str | None = "good", method: str = "GET") -> bytes:
    line = "" if bearer is None else f"Authorization: Bearer {bearer}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{line}\r\n".encode()


@asynccontextmanager
async def face(
    *script: Step, front: MadeUpFront | None = None, client: tuple[str, int] = ADDRESS
) -> AsyncIterator[tuple[MadeUpFront, Client]]:
    """A connection to the application of a made-up peer."""
    front = front or MadeUpFront()
    if script:
        front.ingress.script = script
    async with connected(make_app(front), HttpLimits(), client=client) as far:
        yield front, far
    assert front.ingress.open_requests == 0


def check_id(answer: Answer) -> str:
    request_id = answer.headers["x-request-id"]
    assert len(request_id) == 32
    assert int(request_id, 16)
    return request_id


class TestWholeAnswers:
    async def test_chat(self) -> None:
        async with face() as (front, client):
            answer = await client.ask(asking(CHAT))
            request_id = check_id(answer)
            value = answer.json()
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-rhizome-served-by"] == SERVING
            assert value["id"] == f"chatcmpl-{request_id}"
            assert (value["object"], value["model"]) == ("chat.completion", "toy")
            assert value["created"] >= SIMULATION_EPOCH_UNIX_S
            assert value["choices"] == [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ]
            assert value["usage"] == {
                "prompt_tokens": 20,
                "completion_tokens": 3,
                "total_tokens": 23,
                "prompt_tokens_details": {"cached_tokens": 16},
            }
            assert value["rhizome"] == {"served_by": SERVING, "hops": 1, "resumes": 2}
            assert front.ingress.whole == 1

    async def test_completion(self) -> None:
        async with face() as (front, client):
            value = (await client.ask(asking(COMPLETION, COMPLETION_PATH))).json()
            assert value["id"].startswith("cmpl-")
            assert value["object"] == "text_completion"
            assert value["choices"] == [
                {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}
            ]
            assert front.ingress.submissions[0].call.prompt == TextPrompt(text="Hi")

    async def test_a_submission_says_who_asks_what_until_when(self) -> None:
        async with face() as (front, client):
            request_id = check_id(await client.ask(asking(CHAT)))
            (submission,) = front.ingress.submissions
            assert submission.request_id == request_id
            assert (submission.principal.tenant, submission.principal.token_id) == (TENANT, "t1")
            assert isinstance(submission.call.prompt, ChatPrompt)
            assert submission.call.raw == json.dumps(CHAT).encode()
            left_s = submission.deadline_s - trio.current_time()
            assert left_s == pytest.approx(front.request_timeout_s, abs=5)

    async def test_every_request_has_an_id_of_its_own(self) -> None:
        async with face() as (_, client):
            ids = [check_id(await client.ask(asking(CHAT))) for _ in range(5)]
            assert len(set(ids)) == 5

    async def test_harmless_fields_are_accepted(self) -> None:
        harmless = {
            "user": "u", "metadata": {"a": "b"}, "store": True, "n": 1, "tools": [],
            "logprobs": False, "response_format": {"type": "text"}, "presence_penalty": 0,
        }  # fmt: skip
        async with face() as (_, client):
            assert (await client.ask(asking({**CHAT, **harmless}))).status == 200


class TestStreams:
    async def test_chat(self) -> None:
        async with face() as (_, client):
            answer = await client.ask(asking({**CHAT, "stream": True}))
            request_id = check_id(answer)
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-rhizome-served-by"] == SERVING
            *chunks, done = answer.events()
            assert done == "[DONE]"
            assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{request_id}"}
            assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
            assert all("usage" not in chunk for chunk in chunks)
            assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
                {"role": "assistant", "content": ""},
                {"content": "Hello"},
                {"content": " world"},
                {},
            ]
            reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
            assert reasons == [None, None, None, "stop"]

    async def test_completion(self) -> None:
        async with face() as (_, client):
            body = {**COMPLETION, "stream": True}
            *chunks, done = (await client.ask(asking(body, COMPLETION_PATH))).events()
            assert done == "[DONE]"
            assert {chunk["object"] for chunk in chunks} == {"text_completion"}
            assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hello", " world", ""]
            assert all("delta" not in chunk["choices"][0] for chunk in chunks)

    @pytest.mark.parametrize(("path", "body"), BOTH)
    async def test_usage_comes_last_and_is_null_before(
        self, path: str, body: Mapping[str, Any]
    ) -> None:
        async with face() as (_, client):
            asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
            *chunks, last, done = (await client.ask(asking(asked, path))).events()
            assert done == "[DONE]"
            assert last["choices"] == []
            assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}
            assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)

    async def test_no_usage_where_it_was_declined(self) -> None:
        async with face() as (_, client):
            asked = {**CHAT, "stream": True, "stream_options": {"include_usage": False}}
            *chunks, _ = (await client.ask(asking(asked))).events()
            assert all("usage" not in chunk for chunk in chunks)

    async def test_empty_pieces_are_not_sent(self) -> None:
        async with face(*said("", "a", "")) as (_, client):
            chunks = (await client.ask(asking({**CHAT, "stream": True}))).events()
            assert len(chunks) == 4

    async def test_every_character_arrives_as_it_is(self) -> None:
        text = 'é€😀\u2028\n\n data: [DONE]\r\n\x00"\\'
        async with face(*said(*text)) as (_, client):
            *chunks, _ = (await client.ask(asking({**CHAT, "stream": True}))).events()
            pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
            assert "".join(pieces) == text
            assert (await client.ask(asking(CHAT))).json()["choices"][0]["message"][
                "content"
            ] == text

    @pytest.mark.parametrize(("path", "body"), BOTH)
    async def test_the_head_comes_before_the_first_token(
        self, path: str, body: Mapping[str, Any], autojump_clock: MockClock
    ) -> None:
        async with face(STARTED, 5.0, *said("a")[1:]) as (_, client):
            await client.send(asking({**body, "stream": True}, path))
            await client.until(b"\r\n\r\n")
            assert trio.current_time() == 0
            await client.answer()
            assert trio.current_time() == 5

    async def test_a_failure_half_way_is_an_event_and_no_done(self) -> None:
        broken = RequestError("it broke", code="stream_broken", status=502)
        async with face(STARTED, Delta(text="a", token_ids=None), broken) as (_, client):
            *_, last = (await client.ask(asking({**CHAT, "stream": True}))).events()
            assert last["error"] == {
                "message": "it broke", "type": "server_error", "param": None,
                "code": "stream_broken",
            }  # fmt: skip
            assert (await client.ask(getting("/health"))).status == 200

    @pytest.mark.parametrize(
        "script",
        [(STARTED, ValueError("bug")), (STARTED, Delta(text="a", token_ids=None))],
        ids=["fails", "has no end"],
    )
    async def test_a_bug_half_way_cuts_the_stream(self, script: tuple[Step, ...]) -> None:
        async with face(*script) as (_, client):
            with pytest.raises(Hung):
                await client.ask(asking({**CHAT, "stream": True}))

    async def test_a_refusal_before_the_first_token_is_no_stream(self) -> None:
        async with face(BUSY) as (_, client):
            answer = await client.ask(asking({**CHAT, "stream": True}))
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"

    async def test_the_request_is_over_before_done_is_sent(self) -> None:
        ingress = ScriptedIngress()
        async with connected(
            make_app(MadeUpFront(ingress=ingress)), HttpLimits(), lockstep=True
        ) as client:
            await client.send(asking({**CHAT, "stream": True}))
            await client.until(b"[DONE]")
            assert ingress.open_requests == 0


class TestClientsThatLeave:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(("path", "body"), BOTH)
    async def test_the_request_is_cancelled(
        self, path: str, body: Mapping[str, Any], stream: bool, autojump_clock: MockClock
    ) -> None:
        async with face(STARTED, Delta(text="a", token_ids=None), 3600.0, FINISHED) as (
            front,
            client,
        ):
            await client.send(asking({**body, "stream": stream}, path))
            await trio.testing.wait_all_tasks_blocked()
            assert front.ingress.open_requests == 1
            await client.stream.aclose()
            await front.ingress.changed.wait()
            assert trio.current_time() == 0
            assert (front.ingress.open_requests, front.ingress.whole) == (0, 0)

    @pytest.mark.parametrize("started", [False, True])
    async def test_before_the_first_token_too(
        self, started: bool, autojump_clock: MockClock
    ) -> None:
        async with face(*((STARTED,) if started else ()), 3600.0, FINISHED) as (front, client):
            await client.send(asking({**CHAT, "stream": True}))
            await trio.testing.wait_all_tasks_blocked()
            await client.stream.aclose()
            await front.ingress.changed.wait()
            assert trio.current_time() == 0

    async def test_a_client_that_reads_nothing_frees_the_request_in_its_own_task(
        self, autojump_clock: MockClock
    ) -> None:
        front = MadeUpFront(ingress=ScriptedIngress(said(*"abcdef")))
        limits = HttpLimits()
        async with connected(make_app(front), limits, lockstep=True) as client:
            await client.send(asking({**CHAT, "stream": True}))
            await client.until(b"assistant")
            await client.served.wait()
            assert trio.current_time() == pytest.approx(limits.write_s)
            assert (front.ingress.open_requests, len(front.ingress.left_in)) == (0, 1)


class TestRefusals:
    @pytest.mark.parametrize("path", [CHAT_PATH, COMPLETION_PATH, "/v1/models", "/v1/models/toy"])
    @pytest.mark.parametrize(
        "header",
        ["", "Authorization: Bearer", "Authorization: Bearer bad", "Authorization: Basic good",
         "Authorization: good", "Authorization: Bearer \xff\xfe"],
    )  # fmt: skip
    async def test_without_a_good_token_nothing_is_told(self, path: str, header: str) -> None:
        method = "GET" if "models" in path else "POST"
        lines = [f"{method} {path} HTTP/1.1", "Host: h", "Content-Length: 0", header]
        request = "\r\n".join(line for line in lines if line).encode("latin-1") + b"\r\n\r\n"
        async with face() as (front, client):
            answer = await client.ask(request)
            check_id(answer)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.error["code"] == "invalid_api_key"
            assert answer.error["type"] == "authentication_error"
            assert not front.ingress.submissions

    @pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
    async def test_the_scheme_is_read_as_http_has_it(self, scheme: str) -> None:
        async with face() as (_, client):
            request = f"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: {scheme} good\r\n\r\n"
            assert (await client.ask(request.encode())).status == 200

    async def test_a_token_without_the_scope_is_forbidden(self) -> None:
        async with face() as (front, client):
            for bearer in ("status-only", "admin-only", "nothing"):
                answer = await client.ask(asking(CHAT, bearer=bearer))
                check_id(answer)
                assert (answer.status, answer.error["type"]) == (403, "permission_error")
            assert not front.ingress.submissions

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"tools": [{"type": "function"}]}, "tools"),
            ({"n": 2}, "n"),
            ({"logprobs": True}, "logprobs"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"tenant": "other"}, "tenant"),
            ({"rhizome": {"tenant": "other"}}, "rhizome"),
            ({"temperature": "hot"}, "temperature"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"messages": []}, "messages"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "messages.0.content.0",
            ),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
            ({"stream": True, "tools": [{"type": "function"}]}, "tools"),
        ],
    )
    async def test_a_field_that_is_not_served_is_named(
        self, change: Mapping[str, Any], param: str
    ) -> None:
        async with face() as (front, client):
            answer = await client.ask(asking({**CHAT, **change}))
            check_id(answer)
            assert (answer.status, answer.error["param"]) == (400, param)
            assert answer.error["type"] == "invalid_request_error"
            assert not front.ingress.whole
            assert (await client.ask(asking(CHAT))).status == 200

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": NaN}', b"[" * 9999])
    async def test_a_body_that_is_no_json_object_is_refused(self, body: bytes) -> None:
        async with face() as (_, client):
            answer = await client.ask(asking(body))
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (400, "invalid_json")

    async def test_a_body_that_is_too_large_is_refused(self) -> None:
        async with face() as (_, client):
            answer = await client.ask(asking({**CHAT, "user": "x" * (1 << 20)}))
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (RequestError("m", code="not_a_member", status=421), "invalid_request_error"),
            (RequestError("m", code="model_not_found", status=404), "not_found_error"),
            (RequestError("m", code="engine_failed", status=502), "server_error"),
            (RequestError("m", code="deadline_exceeded", status=504), "server_error"),
            (
                RequestError("m", code="context_length_exceeded", param="messages"),
                "invalid_request_error",
            ),
        ],
    )
    async def test_an_ingress_that_refuses_is_quoted(self, error: RequestError, kind: str) -> None:
        async with face(error) as (_, client):
            answer = await client.ask(asking(CHAT))
            check_id(answer)
            assert answer.status == error.status
            assert answer.error == {
                "message": "m", "type": kind, "param": error.param, "code": error.code,
            }  # fmt: skip
            assert "retry-after" not in answer.headers

    async def test_a_failure_after_the_start_of_a_whole_answer_is_a_plain_error(self) -> None:
        async with face(STARTED, Delta(text="a", token_ids=None), BUSY) as (_, client):
            answer = await client.ask(asking(CHAT))
            assert (answer.status, answer.error["code"]) == (503, "overloaded")

    @pytest.mark.parametrize(("after_s", "shown"), [(0.2, "1"), (1.0, "1"), (4.6, "5")])
    async def test_retry_after_is_whole_seconds(self, after_s: float, shown: str) -> None:
        error = RequestError("busy", code="overloaded", status=503, retry_after_s=after_s)
        async with face(error) as (_, client):
            assert (await client.ask(asking(CHAT))).headers["retry-after"] == shown

    async def test_a_draining_peer_takes_nothing_new(self) -> None:
        front = MadeUpFront(draining=True)
        async with connected(make_app(front), draining=lambda: front.draining) as client:
            answer = await client.ask(asking(CHAT))
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (503, "draining")
            assert answer.headers["retry-after"] == "5"
            assert answer.headers["connection"] == "close"
            assert await client.ended()

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_bug_is_500_with_the_id_and_without_detail(
        self, stream: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with face(ValueError("secret")) as (_, client):
            answer = await client.ask(asking({**CHAT, "stream": stream}))
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
            assert b"secret" not in answer.body
            assert (await client.ask(getting("/health"))).status == 200
        assert len(caplog.records) == 1


class TestOtherPaths:
    async def test_models(self) -> None:
        async with face() as (_, client):
            answer = await client.ask(getting("/v1/models"))
            check_id(answer)
            value = answer.json()
            assert value["object"] == "list"
            assert [model["id"] for model in value["data"]] == ["org/name", "toy"]
            assert {model["object"] for model in value["data"]} == {"model"}

    @pytest.mark.parametrize("written", ["toy", "org/name", "org%2Fname"])
    async def test_one_model(self, written: str) -> None:
        async with face() as (_, client):
            value = (await client.ask(getting(f"/v1/models/{written}"))).json()
            assert value["id"] in {"toy", "org/name"}
            assert (value["object"], value["owned_by"]) == ("model", "rhizome")

    @pytest.mark.parametrize("written", ["other", "", "toy/", "%00", "%FF"])
    async def test_another_model_is_not_found(self, written: str) -> None:
        async with face() as (_, client):
            answer = await client.ask(getting(f"/v1/models/{written}"))
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")

    async def test_health_is_open_and_answers_head(self) -> None:
        async with face() as (_, client):
            answer = await client.ask(getting("/health", None))
            check_id(answer)
            assert answer.json() == {"status": "ok"}
            head = await client.ask(getting("/health", None, "HEAD"), "HEAD")
            assert (head.status, head.body) == (200, b"")
            assert (await client.ask(getting("/health", None))).status == 200

    async def test_metrics_are_plain_text(self) -> None:
        async with face() as (_, client):
            answer = await client.ask(getting("/metrics", "status-only"))
            check_id(answer)
            assert (answer.status, answer.body) == (200, b"metric 1\n")
            assert answer.headers["content-type"] == "text/plain; version=1"

    @pytest.mark.parametrize(
        ("path", "scopes"),
        [
            ("/v1/models", "good"),
            ("/v1/models/toy", "good"),
            ("/metrics", "status-only admin-only"),
            ("/rhizome/status", "status-only admin-only"),
            ("/rhizome/explain", "status-only admin-only"),
            (f"/rhizome/explain/{'a' * 32}", "status-only admin-only"),
            (f"/rhizome/explain/chatcmpl-{'a' * 32}", "status-only admin-only"),
        ],
    )
    @pytest.mark.parametrize("client", [ADDRESS, ("10.0.0.1", 1)])
    async def test_what_is_shown_needs_a_scope_from_wherever_it_is_asked(
        self, path: str, scopes: str, client: tuple[str, int]
    ) -> None:
        async with face(client=client) as (_, far):
            for bearer in ("good", "status-only", "admin-only", "nothing"):
                answer = await far.ask(getting(path, bearer))
                check_id(answer)
                assert answer.status == (200 if bearer in scopes.split() else 403)
                if answer.status == 403:
                    assert answer.error["code"] == "forbidden"
                    assert "--scope" in answer.error["message"]
            assert (await far.ask(getting(path, None))).status == 401

    async def test_a_request_that_may_not_be_seen_is_not_found(self) -> None:
        async with face() as (_, client):
            answer = await client.ask(getting(f"/rhizome/explain/{'b' * 32}", "status-only"))
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (404, "request_not_found")

    @pytest.mark.parametrize(
        "path",
        ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/health/", "/v1/embeddings", "*", "//",
         "/v1/../health", "/" + "x" * 5000, "/%FF%00"],
    )  # fmt: skip
    @pytest.mark.parametrize("host", ["h", "[", "a b", "[::1", ""])
    async def test_another_path_is_not_found(self, path: str, host: str) -> None:
        async with face() as (_, client):
            answer = await client.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (404, "not_found")
            assert len(answer.error["message"]) < 200

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [("GET", CHAT_PATH, "POST"), ("DELETE", "/v1/models/toy", "GET"),
         ("OPTIONS", COMPLETION_PATH, "POST"), ("POST", "/health", "GET")],
    )  # fmt: skip
    async def test_another_method_is_not_allowed(
        self, method: str, path: str, allowed: str
    ) -> None:
        async with face() as (_, client):
            answer = await client.ask(getting(path, method=method), method)
            check_id(answer)
            assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
            assert allowed in answer.headers["allow"]

    async def test_another_method_of_head_kind_has_no_body(self) -> None:
        async with face() as (_, client):
            assert (await client.ask(getting(CHAT_PATH, method="HEAD"), "HEAD")).status == 405
            assert (await client.ask(getting("/health"))).status == 200


class TestLimits:
    async def test_a_request_over_the_limit_is_429_and_its_body_is_not_looked_at(self) -> None:
        front = MadeUpFront(quotas=QuotaLimits(token=Quota(requests_per_min=6)))
        async with connected(make_app(front)) as client:
            assert [(await client.ask(asking(CHAT))).status for _ in range(2)] == [200, 200]
            for body in (CHAT, b"{" * 1000):
                answer = await client.ask(asking(body))
                check_id(answer)
                assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
                assert answer.error["type"] == "rate_limit_error"
                assert 1 <= int(answer.headers["retry-after"]) <= 10
            assert len(front.ingress.submissions) == 2
            assert (await client.ask(getting("/v1/models"))).status == 200

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_request_holds_its_place_until_it_is_over(
        self, stream: bool, autojump_clock: MockClock
    ) -> None:
        ingress = ScriptedIngress((STARTED, 5.0, *said("a")[1:]))
        front = MadeUpFront(ingress=ingress, quotas=QuotaLimits(token=Quota(concurrent=1)))
        app = make_app(front)
        async with connected(app) as first, connected(app) as second:
            await first.send(asking({**CHAT, "stream": stream}))
            await trio.sleep(1)
            assert (await second.ask(asking(CHAT))).status == 429
            assert (await first.answer()).status == 200
            assert (await second.ask(asking(CHAT))).status == 200
            await first.send(asking({**CHAT, "stream": stream}))
            await trio.sleep(1)
            await first.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert (await second.ask(asking(CHAT))).status == 200
