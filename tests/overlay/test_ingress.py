"""The ingress: every failure of a serving peer, cancellation, and that each request ends once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from chaos.world import Answered, World, until, world_of
from overlay.body import BODY_BYTES_MAX, parse_chat
from overlay.forward import End, ForwardRequest, Progress, Tokens
from overlay.progressed import DENIED as DENIED_WORDS
from overlay.remote_run import PATIENCE_MIN_S, Patience
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Principal,
    RequestId,
    Scope,
    Submission,
)
from overlay.transport.stream import Stream
from tests.overlay.peers_world import (
    FAST,
    QUESTION,
    SLOW,
    Misbehaving,
    ask_error,
    cancelled_after,
    encode,
    ended_states,
    everybody_ready,
    nothing_runs,
    simulate,
    streams_open,
)
from tests.overlay.scripts import (
    ACCEPT,
    END,
    REFUSED_OR_BROKEN,
    failing,
    refusing,
    saying,
    tokens,
)


@pytest.mark.parametrize("name", REFUSED_OR_BROKEN)
def test_a_peer_that_refuses_or_breaks_is_replaced_by_this_host(name: str) -> None:
    script, extra_s = REFUSED_OR_BROKEN[name]

    async def main() -> None:
        async with world_of(11, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            fake = Misbehaving(there, script)
            began_s = trio.current_time()
            answered = await world.ask(here, QUESTION, max_tokens=2)
            elapsed_s = trio.current_time() - began_s
            assert len(fake.seen) == 1
            assert (fake.seen[0].hops, fake.seen[0].attempt) == (1, 0)
            assert answered.finished.served_by == here.identity.peer_id
            assert (answered.finished.hops, answered.finished.resumes) == (0, 0)
            prompt_tokens = answered.finished.usage.prompt_tokens
            assert elapsed_s < prompt_tokens / 50 + 2 * 0.5 + extra_s + 0.05
            assert ended_states(here) == {"length": 1.0}
            assert "moon_phase" not in here.running.metrics.text()[1].decode()
            await until(lambda: nothing_runs(here) and streams_open(here) == 0)
            broke = "refused" not in name
            assert here.running.router.probation.suspected(there.identity.peer_id) == broke

    simulate(11, main)


DENIED = [
    ("context_length_exceeded", 400),
    ("invalid_request", 400),
    ("invalid_request", 503),
    ("not_a_member", 421),
    ("model_not_found", 404),
]


@pytest.mark.parametrize(("code", "status"), DENIED)
def test_what_a_peer_says_of_a_request_is_not_taken_for_all(code: str, status: int) -> None:
    async def main() -> None:
        async with world_of(12, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            fake = Misbehaving(there, failing(code, status, retryable=False))
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert len(fake.seen) == 1
            assert answered.finished.served_by == here.identity.peer_id
            assert ended_states(here) == {"length": 1.0}
            assert here.running.router.probation.suspected(there.identity.peer_id)

    simulate(12, main)


@pytest.mark.parametrize("code", ["context_length_exceeded", "invalid_request"])
def test_where_nobody_takes_a_request_the_client_is_told_so_in_our_own_words(code: str) -> None:
    async def main() -> None:
        async with world_of(12, [None, FAST, FAST]) as world:
            await everybody_ready(world)
            fakes = [
                Misbehaving(host, failing(code, 400, retryable=False)) for host in world.hosts[1:]
            ]
            error = await ask_error(world, world.hosts[0], QUESTION)
            assert (error.code, error.status, error.message) == (code, 400, DENIED_WORDS[code])
            assert [len(fake.seen) for fake in fakes] == [1, 1]
            assert ended_states(world.hosts[0]) == {code: 1.0}
            for host in world.hosts[1:]:
                probation = world.hosts[0].running.router.probation
                assert not probation.suspected(host.identity.peer_id)

    simulate(12, main)


def test_usage_is_counted_here_where_it_can_be() -> None:
    async def main() -> None:
        async with world_of(15, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            bill = End(
                finish_reason="stop", prompt_tokens=1, completion_tokens=99_999, cached_tokens=9
            )
            Misbehaving(there, saying(ACCEPT, tokens(65, 66), encode(bill)))
            answered = await world.ask(here, QUESTION, max_tokens=8)
            assert answered.finished.served_by == there.identity.peer_id
            usage = answered.finished.usage
            assert usage.completion_tokens == 2
            assert usage.prompt_tokens > len(QUESTION) // 8

    simulate(15, main)


def test_pieces_without_an_end_are_not_taken_for_ever() -> None:
    async def babble(stream: Stream, request: ForwardRequest) -> None:
        del request
        await stream.send(ACCEPT)
        while True:
            await stream.send(encode(Tokens(token_ids=[], text="", cached_tokens=None)))

    async def main() -> None:
        async with world_of(16, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            Misbehaving(there, babble)
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert answered.finished.served_by == here.identity.peer_id
            await until(lambda: nothing_runs(here) and streams_open(here) == 0)

    simulate(16, main)


async def whole(world: World, host: int) -> Answered:
    return await world.ask(world.hosts[host], QUESTION, max_tokens=12)


@pytest.mark.parametrize("then", ["finish", "reset", "silence", "garbage"])
def test_an_answer_broken_in_the_middle_goes_on_here_as_if_nothing_had_been(then: str) -> None:
    async def main() -> None:
        async with world_of(13, [SLOW, FAST, FAST]) as world:
            await everybody_ready(world)
            here, there, other = world.hosts
            undisturbed = await whole(world, 2)
            world.kill(other)
            await until(lambda: len(here.running.peers.up()) == 1)
            first = [tokens(token) for token in undisturbed.token_ids[:5]]
            if then == "garbage":
                fake = Misbehaving(there, saying(ACCEPT, *first, b"\x00"))
            else:
                fake = Misbehaving(there, saying(ACCEPT, *first, then=then))
            answered = await whole(world, 0)
            assert len(fake.seen) == 1
            assert answered.token_ids == undisturbed.token_ids
            finished = answered.finished
            assert (finished.resumes, finished.served_by) == (1, here.identity.peer_id)
            assert finished.usage.completion_tokens == 12
            assert ended_states(here) == {"length": 1.0}
            await until(lambda: nothing_runs(here) and streams_open(here) == 0)

    simulate(13, main)


def test_text_without_ids_cannot_be_resumed() -> None:
    text = encode(Tokens(token_ids=None, text="some text", cached_tokens=0))

    async def main() -> None:
        async with world_of(14, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            Misbehaving(there, saying(ACCEPT, text))
            error = await ask_error(world, here, QUESTION)
            assert (error.code, error.status) == ("stream_broken", 502)
            assert nothing_runs(here)

    simulate(14, main)


def test_progress_keeps_a_slow_answer_alive() -> None:
    async def script(stream: Stream, request: ForwardRequest) -> None:
        await stream.send(ACCEPT)
        for _ in range(20):
            await trio.sleep(1)
            await stream.send(encode(Progress()))
        await stream.send(tokens(5))
        await stream.send(END)
        await stream.finish()

    async def main() -> None:
        async with world_of(15, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            Misbehaving(there, script)
            answered = await world.ask(here, QUESTION)
            assert answered.finished.served_by == there.identity.peer_id
            assert answered.token_ids == (5,)

    simulate(15, main)


@pytest.mark.parametrize(
    ("first_s", "start_s", "waits_s"),
    [(0.01, 0.0, 30.0), (20.0, 0.0, 80.0), (20.0, 5.0, 85.0), (0.01, 86_400.0, 30.04)],
)
def test_a_slow_peer_is_given_several_times_as_long_as_is_expected_of_it(
    first_s: float, start_s: float, waits_s: float
) -> None:
    patience = Patience(silence_s=1.5, first_s=first_s, next_s=first_s)
    assert patience.to_first_s(start_s) == pytest.approx(waits_s)
    assert patience.to_next_s() == max(30.0, 4 * first_s)


def test_a_peer_that_only_shows_progress_is_not_waited_for_until_the_deadline() -> None:
    async def script(stream: Stream, request: ForwardRequest) -> None:
        await stream.send(ACCEPT)
        while True:
            await trio.sleep(0.5)
            await stream.send(encode(Progress()))

    async def main() -> None:
        async with world_of(16, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            Misbehaving(there, script)
            began_s = trio.current_time()
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert answered.finished.served_by == here.identity.peer_id
            assert PATIENCE_MIN_S < trio.current_time() - began_s < PATIENCE_MIN_S + 10
            assert here.running.router.probation.suspected(there.identity.peer_id)
            await until(lambda: nothing_runs(here) and streams_open(here) == 0)

    simulate(16, main)


def test_an_ingress_without_an_engine_tries_the_next_peer() -> None:
    async def main() -> None:
        async with world_of(17, [None, FAST, FAST]) as world:
            await everybody_ready(world)
            ingress, fake_host, honest = world.hosts
            fake = Misbehaving(fake_host, refusing("overloaded"))
            for number in range(6):
                answered = await world.ask(ingress, f"{number} {QUESTION}")
                assert answered.finished.served_by == honest.identity.peer_id
                assert answered.finished.hops == 1
                await trio.sleep(20)
            assert fake.seen

    simulate(17, main)


def test_an_ingress_without_an_engine_says_so_when_nobody_serves() -> None:
    async def main() -> None:
        async with world_of(18, [None, None]) as world:
            await everybody_ready(world)
            error = await ask_error(world, world.hosts[0], QUESTION)
            assert (error.code, error.status) == ("no_capable_peer", 503)
            assert error.retry_after_s == 1.0
            assert ended_states(world.hosts[0]) == {"no_capable_peer": 1.0}

    simulate(18, main)


def test_retries_elsewhere_are_bounded_by_recent_requests() -> None:
    async def main() -> list[str]:
        async with world_of(19, [None, FAST, FAST, FAST]) as world:
            await everybody_ready(world)
            for host in world.hosts[1:]:
                Misbehaving(host, refusing("overloaded"))
            ingress = world.hosts[0]
            return [(await ask_error(world, ingress, f"{n} {QUESTION}")).code for n in range(4)]

    codes = simulate(19, main)
    # Three retries in ten seconds: the first request uses two and runs out of peers.
    assert codes == ["no_capable_peer", "overloaded", "overloaded", "overloaded"]


def test_a_body_too_large_for_one_message_is_served_here() -> None:
    async def main() -> None:
        async with world_of(20, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here = world.hosts[0]
            tenant = here.running.tenants.named("default")
            assert tenant is not None
            body = (
                b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "user": "%s"}'
            )
            submission = Submission(
                request_id=RequestId("0" * 32),
                principal=Principal(
                    tenant=tenant.tenant_id, token_id="t", scopes=frozenset({Scope.INFER})
                ),
                call=parse_chat(body % (b"x" * (BODY_BYTES_MAX - len(body) + 2))),
                deadline_s=trio.current_time() + 60,
            )
            async with here.running.ingress.open(submission) as events:
                last = [event async for event in events][-1]
            assert isinstance(last, Finished)
            assert last.served_by == here.identity.peer_id
            assert nothing_runs(here)

    simulate(20, main)


CHECKPOINTS = [n * 0.004 for n in range(1, 40)]


@pytest.mark.parametrize("kind", ["forwarded", "local", "behind a queue"])
def test_a_client_that_leaves_at_any_time_leaves_nothing_running(kind: str) -> None:
    engines = {
        "forwarded": [None, FAST],
        "local": [FAST],
        "behind a queue": [None, FAST],
    }[kind]

    async def main() -> None:
        async with world_of(21, engines) as world:
            await everybody_ready(world)
            ingress = world.hosts[0]
            seen = set()
            async with trio.open_nursery() as nursery:
                if kind == "behind a queue":
                    for number in range(4):
                        nursery.start_soon(
                            partial(world.ask, ingress, f"{number} busy", max_tokens=4000)
                        )
                    await trio.sleep(0.5)
                before = [streams_open(host) for host in world.hosts]
                for number, after_s in enumerate(CHECKPOINTS):
                    text = f"{number} {QUESTION}"
                    events = await cancelled_after(world, ingress, text, after_s, 30)
                    seen.add(len(events) > 1)
                    assert not any(isinstance(event, Finished) for event in events)
                    await trio.sleep(0.1)
                    if kind != "behind a queue":
                        assert all(nothing_runs(host) for host in world.hosts), after_s
                    else:
                        assert world.hosts[-1].running.ports.engine.load().queued == 0
                    assert [streams_open(host) for host in world.hosts] == before, after_s
                nursery.cancel_scope.cancel()
            await until(lambda: all(nothing_runs(host) for host in world.hosts), timeout_s=5)
            if kind != "behind a queue":
                assert seen == {True, False}
            cancelled = len(CHECKPOINTS) + (4 if kind == "behind a queue" else 0)
            assert ended_states(ingress) == {"cancelled": float(cancelled)}

    simulate(21, main)


def test_a_cancelled_request_is_told_as_cancelled() -> None:
    async def main() -> None:
        async with world_of(22, [FAST]) as world:
            host = world.hosts[0]
            await cancelled_after(world, host, QUESTION, 0.2, 100)
            explained = host.running.decisions.last(None)
            assert explained is not None
            assert explained.outcome is not None
            assert explained.outcome.state == "cancelled"

    simulate(22, main)


@pytest.mark.parametrize("frozen", [True, False])
def test_each_request_ends_exactly_once_when_its_peer_is_lost_at_any_time(*, frozen: bool) -> None:
    async def lost_after(after_s: float) -> tuple[int, ...]:
        async with world_of(23, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            events: list[AnswerEvent] = []
            answers: list[Answered] = []

            async def ask() -> None:
                answers.append(await world.ask(here, QUESTION, max_tokens=6, events=events))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(after_s)
                if frozen:
                    world.network.freeze(there.name)
                else:
                    world.kill(there)
            assert sum(isinstance(event, Finished) for event in events) == 1
            assert isinstance(events[-1], Finished)
            ids = [t for e in events if isinstance(e, Delta) for t in e.token_ids or ()]
            assert len(ids) == answers[0].finished.usage.completion_tokens == 6
            assert list(ended_states(here).values()) == [1.0]
            return tuple(ids)

    def run(after_s: float) -> tuple[int, ...]:
        main: Callable[[], Awaitable[tuple[int, ...]]] = partial(lost_after, after_s)
        return simulate(23, main)

    assert len({run(step * 0.01) for step in range(20)}) == 1
