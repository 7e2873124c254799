"""The HTTP face of whole simulated peers: tokens, tenants, caches, and clients that leave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from chaos.world import Host, World, until, world_of
from inference.toy import ToyConfig
from overlay.http.app import make_app
from overlay.http.face import PeerFront
from overlay.http.limits import HttpLimits
from overlay.request import Scope
from security.authority import Authority
from tests.overlay.http.peers import issued, token_of
from tests.overlay.http.world import Answer, Client, connected, post
from tests.overlay.peers_world import (
    FAST,
    QUESTION,
    SLOW,
    ended_states,
    everybody_ready,
    nothing_runs,
    simulate,
)

TIMEOUT_S = 120.0
LONG_S = 30.0


@dataclass
class Face:
    """A client of one host's HTTP face."""

    world: World
    host: Host
    client: Client
    bearer: str

    def request(
        self,
        text: str = QUESTION,
        *,
        path: str = "/v1/chat/completions",
        bearer: str | None = None,
        **fields: Any,  # fields of the body
    ) -> bytes:
        if path.endswith("chat/completions"):
            prompt: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        else:
            prompt = {"prompt": text}
        body = {**prompt, "max_tokens": 8, "temperature": 0, "seed": 1, **fields}
        authorization = f"Authorization: Bearer {self.bearer if bearer is None else bearer}"
        return post(json.dumps(body).encode(), path, authorization)

    async def ask(self, text: str = QUESTION, **fields: Any) -> Answer:  # Any: see request
        return await self.client.ask(self.request(text, **fields))

    async def see(self, path: str, scope: Scope, tenant: str = "default") -> Answer:
        """What a token with this scope is shown."""
        bearer = token_of(self.world, tenant, scope=scope)
        head = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bearer}\r\n\r\n"
        return await self.client.ask(head.encode())


@asynccontextmanager
async def face_of(world: World, host: Host, tenant: str = "default") -> AsyncIterator[Face]:
    app = make_app(PeerFront(host.running, TIMEOUT_S))
    node = host.running
    async with connected(app, HttpLimits(), draining=lambda: node.draining) as client:
        yield Face(world, host, client, token_of(world, tenant))


@asynccontextmanager
async def one_peer(
    engine: ToyConfig = FAST, seed: int = 1, tenants: Sequence[str] = ("default",)
) -> AsyncIterator[tuple[World, Face]]:
    async with (
        world_of(seed, [engine], tenants=tenants) as world,
        face_of(world, world.hosts[0]) as face,
    ):
        yield world, face


def text_of(answer: Answer) -> str:
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def streamed_text(answer: Answer) -> str:
    *chunks, done = answer.events()
    assert done == "[DONE]"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_the_answer_is_the_engines_and_the_second_comes_from_the_cache() -> None:
    async def main() -> None:
        async with one_peer() as (world, face):
            expected = await world.ask(face.host, QUESTION + "first", max_tokens=8)
            answer = await face.ask(QUESTION + "first")
            assert text_of(answer) == expected.text
            usage = answer.json()["usage"]
            assert usage["prompt_tokens"] == expected.finished.usage.prompt_tokens
            assert usage["completion_tokens"] == 8
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            assert 0 < cached < usage["prompt_tokens"]
            assert answer.json()["choices"][0]["finish_reason"] == "length"
            assert answer.json()["model"] == "toy"
            assert answer.headers["x-rhizome-served-by"] == face.host.identity.peer_id
            streamed = await face.ask(QUESTION + "first", stream=True)
            assert streamed_text(streamed) == expected.text
            plain = await face.ask(QUESTION, path="/v1/completions")
            assert plain.json()["choices"][0]["text"]

    simulate(1, main)


def test_characters_are_never_split() -> None:
    async def main() -> None:
        async with one_peer() as (_, face):
            whole = text_of(await face.ask(max_tokens=300))
            assert set(whole) & set("éß€語😀")
            assert "\ufffd" not in whole
            streamed = await face.ask(max_tokens=300, stream=True)
            assert streamed_text(streamed) == whole

    simulate(2, main)


def test_an_answer_stops_where_it_was_told() -> None:
    async def main() -> None:
        async with one_peer() as (_, face):
            whole = text_of(await face.ask(max_tokens=40))
            stop = whole.split()[3]
            answer = await face.ask(max_tokens=40, stop=[stop])
            assert answer.json()["choices"][0]["finish_reason"] == "stop"
            assert text_of(answer) == whole[: whole.index(stop)]

    simulate(3, main)


def test_a_tenants_cache_serves_nobody_else() -> None:
    async def main() -> None:
        async with one_peer(tenants=("default", "other")) as (world, face):
            await face.ask()
            bearer = token_of(world, "other")
            theirs = (await face.ask(bearer=bearer)).json()["usage"]
            ours = (await face.ask()).json()["usage"]
            assert theirs["prompt_tokens_details"]["cached_tokens"] == 0
            assert ours["prompt_tokens_details"]["cached_tokens"] > 0
            answer = await face.ask(bearer=bearer, tenant="default")
            assert (answer.status, answer.error["param"]) == (400, "tenant")

    simulate(4, main)


