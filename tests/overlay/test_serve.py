"""The serving side of a forward: who is refused, in which order, and what cancelling leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest
import trio

from chaos.world import Host, World, until, world_of
from inference.worker import STALLED_MIN_S
from overlay.errors import PeerGone, StreamReset
from overlay.forward import (
    PROGRESS_EVERY_S,
    PROTOCOL,
    VERSION,
    Accept,
    Answer,
    End,
    Failed,
    ForwardRequest,
    Progress,
    Refuse,
    Tokens,
    decode_answer,
    encode,
)
from tests.overlay.peers_world import (
    FAST,
    QUESTION,
    everybody_ready,
    nothing_runs,
    simulate,
    streams_open,
)

BODY = b'{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "temperature": 0}'


def tenant_of(host: Host, name: str) -> str:
    tenant = host.running.tenants.named(name)
    assert tenant is not None
    return tenant.tenant_id


def request(host: Host, **changes: object) -> ForwardRequest:
    plain = ForwardRequest(
        v=VERSION,
        request_id="a" * 32,
        attempt=0,
        tenant=tenant_of(host, "default"),
        token_id="t",
        chat=True,
        model="toy",
        body=BODY,
        token_ids=None,
        emitted=[],
        seed=1,
        deadline_ms=60_000,
        hops=1,
    )
    return msgspec.structs.replace(plain, **changes)


async def forward(world: World, asker: int, server: int, opening: bytes) -> list[Answer]:
    """Every answer of one forward, up to the far side's end."""
    connection = world.hosts[asker].running.peers.connection(world.hosts[server].identity.peer_id)
    assert connection is not None
    answers = []
    async with connection.open(PROTOCOL, opening) as stream:
        while (data := await stream.receive()) is not None:
            answers.append(decode_answer(data))
    return answers


@dataclass(frozen=True)
class Case:
    changes: dict[str, object]
    code: str
    draining: bool = False
    asker: int = 0


CASES = {
    "tenant nobody has heard of": Case({"tenant": "f" * 32}, "not_a_member"),
    "forwarder outside the tenant": Case({"tenant": "office"}, "not_a_member", asker=2),
    "forwarder outside comes before hops, drain and model": Case(
        {"tenant": "office", "hops": 9, "model": "other", "deadline_ms": 0, "body": b"{"},
        "not_a_member",
        draining=True,
        asker=2,
    ),
    "second hop": Case({"hops": 2}, "too_many_hops"),
    "draining": Case({}, "draining", draining=True),
    "no time left": Case({"deadline_ms": 0}, "deadline"),
    "no JSON": Case({"body": b"{"}, "cannot_read"),
    "field that this version does not know": Case(
        {"body": BODY.replace(b"}]", b'}], "moon_phase": 1')}, "cannot_read"
    ),
    "another kind of body": Case({"chat": False}, "cannot_read"),
    "unknown model": Case({"model": "other"}, "unknown_model"),
    "weights of an old record": Case({"variant": "0" * 16 + " " + "1" * 16}, "other_variant"),
}


@pytest.mark.parametrize("name", CASES)
def test_refusals(name: str) -> None:
    case = CASES[name]

    async def main() -> None:
        async with world_of(
            31, [FAST] * 3, tenants=("default", "office"), outside={2: ("office",)}
        ) as world:
            await everybody_ready(world)
            server = world.hosts[1]
            server.running.draining = case.draining
            changes = dict(case.changes)
            if changes.get("tenant") == "office":
                changes["tenant"] = tenant_of(server, "office")
            opening = encode(request(server, **changes))
            assert await forward(world, case.asker, 1, opening) == [Refuse(code=case.code)]
            assert server.running.forwards.counters.refused == 1
            assert server.running.forwards.counters.accepted == 0
            shown = server.running.metrics.text()[1].decode()
            assert 'rhizome_served_forwards_total{result="refused"} 1.0' in shown
            assert server.running.ports.engine.load().used_blocks == 0
            await until(lambda: nothing_runs(server) and streams_open(server) == 0)

    simulate(31, main)


def test_a_forward_is_accepted_and_answered() -> None:
    async def main() -> None:
        async with world_of(32, [FAST] * 2) as world:
            await everybody_ready(world)
            answers = await forward(world, 0, 1, encode(request(world.hosts[1])))
            assert isinstance(answers[0], Accept)
            assert all(isinstance(answer, Tokens | Progress) for answer in answers[1:-1])
            last = answers[-1]
            assert isinstance(last, End)
            assert (last.finish_reason, last.completion_tokens) == ("length", 5)

    simulate(32, main)


def test_accepting_tells_of_those_who_come_before_and_not_of_the_request_itself() -> None:
    async def main() -> None:
        one_slot = replace(FAST, slots=1)
        async with world_of(34, [FAST, one_slot]) as world:
            await everybody_ready(world)
            starts_ms: list[int] = []

            async def ask(number: int) -> None:
                opening = encode(request(world.hosts[1], request_id=f"{number:032x}"))
                accept, *_ = await forward(world, 0, 1, opening)
                assert isinstance(accept, Accept)
                starts_ms.append(accept.expected_start_ms)

            await ask(0)  # now its rates are known
            async with trio.open_nursery() as nursery:
                for number in (1, 2, 3):
                    nursery.start_soon(ask, number)
            idle, first, second, third = starts_ms
            assert idle == first == 0
            assert 100 <= second < third  # five tokens of 20 ms each, and the prompt's

    simulate(34, main)


