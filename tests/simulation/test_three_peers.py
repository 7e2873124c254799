"""Three whole peers in one process, under virtual time: the main job, a death, a silence."""

from __future__ import annotations

import trio

from chaos.simulation import run_simulation
from chaos.world import Answered, World, until, world_of
from inference.toy import ToyConfig
from overlay.request import AnswerEvent, Delta

TOY = ToyConfig(slots=2, prefill_tokens_per_s=1000.0, decode_s_per_token=0.02, end_every=0)
DOCUMENT = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 12


async def everybody_up(world: World) -> None:
    others = len(world.hosts) - 1
    await until(lambda: all(len(h.running.peers.up()) == others for h in world.hosts))


async def knows(world: World, asker: int, holder: int) -> None:
    """Waits until one host's index has something of another's."""
    peer_id = world.hosts[holder].identity.peer_id
    await until(lambda: world.hosts[asker].running.knowledge.prefixes(peer_id) > 0)


def test_a_request_is_served_from_another_hosts_cache() -> None:
    async def main() -> None:
        async with world_of(1, [TOY] * 3) as world:
            await everybody_up(world)
            first = await world.ask(world.hosts[0], DOCUMENT + "Where does it rise?")
            holder = next(h for h in world.hosts if h.identity.peer_id == first.finished.served_by)
            asker = next(h for h in world.hosts if h is not holder)
            await knows(world, world.hosts.index(asker), world.hosts.index(holder))
            second = await world.ask(asker, DOCUMENT + "Where does it flow?")
            assert second.finished.served_by == holder.identity.peer_id
            assert second.finished.hops == 1
            usage = second.finished.usage
            assert usage.cached_tokens > usage.prompt_tokens // 2
            third = await world.ask(holder, DOCUMENT + "Who named it?")
            assert third.finished.hops == 0, "who has it answers it"

    run_simulation(1, main)


def test_an_answer_goes_on_where_its_serving_peer_died() -> None:
    disturbed, resumes = run_simulation(2, lambda: broken_answer(kill=True))
    undisturbed, none = run_simulation(2, lambda: broken_answer(kill=False))
    assert resumes == 1
    assert none == 0
    assert disturbed.token_ids == undisturbed.token_ids
    assert disturbed.text == undisturbed.text
    assert disturbed.finished.usage.completion_tokens == 40


async def broken_answer(*, kill: bool) -> tuple[Answered, int]:
    """One long answer forwarded to a peer that dies in the middle of it."""
    async with world_of(2, [TOY] * 3) as world:
        await everybody_up(world)
        served = await world.ask(world.hosts[0], DOCUMENT, max_tokens=1)
        holder = next(h for h in world.hosts if h.identity.peer_id == served.finished.served_by)
        asker = next(h for h in world.hosts if h is not holder)
        await knows(world, world.hosts.index(asker), world.hosts.index(holder))
        events: list[AnswerEvent] = []
        answered: list[Answered] = []

        async def ask() -> None:
            answered.append(await world.ask(asker, DOCUMENT, max_tokens=40, events=events))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: sum(isinstance(e, Delta) for e in events) > 10, step_s=0.01)
            if kill:
                world.kill(holder)
        return answered[0], answered[0].finished.resumes


def test_an_answer_goes_on_where_its_serving_peer_fell_silent_and_the_peer_is_used_again() -> None:
    async def main() -> None:
        async with world_of(3, [TOY] * 3) as world:
            await everybody_up(world)
            served = await world.ask(world.hosts[0], DOCUMENT, max_tokens=1)
            holder = next(h for h in world.hosts if h.identity.peer_id == served.finished.served_by)
            asker = next(h for h in world.hosts if h is not holder)
            await knows(world, world.hosts.index(asker), world.hosts.index(holder))
            began_s = trio.current_time()
            world.network.freeze(holder.name)
            answered = await world.ask(asker, DOCUMENT, max_tokens=10)
            assert answered.finished.served_by != holder.identity.peer_id
            assert trio.current_time() - began_s < 5
            for _ in range(5):
                again = await world.ask(asker, DOCUMENT, max_tokens=1)
                assert again.finished.served_by != holder.identity.peer_id
            world.network.thaw(holder.name)
            thawed_s = trio.current_time()
            while True:
                other = await world.ask(asker, f"{trio.current_time()} " * 60, max_tokens=1)
                if other.finished.served_by == holder.identity.peer_id:
                    break
                assert trio.current_time() - thawed_s < 15, "it is not used again"
                await trio.sleep(0.5)

    run_simulation(3, main)
