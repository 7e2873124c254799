"""Requests that only an engine with the whole body can honour, and its own chunks on their way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from chaos.remote_toy import RemoteToyConfig
from chaos.world import Host, World, until, world_of
from inference.request import FinishReason
from inference.toy import ToyConfig
from overlay.errors import RequestError
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Started,
)
from tests.overlay.peers_world import FAST, SLOW, everybody_ready, nothing_runs, simulate

SERVER = RemoteToyConfig(slots=4, prefill_tokens_per_s=5000.0, decode_s_per_token=0.02, end_every=0)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


async def ask(
    world: World, host: Host, *, tenant: str = "default", **fields: Any
) -> list[AnswerEvent]:
    """Every event of one request with these fields."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **fields}
    return await world.ask_body(host, body, tenant=tenant)


def chunks(events: Sequence[AnswerEvent]) -> list[Any]:
    """The engine's own JSON, piece by piece."""
    return [json.loads(e.chunk) for e in events if isinstance(e, Delta) and e.chunk is not None]


def served_by(events: Sequence[AnswerEvent]) -> str:
    (finished,) = [event for event in events if isinstance(event, Finished)]
    return finished.served_by


def bodies_of(host: Host) -> list[Any]:
    """What reached a host's made-up server."""
    worker: Any = host.running.ports.engine
    found: list[Any] = worker._core.bodies
    return found


