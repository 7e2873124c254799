"""A request leaves a peer that will be late, and this host's own engine when it hangs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import trio

from chaos.world import REQUEST_TIMEOUT_S, Host, until, world_of
from inference.core import StepResult
from inference.worker import STALLED_MIN_S
from overlay.forward import Accept, ForwardRequest
from overlay.local_run import STALLED_LOOK_S
from overlay.transport.stream import Stream
from tests.overlay.peers_world import (
    FAST,
    QUESTION,
    SLOW,
    Misbehaving,
    ask_error,
    encode,
    ended_states,
    everybody_ready,
    nothing_runs,
    simulate,
    streams_open,
)
from tests.overlay.scripts import END, REFUSED_OR_BROKEN, refusing, saying, tokens

LATE = encode(Accept(cached_tokens=0, expected_start_ms=600_000))


def test_a_peer_that_accepts_and_will_be_late_is_left_for_this_host() -> None:
    async def main() -> None:
        async with world_of(21, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            fake = Misbehaving(there, saying(LATE, then="silence"))
            began_s = trio.current_time()
            answered = await world.ask(here, QUESTION, max_tokens=2)
            elapsed_s = trio.current_time() - began_s
            assert len(fake.seen) == 1
            assert answered.finished.served_by == here.identity.peer_id
            prompt_tokens = answered.finished.usage.prompt_tokens
            assert elapsed_s < prompt_tokens / 50 + 2 * 0.5 + 0.05
            assert not here.running.router.probation.suspected(there.identity.peer_id)
            assert ended_states(here) == {"length": 1.0}
            await until(lambda: nothing_runs(here) and streams_open(here) == 0)

    simulate(21, main)


def test_a_late_peer_s_place_is_taken_by_this_host_whoever_else_there_is() -> None:
    """A false claim costs one hop, and no second forward."""

    async def main() -> None:
        async with world_of(22, [SLOW, *[FAST] * 3]) as world:
            await everybody_ready(world)
            here, *others = world.hosts
            fakes = [Misbehaving(host, saying(LATE, then="silence")) for host in others]
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert answered.finished.served_by == here.identity.peer_id
            assert sum(len(fake.seen) for fake in fakes) == 1

    simulate(22, main)


def test_a_peer_that_is_later_than_was_thought_is_kept_to_where_this_host_is_later_still() -> None:
    later = encode(Accept(cached_tokens=0, expected_start_ms=1500))

    async def main() -> None:
        async with world_of(26, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            fake = Misbehaving(there, saying(later, tokens(65), END))
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert answered.finished.usage.prompt_tokens / 50 > 1.5 * 1.2
            assert len(fake.seen) == 1
            assert answered.finished.served_by == there.identity.peer_id

    simulate(26, main)


def test_a_peer_that_will_be_late_is_asked_again_only_when_its_load_hint_is_newer() -> None:
    async def main() -> None:
        async with world_of(27, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            fake = Misbehaving(there, saying(LATE, then="silence"))
            for number in range(3):
                await world.ask(here, f"{number} {QUESTION}", max_tokens=1)
            # Each answer takes this host eight seconds, and a hint comes every two.
            assert len(fake.seen) == 3
            async with trio.open_nursery() as nursery:
                ask = partial(world.ask, here, max_tokens=1)
                for number in range(3, 8):
                    nursery.start_soon(ask, f"{number} {QUESTION}")
                    await trio.sleep(0.01)
            assert len(fake.seen) == 4

    simulate(27, main)


def test_a_late_peer_is_kept_to_where_this_host_could_not_run_the_request() -> None:
    async def main() -> None:
        async with world_of(23, [None, FAST]) as world:
            await everybody_ready(world)
            ingress, there = world.hosts
            Misbehaving(there, saying(LATE, tokens(65), END))
            answered = await world.ask(ingress, QUESTION, max_tokens=2)
            assert answered.finished.served_by == there.identity.peer_id
            assert answered.token_ids == (65,)

    simulate(23, main)


def hang(host: Host, step_s: float) -> None:
    """The next step of a host's engine takes so long."""
    core = host.running.ports.engine._core  # type: ignore[attr-defined]  # EngineWorker
    step = core.step

    def hanging() -> StepResult:
        core.step = step
        return replace(step(), virtual_s=step_s)

    core.step = hanging


