"""Whole peers where two members have no link, and the host between them is no member."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chaos.simulation import run_simulation
from chaos.world import Host, World, until
from inference.toy import ToyConfig
from overlay.peers import Peers

TOY = ToyConfig(slots=2, prefill_tokens_per_s=1000.0, decode_s_per_token=0.02, end_every=0)
DOCUMENT = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 12


@asynccontextmanager
async def line_world(seed: int) -> AsyncIterator[tuple[World, Host, Host, Host]]:
    """A - X - B: A and B have the tenants default and other, X has other alone."""
    world = World(seed)
    world.found([TOY] * 3, ("default", "other"), outside={1: ("default",)})
    a, x, b = world.hosts
    world.network.partition([a.name], [b.name])
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        for host in world.hosts:
            await world.start(host)
        await until(lambda: up(x.running.peers) == {a.identity.peer_id, b.identity.peer_id})
        yield world, a, x, b
        nursery.cancel_scope.cancel()


def up(peers: Peers) -> set[str]:
    return set(peers.up())


def test_knowledge_of_a_tenant_comes_through_a_host_that_is_no_member() -> None:
    async def main() -> None:
        async with line_world(1) as (world, a, x, b):
            assert x.running.tenants.named("default") is None
            first = await world.ask(a, DOCUMENT + "Where does it rise?")
            assert first.finished.served_by == a.identity.peer_id
            await until(lambda: b.running.knowledge.prefixes(a.identity.peer_id) > 0)
            assert x.running.knowledge.prefixes(a.identity.peer_id) == 0
            assert up(a.running.peers) == up(b.running.peers) == {x.identity.peer_id}
            second = await world.ask(b, DOCUMENT + "Where does it flow?")
            assert second.finished.served_by == b.identity.peer_id
            assert second.finished.hops == 0
            assert second.finished.usage.completion_tokens == 8

    run_simulation(1, main)


def test_a_request_of_a_tenant_is_never_served_by_a_host_that_is_no_member() -> None:
    async def main() -> None:
        async with line_world(2) as (world, _, x, b):
            for number in range(6):
                answered = await world.ask(b, f"{number} " * 80, max_tokens=2)
                assert answered.finished.served_by == b.identity.peer_id
            shared = await world.ask(x, DOCUMENT, tenant="other", max_tokens=2)
            assert shared.finished.usage.completion_tokens == 2

    run_simulation(2, main)


def test_members_use_each_other_when_the_link_is_healed() -> None:
    async def main() -> None:
        async with line_world(3) as (world, a, _, b):
            await world.ask(a, DOCUMENT, max_tokens=2)
            await until(lambda: b.running.knowledge.prefixes(a.identity.peer_id) > 0)
            world.network.heal()
            await until(lambda: a.identity.peer_id in up(b.running.peers), timeout_s=120.0)
            answered = await world.ask(b, DOCUMENT + "And now?", max_tokens=2)
            assert answered.finished.served_by == a.identity.peer_id
            assert answered.finished.hops == 1

    run_simulation(3, main)