def test_tools_go_to_the_peer_whose_engine_can() -> None:
    async def main() -> None:
        async with world_of(61, [FAST, replace(SERVER, prefill_tokens_per_s=500.0)]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            events = await ask(world, here, tools=[TOOL], stream=True, made_up_field={"a": 1})
            assert served_by(events) == there.identity.peer_id
            (body,) = bodies_of(there)
            assert body["tools"] == [TOOL]
            assert body["made_up_field"] == {"a": 1}
            calls = [each["choices"][0]["delta"]["tool_calls"][0] for each in chunks(events)]
            assert calls[0]["function"]["name"] == "look_up"
            assert len(calls) == 4
            assert all(each["made_up"] for each in chunks(events))
            started, finished = events[0], events[-1]
            assert isinstance(started, Started)
            assert started.passes_chunks
            assert isinstance(finished, Finished)
            assert finished.reason is FinishReason.TOOL_CALLS
            assert finished.usage.completion_tokens == 4
            explained = here.running.decisions.last(None)
            assert explained is not None
            (route,) = explained.routes
            assert route.decision.excluded[here.identity.peer_id].value.startswith("its engine")
            assert nothing_runs(here)
            assert nothing_runs(there)

    simulate(61, main)


@pytest.mark.parametrize("hosts", [[FAST], [FAST, FAST], [None, FAST]])
def test_where_no_engine_can_the_field_is_refused_by_name(hosts: list[ToyConfig | None]) -> None:
    async def main() -> None:
        async with world_of(62, hosts) as world:
            await everybody_ready(world)
            for fields, param, code in (
                ({"tools": [TOOL]}, "tools", "unsupported_parameter"),
                ({"n": 2}, "n", "unsupported_parameter"),
                ({"unheard_of": 1}, "unheard_of", "unknown_parameter"),
            ):
                with pytest.raises(RequestError) as caught:
                    await ask(world, world.hosts[0], **fields)
                error = caught.value
                assert (error.status, error.param, error.code) == (400, param, code)

    simulate(62, main)


def test_while_the_server_is_away_the_client_is_not_told_that_its_body_is_wrong() -> None:
    async def main() -> None:
        async with world_of(69, [FAST, SERVER]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            await ask(world, here, tools=[TOOL])
            world.kill(there)
            await until(lambda: not here.running.peers.up())
            with pytest.raises(RequestError) as caught:
                await ask(world, here, tools=[TOOL])
            assert (caught.value.status, caught.value.code) == (503, "no_capable_peer")

    simulate(69, main)


@pytest.mark.parametrize("stream", [True, False])
def test_an_ingress_without_an_engine_passes_them_too(*, stream: bool) -> None:
    async def main() -> None:
        async with world_of(63, [None, SERVER]) as world:
            await everybody_ready(world)
            events = await ask(world, world.hosts[0], tools=[TOOL], stream=stream)
            assert served_by(events) == world.hosts[1].identity.peer_id
            assert len(chunks(events)) == (4 if stream else 1)
            explained = world.hosts[0].running.decisions.last(None)
            assert explained is not None
            assert explained.routes[0].basis.value == "load alone"

    simulate(63, main)


def test_a_plain_request_is_answered_by_either_and_hits_either_cache() -> None:
    async def main() -> None:
        async with world_of(64, [SLOW, SERVER]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            words = [{"role": "user", "content": "the river and the mountain " * 40}]
            first = await ask(world, here, messages=words, stream=True)
            assert served_by(first) == there.identity.peer_id
            second = await ask(world, here, messages=words, stream=True)
            finished = second[-1]
            assert isinstance(finished, Finished)
            assert finished.usage.cached_tokens >= 160
            text = "".join(e.text for e in second if isinstance(e, Delta))
            assert text == "".join(e["choices"][0]["delta"]["content"] for e in chunks(second))

    simulate(64, main)


@pytest.mark.parametrize("tells_ids", [True, False])
def test_an_answer_that_breaks_off_is_resumed_only_by_token_ids(*, tells_ids: bool) -> None:
    async def main() -> None:
        server = replace(SERVER, tells_ids=tells_ids)
        async with world_of(65, [SLOW, server]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            ended: list[list[AnswerEvent] | RequestError] = []

            async def client() -> None:
                try:
                    ended.append(await ask(world, here, max_tokens=40, stream=True, temperature=0))
                except RequestError as error:
                    ended.append(error)

            assert world.nursery is not None
            world.nursery.start_soon(client)
            await until(lambda: bool(bodies_of(there)))
            await trio.sleep(0.3)  # virtual: about 15 tokens
            world.kill(there)
            await until(lambda: bool(ended))
            (end,) = ended
            if tells_ids:
                assert isinstance(end, list)
                finished = end[-1]
                assert isinstance(finished, Finished)
                assert finished.resumes == 1
                assert finished.usage.completion_tokens == 40
                assert 0 < len(chunks(end)) < 40
            else:
                assert isinstance(end, RequestError)
                assert end.code == "stream_broken"

    simulate(65, main)


def test_an_engine_without_salts_serves_one_tenant_and_the_others_go_elsewhere() -> None:
    async def main() -> None:
        shared = replace(SERVER, salts=False)
        async with world_of(66, [SLOW, shared], tenants=("default", "office")) as world:
            await everybody_ready(world)
            here, there = world.hosts
            first = await ask(world, here, tenant="office", stream=True)
            assert served_by(first) == here.identity.peer_id
            explained = here.running.decisions.last(None)
            assert explained is not None
            assert len(explained.routes) == 2  # the refusal cost one hop, once
            await ask(world, here, tenant="office", stream=True)
            explained = here.running.decisions.last(None)
            assert explained is not None
            assert len(explained.routes) == 1
            assert not bodies_of(there)
            words = dict(there.running.engine_tenants.posture())["isolation"]
            assert "--engine-tenant" in words

    simulate(66, main)


def test_the_operator_names_the_tenant_of_such_an_engine() -> None:
    async def main() -> None:
        shared = replace(SERVER, salts=False)
        async with world_of(
            67,
            [None, shared],
            tenants=("default", "office"),
            engine_tenant="office",
        ) as world:
            await everybody_ready(world)
            here, there = world.hosts
            events = await ask(world, here, tenant="office", stream=True)
            assert served_by(events) == there.identity.peer_id
            with pytest.raises(RequestError) as caught:
                await ask(world, here, tenant="default", stream=True)
            assert caught.value.code == "no_capable_peer"

    simulate(67, main)


def test_tenants_share_such_an_engine_where_the_operator_says_so() -> None:
    async def main() -> None:
        shared = replace(SERVER, salts=False)
        async with world_of(
            68,
            [None, shared],
            tenants=("default", "office"),
            engine_shared=True,
        ) as world:
            await everybody_ready(world)
            for tenant in ("default", "office"):
                events = await ask(world, world.hosts[0], tenant=tenant, stream=True)
                assert served_by(events) == world.hosts[1].identity.peer_id

    simulate(68, main)
