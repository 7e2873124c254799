"""Peers of one model that differ: in their context, and in their weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chaos.world import Answered, AnyEngine, Host, World, until, world_of
from inference.errors import PartTooSmall
from inference.request import EngineRequest, FinishReason
from inference.toy import ToyConfig, ToyEngine
from inference.worker import EngineWorker
from overlay.body import parse_chat
from overlay.errors import RequestError
from overlay.ports import Engine
from overlay.request import AnswerEvent, Delta, Principal, RequestId, Scope, Started, Submission
from tests.overlay.peers_world import (
    FAST,
    QUESTION,
    SLOW,
    ask_error,
    everybody_ready,
    nothing_runs,
    simulate,
)

CONTEXT = 1024
SMALL = replace(FAST, context_tokens=CONTEXT)
LONG = QUESTION * 8
OTHER_WEIGHTS = replace(SLOW, end_every=7, prefill_tokens_per_s=500.0)


def excluded(host: Host) -> dict[str, str]:
    """Why peers were left out of the last decision."""
    explained = host.running.decisions.last(None)
    assert explained is not None
    left_out = explained.routes[-1].decision.excluded
    return {str(peer_id): why.value for peer_id, why in left_out.items()}


@pytest.mark.parametrize(("text", "max_tokens"), [(LONG, 8), (QUESTION, CONTEXT)])
def test_a_peer_with_too_small_a_context_is_left_out(text: str, max_tokens: int) -> None:
    here_config = replace(SLOW, prefill_tokens_per_s=500.0, decode_s_per_token=0.05)

    async def main() -> None:
        async with world_of(41, [here_config, SMALL]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            short = await world.ask(here, QUESTION)
            assert short.finished.served_by == there.identity.peer_id
            answered = await world.ask(here, text, max_tokens=max_tokens)
            assert answered.finished.served_by == here.identity.peer_id
            assert answered.finished.usage.completion_tokens == max_tokens
            assert excluded(here) == {there.identity.peer_id: "context too small"}
            assert not here.running.router.probation.suspected(there.identity.peer_id)

    simulate(41, main)


def test_a_peer_with_the_larger_context_runs_what_is_too_long_for_this_host() -> None:
    async def main() -> None:
        async with world_of(42, [SMALL, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            for text, max_tokens in ((LONG, 8), (QUESTION, CONTEXT)):
                answered = await world.ask(here, text, max_tokens=max_tokens)
                assert answered.finished.served_by == there.identity.peer_id
                assert answered.finished.usage.completion_tokens == max_tokens

    simulate(42, main)


class SmallPart(ToyEngine):
    """Its part for a tenant holds nothing at present."""

    def add(self, request: EngineRequest) -> None:
        del request
        raise PartTooSmall("the tenant's part of the cache holds 0 tokens")


def small_part() -> Engine:
    return EngineWorker(SmallPart(FAST), in_thread=False)


@pytest.mark.parametrize("engines", [[small_part, SLOW], [None, small_part, SLOW]])
def test_another_peer_runs_what_a_tenants_part_cannot_hold(engines: list[AnyEngine]) -> None:
    async def main() -> None:
        async with world_of(48, engines) as world:
            await everybody_ready(world)
            *_, small, large = world.hosts
            answered = await world.ask(world.hosts[0], QUESTION)
            assert answered.finished.served_by == large.identity.peer_id
            assert not world.hosts[0].running.router.probation.suspected(small.identity.peer_id)

    simulate(48, main)


@pytest.mark.parametrize("engines", [[small_part], [small_part, small_part], [None, small_part]])
def test_what_no_part_can_hold_is_told_as_such(engines: list[AnyEngine]) -> None:
    async def main() -> None:
        async with world_of(49, engines) as world:
            await everybody_ready(world)
            error = await ask_error(world, world.hosts[0], QUESTION)
            assert (error.code, error.status) == ("context_length_exceeded", 400)
            assert "part of the cache" in error.message

    simulate(49, main)


@pytest.mark.parametrize("ingress", [SMALL, None])
def test_what_is_too_long_for_all_is_told_as_such(ingress: ToyConfig | None) -> None:
    async def main() -> None:
        async with world_of(43, [ingress, SMALL]) as world:
            await everybody_ready(world)
            error = await ask_error(world, world.hosts[0], LONG)
            assert (error.code, error.status) == ("context_length_exceeded", 400)
            for host in world.hosts:
                assert nothing_runs(host)
                assert not world.hosts[0].running.router.probation.suspected(host.identity.peer_id)

    simulate(43, main)


async def ask_without_limit(world: World, host: Host, text: str) -> Answered:
    """A request that may be answered up to the end of the context."""
    tenant = host.running.tenants.named("default")
    assert tenant is not None
    body = b'{"messages": [{"role": "user", "content": "%s"}], "temperature": 0}' % text.encode()
    submission = Submission(
        request_id=RequestId("a" * 32),
        principal=Principal(tenant=tenant.tenant_id, token_id="t", scopes=frozenset({Scope.INFER})),
        call=parse_chat(body),
        deadline_s=trio.current_time() + 600,
    )
    return await world._collect(host, submission, [])


@pytest.mark.parametrize("there_tokens", [CONTEXT, 2 * CONTEXT, 4 * CONTEXT])
def test_an_answer_without_limit_is_never_cut_by_a_peer_with_a_smaller_context(
    there_tokens: int,
) -> None:
    here_config = replace(SLOW, decode_s_per_token=0.05, context_tokens=2 * CONTEXT)
    there_config = replace(FAST, context_tokens=there_tokens)

    async def main() -> None:
        async with world_of(44, [here_config, there_config]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            answered = await ask_without_limit(world, here, QUESTION)
            finished = answered.finished
            small = there_tokens < 2 * CONTEXT
            served_by = here if small else there
            assert (finished.served_by, finished.resumes) == (served_by.identity.peer_id, 0)
            tokens = finished.usage.prompt_tokens + finished.usage.completion_tokens
            assert tokens == max(2 * CONTEXT, there_tokens)

    simulate(44, main)


def test_an_answer_that_is_longer_than_this_hosts_context_ends_here_when_its_peer_is_lost() -> None:
    async def main() -> None:
        async with world_of(47, [replace(SLOW, context_tokens=CONTEXT), FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            answers: list[Answered] = []

            async def ask() -> None:
                answers.append(await ask_without_limit(world, here, QUESTION))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(40)
                world.kill(there)
            finished = answers[0].finished
            assert finished.usage.completion_tokens > CONTEXT
            assert (finished.reason, finished.resumes) == (FinishReason.LENGTH, 1)
            assert finished.served_by == here.identity.peer_id

    simulate(47, main)


def test_without_an_engine_an_answer_goes_on_with_equal_weights_only() -> None:
    async def broken(world: World, first: Host) -> Answered | RequestError:
        ingress = world.hosts[0]
        events: list[AnswerEvent] = []
        ended: list[Answered | RequestError] = []

        async def ask() -> None:
            try:
                ended.append(await world.ask(ingress, QUESTION, max_tokens=60, events=events))
            except RequestError as error:
                ended.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: sum(isinstance(e, Delta) for e in events) > 10, step_s=0.01)
            assert isinstance(events[0], Started)
            assert events[0].served_by == first.identity.peer_id
            world.kill(first)
        return ended[0]

    async def main() -> None:
        async with world_of(45, [None, FAST, OTHER_WEIGHTS], allow_variants=True) as world:
            await everybody_ready(world)
            ended = await broken(world, world.hosts[1])
            assert isinstance(ended, RequestError)
            assert (ended.code, ended.status) == ("stream_broken", 502)
            assert nothing_runs(world.hosts[0])
            answered = await world.ask(world.hosts[0], QUESTION)
            assert answered.finished.served_by == world.hosts[2].identity.peer_id
        engines = [None, FAST, OTHER_WEIGHTS, SLOW]
        async with world_of(46, engines, allow_variants=True) as world:
            await everybody_ready(world)
            ended = await broken(world, world.hosts[1])
            assert isinstance(ended, Answered)
            assert ended.finished.served_by == world.hosts[3].identity.peer_id
            left_out = excluded(world.hosts[0])[world.hosts[2].identity.peer_id]
            assert left_out == "other weights than the answer began with"

    simulate(45, main)


def test_without_an_engine_requests_keep_to_the_weights_that_most_peers_have() -> None:
    async def main() -> None:
        async with world_of(47, [None, FAST, OTHER_WEIGHTS, FAST]) as world:
            await everybody_ready(world)
            ingress, _, other, _ = world.hosts
            for number in range(6):
                answered = await world.ask(ingress, f"{number} {QUESTION}")
                assert answered.finished.served_by != other.identity.peer_id
            assert excluded(ingress)[other.identity.peer_id] == "does not serve the model"

    simulate(47, main)


def test_the_first_token_is_expected_when_the_terms_of_the_cost_say_so() -> None:
    async def main() -> None:
        async with world_of(48, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here = world.hosts[0]
            await world.ask(here, QUESTION)
            explained = here.running.decisions.last(None)
            assert explained is not None
            (route,) = explained.routes
            terms = route.decision.terms[route.peer_id]
            expected_s = terms.queue_s + terms.rtt_s + terms.prefill_s
            assert route.first_token_s == pytest.approx(expected_s)
            assert route.first_token_s > 0.01

    simulate(48, main)