def test_a_request_leaves_this_host_s_engine_when_it_hangs_and_later_ones_avoid_it() -> None:
    async def main() -> None:
        async with world_of(24, [FAST, SLOW]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            first = await world.ask(here, QUESTION, max_tokens=2)
            assert first.finished.served_by == here.identity.peer_id
            hang(here, 600.0)
            began_s = trio.current_time()
            answered = await world.ask(here, QUESTION, max_tokens=2)
            slow_s = answered.finished.usage.prompt_tokens / 50 + 2 * 0.5
            assert answered.finished.served_by == there.identity.peer_id
            assert answered.token_ids == first.token_ids
            assert trio.current_time() - began_s < STALLED_MIN_S + 2 * STALLED_LOOK_S + slow_s
            began_s = trio.current_time()
            again = await world.ask(here, QUESTION, max_tokens=2)
            assert again.finished.served_by == there.identity.peer_id
            assert trio.current_time() - began_s < slow_s + 0.1
            await until(lambda: nothing_runs(there) and streams_open(there) == 0)

    simulate(24, main)


@pytest.mark.parametrize("name", ["refused", "silent within the budget", "resets after ACCEPT"])
def test_a_request_comes_back_to_an_engine_that_hung_when_nobody_else_answers(name: str) -> None:
    script, _ = REFUSED_OR_BROKEN[name]

    async def main() -> None:
        async with world_of(26, [FAST, SLOW]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            fake = Misbehaving(there, script)
            hang(here, 20.0)
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert len(fake.seen) == 1
            assert answered.finished.served_by == here.identity.peer_id
            assert answered.finished.usage.completion_tokens == 2
            assert ended_states(here) == {"length": 1.0}
            await until(lambda: nothing_runs(here) and streams_open(here) == 0)

    simulate(26, main)


def test_who_comes_back_to_an_engine_that_hangs_on_hears_when_the_time_is_up() -> None:
    async def main() -> None:
        async with world_of(27, [FAST, SLOW]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            Misbehaving(there, refusing("overloaded"))
            hang(here, 600.0)
            began_s = trio.current_time()
            error = await ask_error(world, here, QUESTION)
            assert error.code == "deadline_exceeded"
            assert trio.current_time() - began_s < REQUEST_TIMEOUT_S + 0.1

    simulate(27, main)


def test_a_host_that_is_alone_waits_for_its_engine() -> None:
    async def main() -> None:
        async with world_of(25, [FAST]) as world:
            here = world.hosts[0]
            hang(here, 20.0)
            began_s = trio.current_time()
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert answered.finished.usage.completion_tokens == 2
            assert trio.current_time() - began_s > 20.0

    simulate(25, main)


def test_a_request_goes_back_to_a_late_peer_when_this_host_s_engine_breaks() -> None:
    """Late is better than never: the peer was left for an engine that did not last."""

    async def main() -> None:
        async with world_of(28, [SLOW, FAST]) as world:
            await everybody_ready(world)
            here, there = world.hosts
            first, second = saying(LATE, then="silence"), saying(LATE, tokens(65), END)

            async def late_twice(stream: Stream, request: ForwardRequest) -> None:
                await (first if len(fake.seen) == 1 else second)(stream, request)

            fake = Misbehaving(there, late_twice)
            core = here.running.ports.engine._core  # type: ignore[attr-defined]  # EngineWorker
            core.step = partial(broken, core.step)
            answered = await world.ask(here, QUESTION, max_tokens=2)
            assert len(fake.seen) == 2
            assert answered.finished.served_by == there.identity.peer_id

    simulate(28, main)


def broken(_step: object) -> StepResult:
    raise RuntimeError("the device is gone")