def test_a_peer_that_sits_on_the_request_shows_signs_of_life() -> None:
    async def main() -> None:
        slow = replace(FAST, decode_s_per_token=2.0)
        async with world_of(33, [FAST, slow]) as world:
            await everybody_ready(world)
            began_s = trio.current_time()
            answers = await forward(world, 0, 1, encode(request(world.hosts[1])))
            elapsed_s = trio.current_time() - began_s
            signs = sum(isinstance(answer, Progress) for answer in answers)
            assert signs >= elapsed_s / 0.5 - 10
            assert signs >= 10

    simulate(33, main)


@pytest.mark.parametrize(
    ("changes", "code", "retryable"),
    [
        ({"token_ids": [65] * 9000}, "context_length_exceeded", False),
        ({"deadline_ms": 30, "token_ids": [65] * 3000}, "deadline_exceeded", False),
    ],
)
def test_failures(changes: dict[str, object], code: str, retryable: bool) -> None:
    async def main() -> None:
        async with world_of(34, [FAST] * 2) as world:
            await everybody_ready(world)
            answers = await forward(world, 0, 1, encode(request(world.hosts[1], **changes)))
            last = answers[-1]
            assert isinstance(last, Failed)
            assert (last.code, last.retryable) == (code, retryable)
            await until(lambda: nothing_runs(world.hosts[1]))

    simulate(34, main)


def test_a_stalled_engine_is_told_and_takes_nothing_new() -> None:
    async def main() -> None:
        async with world_of(39, [FAST] * 2) as world:
            await everybody_ready(world)
            server = world.hosts[1]
            core = server.running.ports.engine._core  # type: ignore[attr-defined]  # EngineWorker
            step = core.step
            core.step = lambda: replace(step(), virtual_s=60.0)
            began_s = trio.current_time()
            answers = await forward(world, 0, 1, encode(request(server)))
            assert isinstance(answers[0], Accept)
            last = answers[-1]
            assert isinstance(last, Failed)
            assert (last.code, last.retryable) == ("engine_stalled", True)
            assert trio.current_time() - began_s < STALLED_MIN_S + 2 * PROGRESS_EVERY_S
            again = encode(request(server, request_id="b" * 32))
            assert await forward(world, 0, 1, again) == [Refuse(code="stalled")]
            await until(lambda: nothing_runs(server))

    simulate(39, main)


def test_what_is_no_forward_resets_the_stream_and_nothing_else() -> None:
    async def main() -> None:
        async with world_of(35, [FAST] * 2) as world:
            await everybody_ready(world)
            server = world.hosts[1]
            good = encode(request(server))
            for bad in (b"", b"\xc1", good[:-1], good + b"x", encode(Progress())):
                with pytest.raises((StreamReset, PeerGone)):
                    await forward(world, 0, 1, bad)
                await everybody_ready(world)
            newer = encode(request(server, v=2))
            with pytest.raises((StreamReset, PeerGone)):
                await forward(world, 0, 1, newer)
            await everybody_ready(world)
            assert isinstance((await forward(world, 0, 1, good))[-1], End)

    simulate(35, main)


def test_a_forwarder_that_leaves_cancels_the_work() -> None:
    async def main() -> None:
        async with world_of(36, [FAST] * 2) as world:
            await everybody_ready(world)
            server = world.hosts[1]
            for step in range(1, 25):
                opening = encode(
                    request(server, body=BODY.replace(b": 5", b": 4000"), request_id=f"{step:032x}")
                )
                with trio.move_on_after(step * 0.003) as scope:
                    await forward(world, 0, 1, opening)
                assert scope.cancelled_caught
                await trio.sleep(0.05)
                assert nothing_runs(server), step
                assert streams_open(server) == 0

    simulate(36, main)


def test_a_forwarder_that_dies_cancels_the_work() -> None:
    async def main() -> None:
        async with world_of(37, [FAST] * 2) as world:
            await everybody_ready(world)
            asker, server = world.hosts
            async with trio.open_nursery() as nursery:
                opening = encode(request(server, body=BODY.replace(b": 5", b": 4000")))

                async def ask() -> None:
                    with pytest.raises(PeerGone):
                        await forward(world, 0, 1, opening)

                nursery.start_soon(ask)
                await until(lambda: server.running.ports.engine.load().running == 1, step_s=0.01)
                world.kill(asker)
                await until(lambda: nothing_runs(server), timeout_s=1)

    simulate(37, main)


def test_a_resumed_forward_goes_on_where_it_was() -> None:
    async def main() -> None:
        async with world_of(38, [FAST] * 2) as world:
            await everybody_ready(world)
            whole = await world.ask(world.hosts[1], QUESTION, max_tokens=10)
            body = b'{"messages": [{"role": "user", "content": "%s"}], "max_tokens": 10,' % (
                QUESTION.encode()
            )
            opening = request(
                world.hosts[1],
                body=body + b'"temperature": 0, "seed": 1}',
                emitted=list(whole.token_ids[:4]),
            )
            answers = await forward(world, 0, 1, encode(opening))
            ids = [t for a in answers if isinstance(a, Tokens) for t in a.token_ids or ()]
            assert tuple(ids) == whole.token_ids[4:]
            last = answers[-1]
            assert isinstance(last, End)
            assert last.completion_tokens == 10

    simulate(38, main)