def test_tokens_that_are_not_good_here() -> None:
    async def main() -> None:
        async with one_peer() as (world, face):
            clock = face.host.running.ports.clock
            foreign = Authority.create(world.entropy("foreign").secret, clock.unix_s(), ["default"])
            stranger = issued(foreign, world, "default", 3600, Scope.INFER)
            short = token_of(world, "default", ttl_s=60)
            for bearer in ("", "garbage", "a.b.c", "é", stranger, face.bearer[:-8] + "AAAAAAAA"):
                answer = await face.ask(bearer=bearer)
                assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
                assert not bearer or bearer not in answer.error["message"]
            assert (await face.ask(bearer=short)).status == 200
            await trio.sleep(45)
            await face.ask()
            await trio.sleep(15)
            answer = await face.ask(bearer=short)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert "expired" in answer.error["message"]
            status = token_of(world, "default", scope=Scope.STATUS)
            assert (await face.ask(bearer=status)).status == 403

    simulate(5, main)


def test_a_tenant_that_is_not_served_here_is_421_and_names_no_peer() -> None:
    async def main() -> None:
        async with world_of(
            6, [FAST, FAST], tenants=("default", "other"), outside={0: ["other"]}
        ) as world:
            await until(lambda: len(world.hosts[0].running.peers.up()) == 1)
            async with face_of(world, world.hosts[0], "other") as face:
                for stream in (False, True):
                    answer = await face.ask(stream=stream)
                    assert (answer.status, answer.error["code"]) == (421, "not_a_member")
                    for host in world.hosts:
                        assert host.name not in answer.body.decode()
                        assert host.identity.peer_id not in answer.body.decode()

    simulate(6, main)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "other"}, 404, "model_not_found", "model"),
        ({"text": "word " * 9000}, 400, "context_length_exceeded", "messages"),
        ({"max_tokens": 100_000}, 400, "context_length_exceeded", "max_tokens"),
        ({"text": " "}, 400, "invalid_value", "messages"),
    ],
)
def test_requests_that_no_engine_can_answer(
    fields: Mapping[str, Any], status: int, code: str, param: str
) -> None:
    async def main() -> None:
        async with one_peer() as (_, face):
            answer = await face.ask(**fields)
            assert (answer.status, answer.error["code"]) == (status, code)
            assert answer.error["param"] == param
            assert len(answer.headers["x-request-id"]) == 32
            assert (await face.ask()).status == 200

    simulate(7, main)


def test_a_full_queue_is_503_with_retry_after() -> None:
    async def main() -> None:
        engine = replace(SLOW, slots=1, queue_max=1)
        async with world_of(8, [engine]) as world, trio.open_nursery() as nursery:
            host = world.hosts[0]
            statuses = []

            async def ask(number: int) -> None:
                async with face_of(world, host) as face:
                    answer = await face.ask(f"question {number}")
                    statuses.append(answer.status)
                    if answer.status == 503:
                        assert int(answer.headers["retry-after"]) >= 1

            for number in range(4):
                nursery.start_soon(ask, number)
            await until(lambda: len(statuses) == 4)
            assert sorted(statuses) == [200, 200, 503, 503]

    simulate(8, main)


def test_a_draining_peer_finishes_what_runs_and_takes_nothing_new() -> None:
    async def main() -> None:
        async with (
            one_peer(SLOW) as (world, face),
            face_of(world, face.host) as other,
        ):
            await face.client.send(face.request(stream=True))
            await face.client.until(b"assistant")
            face.host.running.draining = True
            answer = await other.ask()
            assert (answer.status, answer.error["code"]) == (503, "draining")
            assert answer.headers["connection"] == "close"
            assert "retry-after" in answer.headers
            assert streamed_text(await face.client.answer())

    simulate(9, main)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after_s", [0.0, 1.0, 5.0])
def test_a_client_that_leaves_frees_the_engine(stream: bool, after_s: float) -> None:
    async def main() -> None:
        async with one_peer(replace(SLOW, prefill_tokens_per_s=500)) as (_, face):
            await face.client.send(face.request(stream=stream, max_tokens=1000))
            await trio.sleep(after_s)
            await trio.testing.wait_all_tasks_blocked()
            assert not nothing_runs(face.host)
            left_s = trio.current_time()
            await face.client.stream.aclose()
            await until(lambda: nothing_runs(face.host))
            assert trio.current_time() - left_s < 1
            assert ended_states(face.host) == {"cancelled": 1.0}

    simulate(10, main)


def test_a_client_that_reads_nothing_frees_the_engine() -> None:
    async def main() -> None:
        async with world_of(11, [FAST]) as world:
            host = world.hosts[0]
            app = make_app(PeerFront(host.running, TIMEOUT_S))
            async with connected(app, HttpLimits(), lockstep=True) as client:
                face = Face(world, host, client, token_of(world, "default"))
                await client.send(face.request(stream=True, max_tokens=4000))
                await client.until(b"assistant")
                await client.served.wait()
                await until(lambda: nothing_runs(host))
            assert ended_states(host) == {"cancelled": 1.0}

    simulate(11, main)


