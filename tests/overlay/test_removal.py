"""A host leaves a tenant's roster while requests are under way between it and a member."""

from __future__ import annotations

import pytest
import trio

from chaos.world import Host, World, until, world_of
from overlay.errors import RequestError
from overlay.node import Node
from overlay.request import AnswerEvent, Delta, Finished
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, simulate

LONG = 400


def removed(world: World, host: Host) -> bytes:
    """The EPOCH object of ``default`` without a host."""
    assert world.authority is not None
    tenant_id = world.authority.tenant_id("default")
    secret = world.entropy("removal").secret
    world.authority, data = world.authority.remove_member(tenant_id, host.identity.peer_id, secret)
    return data


def deaf(host: Host) -> None:
    """A host that takes no EPOCH object in: one of an adversary, or behind a partition."""
    host.running.knowledge.gossip.learn_epoch = lambda *_: []  # type: ignore[method-assign]


def tokens(events: list[AnswerEvent]) -> int:
    return sum(len(event.token_ids or ()) for event in events if isinstance(event, Delta))


def running(node: Node) -> int:
    return node.ports.engine.load().running


def test_the_answer_to_a_removed_member_breaks_off_and_no_forward_of_it_is_taken() -> None:
    async def main() -> None:
        async with world_of(81, [FAST, None]) as world:
            await everybody_ready(world)
            member, leaver = world.hosts
            deaf(leaver)
            events: list[AnswerEvent] = []
            errors: list[RequestError] = []

            async def ask() -> None:
                with pytest.raises(RequestError) as caught:
                    await world.ask(leaver, QUESTION, max_tokens=LONG, events=events)
                errors.append(caught.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: tokens(events) > 20, step_s=0.01)
                member.running.knowledge.learn_epoch(removed(world, leaver))
                seen = tokens(events)
                await until(lambda: errors, timeout_s=5.0)
            assert tokens(events) <= seen + 3, "what was on its way when the roster was learnt"
            assert running(member.running) == 0
            accepted = member.running.forwards.counters.accepted
            await trio.sleep(60.0)  # it suspects the member for a while, and then tries it again
            with pytest.raises(RequestError):
                await world.ask(leaver, QUESTION, max_tokens=2)
            assert member.running.forwards.counters.accepted == accepted
            assert member.running.forwards.counters.refused > 0
            # Its own clients are served all the while.
            assert (await world.ask(member, QUESTION, max_tokens=2)).finished.hops == 0

    simulate(81, main)


def test_a_request_at_a_removed_member_goes_on_at_another_and_none_goes_there_again() -> None:
    async def main() -> None:
        async with world_of(82, [None, FAST, FAST]) as world:
            await everybody_ready(world)
            ingress, *serving = world.hosts
            events: list[AnswerEvent] = []
            answered: list[Finished] = []

            async def ask() -> None:
                whole = await world.ask(ingress, QUESTION, max_tokens=LONG, events=events)
                answered.append(whole.finished)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: tokens(events) > 20, step_s=0.01)
                (leaver,) = [host for host in serving if running(host.running)]
                deaf(leaver)
                ingress.running.knowledge.learn_epoch(removed(world, leaver))
            stayed = next(host for host in serving if host is not leaver)
            (finished,) = answered
            assert (finished.served_by, finished.resumes) == (stayed.identity.peer_id, 1)
            assert tokens(events) == LONG
            served = leaver.running.forwards.counters.accepted
            for number in range(6):
                again = await world.ask(ingress, f"{number} {QUESTION}", max_tokens=1)
                assert again.finished.served_by == stayed.identity.peer_id
            assert leaver.running.forwards.counters.accepted == served

    simulate(82, main)


def test_a_host_that_learns_that_it_left_starts_no_further_attempt() -> None:
    async def main() -> None:
        async with world_of(83, [FAST, None]) as world:
            await everybody_ready(world)
            member, leaver = world.hosts
            events: list[AnswerEvent] = []
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    with pytest.raises(RequestError) as caught:
                        await world.ask(leaver, QUESTION, max_tokens=LONG, events=events)
                    assert caught.value.code == "not_a_member"

                nursery.start_soon(ask)
                await until(lambda: tokens(events) > 20, step_s=0.01)
                member.running.knowledge.learn_epoch(removed(world, leaver))
            assert running(member.running) == 0

    simulate(83, main)


def test_after_a_hard_rotation_the_engine_holds_nothing_of_before_and_hits_again_soon() -> None:
    async def main() -> None:
        async with world_of(84, [FAST, FAST], tenants=("default", "other")) as world:
            await everybody_ready(world)
            a, b = world.hosts
            for tenant in ("default", "other"):
                await world.ask(a, QUESTION, tenant=tenant, max_tokens=1)
            await trio.sleep(5.0)
            assert world.authority is not None
            tenant_id = world.authority.tenant_id("default")
            before = a.running.ports.engine.load().used_blocks
            async with trio.open_nursery() as nursery:
                # One is under way under the old key, and leaves nothing either.
                nursery.start_soon(lambda: world.ask(a, "another " * 40, max_tokens=60))
                await trio.sleep(0.5)
                world.authority, data = world.authority.rotate(
                    tenant_id, world.entropy("hard").secret, hard=True
                )
                a.running.knowledge.learn_epoch(data)
                await trio.sleep(0.2)
            await trio.sleep(5.0)
            assert a.running.ports.engine.load().used_blocks == before // 2, "the other tenant's"
            for node in (a.running, b.running):
                epoch = node.tenants.get(tenant_id)
                assert epoch is not None
                assert epoch.epoch == 2
                assert node.knowledge.prefixes(a.identity.peer_id, epoch) == 0
            cached = [
                (await world.ask(a, QUESTION, max_tokens=1)).finished.usage.cached_tokens
                for _ in range(2)
            ]
            assert cached[0] == 0
            assert cached[1] > 0
            other = await world.ask(a, QUESTION, tenant="other", max_tokens=1)
            assert other.finished.usage.cached_tokens > 0

    simulate(84, main)