def test_a_peer_without_an_engine_answers_through_another() -> None:
    async def main() -> None:
        async with world_of(12, [None, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            async with face_of(world, here) as face:
                await face.client.send(
                    f"GET /v1/models HTTP/1.1\r\nHost: h\r\n"
                    f"Authorization: Bearer {face.bearer}\r\n\r\n".encode()
                )
                models = (await face.client.answer()).json()["data"]
                assert [model["id"] for model in models] == ["toy"]
                answer = await face.ask()
                assert answer.headers["x-rhizome-served-by"] == there.identity.peer_id
                assert answer.json()["rhizome"]["hops"] == 1

    simulate(12, main)


def test_a_stream_that_nobody_can_continue_ends_with_an_error_event() -> None:
    async def main() -> None:
        async with world_of(13, [None, SLOW]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            async with face_of(world, here) as face:
                await face.client.send(face.request("short", stream=True, max_tokens=100))
                await face.client.until(b'"content":" ')
                world.kill(there)
                *chunks, last = (await face.client.answer()).events()
                assert len(chunks) > 1
                assert sorted(last) == ["error"]
                assert last["error"]["type"] == "server_error"
                await until(lambda: nothing_runs(here))
                answer = await face.ask()
                assert (answer.status, answer.error["type"]) == (503, "server_error")

    simulate(13, main)


def test_health_and_metrics_of_a_peer() -> None:
    async def main() -> None:
        async with one_peer() as (_, face):
            await face.ask()
            health = await face.client.ask(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            assert health.json()["status"] == "ok"
            assert health.json()["peer_id"] == face.host.identity.peer_id
            metrics = await face.see("/metrics", Scope.STATUS)
            assert b'rhizome_requests_total{state="length"} 1.0' in metrics.body
            assert metrics.headers["content-type"].startswith("text/plain")

    simulate(14, main)


def test_a_request_that_takes_too_long_is_504() -> None:
    async def main() -> None:
        async with world_of(15, [SLOW]) as world:
            host = world.hosts[0]
            app = make_app(PeerFront(host.running, LONG_S))
            async with connected(app, HttpLimits()) as client:
                face = Face(world, host, client, token_of(world, "default"))
                answer = await face.ask("short", max_tokens=500)
                assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
                assert trio.current_time() < LONG_S + 15
                await until(lambda: nothing_runs(host))

    simulate(15, main)


def test_a_viewer_sees_its_own_tenant_and_an_administrator_all() -> None:
    async def main() -> None:
        async with world_of(16, [FAST, FAST], tenants=("default", "secretive")) as world:
            await everybody_ready(world)
            host = world.hosts[0]
            async with face_of(world, host, "secretive") as face:
                theirs = [(await face.ask(f"{QUESTION} {n}")) for n in range(3)]
            hidden = [answer.headers["x-request-id"] for answer in theirs]
            async with face_of(world, host) as face:
                assert (await face.see("/rhizome/explain", Scope.STATUS)).status == 404
                own = (await face.ask()).headers["x-request-id"]
                seen = [
                    await face.see(path, Scope.STATUS)
                    for path in ("/rhizome/status", "/metrics", "/rhizome/explain",
                                 f"/rhizome/explain/chatcmpl-{own}")
                ]  # fmt: skip
                assert [answer.status for answer in seen] == [200] * 4
                told = b"".join(answer.body for answer in seen)
                assert not any(word in told.decode() for word in ["secretive", *hidden])
                status, metrics, last, named = seen
                assert last.json()["request_id"] == named.json()["request_id"] == own
                assert b'requests_total{state="length"} 1.0' in metrics.body
                assert b"open_requests" not in metrics.body
                assert status.json()["tenants"] == ["default"]
                assert (status.json()["used_blocks"], status.json()["total_blocks"]) == (0, 0)
                for each in hidden:
                    shown = await face.see(f"/rhizome/explain/{each}", Scope.STATUS)
                    assert shown.status == 404
                    shown = await face.see(f"/rhizome/explain/{each}", Scope.ADMIN)
                    assert shown.json()["request_id"] == each
                everything = (await face.see("/rhizome/status", Scope.ADMIN)).json()
                assert everything["tenants"] == ["default", "secretive"]
                assert everything["used_blocks"] > 0
                metrics = await face.see("/metrics", Scope.ADMIN)
                assert b'requests_total{state="length"} 4.0' in metrics.body

    simulate(16, main)


def test_a_viewer_of_a_tenant_that_is_not_served_here_sees_nothing() -> None:
    async def main() -> None:
        async with (
            world_of(
                17, [FAST, FAST], tenants=("default", "other"), outside={0: ["other"]}
            ) as world,
            face_of(world, world.hosts[0]) as face,
        ):
            for path in ("/rhizome/status", "/metrics", "/rhizome/explain"):
                answer = await face.see(path, Scope.STATUS, "other")
                assert (answer.status, answer.error["code"]) == (421, "not_a_member")

    simulate(17, main)
