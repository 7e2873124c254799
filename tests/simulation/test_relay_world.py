"""Whole peers where two members have no link, and the host between them is no member."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

import chaos.world
from chaos.network import Network, SimTransport
from chaos.observe.leaks import Marks, TransportTap
from chaos.scenario.prompts import canary
from chaos.simulation import run_simulation
from chaos.world import Host, World, until
from inference.toy import ToyConfig
from overlay.peers import Peers
from overlay.ports import Transport

SECRET = "research-office"
RELAY = "10.0.0.2"
TOY = ToyConfig(slots=2, prefill_tokens_per_s=1000.0, decode_s_per_token=0.02, end_every=0)
DOCUMENT = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 12


@asynccontextmanager
async def line_world(
    seed: int, on_found: Callable[[World], None] = lambda _world: None
) -> AsyncIterator[tuple[World, Host, Host, Host]]:
    """A - X - B: A and B have the tenants SECRET and other, X has other alone."""
    world = World(seed)
    world.found([TOY] * 3, (SECRET, "other"), outside={1: (SECRET,)})
    on_found(world)
    a, x, b = world.hosts
    world.network.partition([a.name], [b.name])
    async with world.started():
        await until(lambda: up(x.running.peers) == {a.identity.peer_id, b.identity.peer_id})
        yield world, a, x, b


def up(peers: Peers) -> set[str]:
    return set(peers.up())


def test_knowledge_of_a_tenant_comes_through_a_host_that_is_no_member() -> None:
    async def main() -> None:
        async with line_world(1) as (world, a, x, b):
            assert x.running.tenants.named(SECRET) is None
            first = await world.ask(a, DOCUMENT + "Where does it rise?", tenant=SECRET)
            assert first.finished.served_by == a.identity.peer_id
            await until(lambda: b.running.knowledge.prefixes(a.identity.peer_id) > 0)
            assert x.running.knowledge.prefixes(a.identity.peer_id) == 0
            assert up(a.running.peers) == up(b.running.peers) == {x.identity.peer_id}
            second = await world.ask(b, DOCUMENT + "Where does it flow?", tenant=SECRET)
            assert second.finished.served_by == b.identity.peer_id
            assert second.finished.hops == 0
            assert second.finished.usage.completion_tokens == 8

    run_simulation(1, main)


def test_a_request_of_a_tenant_is_never_served_by_a_host_that_is_no_member() -> None:
    async def main() -> None:
        async with line_world(2) as (world, _, x, b):
            for number in range(6):
                answered = await world.ask(b, f"{number} " * 80, tenant=SECRET, max_tokens=2)
                assert answered.finished.served_by == b.identity.peer_id
            shared = await world.ask(x, DOCUMENT, tenant="other", max_tokens=2)
            assert shared.finished.usage.completion_tokens == 2

    run_simulation(2, main)


def test_members_use_each_other_when_the_link_is_healed() -> None:
    async def main() -> None:
        async with line_world(3) as (world, a, _, b):
            await world.ask(a, DOCUMENT, tenant=SECRET, max_tokens=2)
            await until(lambda: b.running.knowledge.prefixes(a.identity.peer_id) > 0)
            world.network.heal()
            await until(lambda: a.identity.peer_id in up(b.running.peers), timeout_s=120.0)
            answered = await world.ask(b, DOCUMENT + "And now?", tenant=SECRET, max_tokens=2)
            assert answered.finished.served_by == a.identity.peer_id
            assert answered.finished.hops == 1

    run_simulation(3, main)


class Tapped:
    """Looks through all that the relay receives, keeps and logs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.marks = Marks({})
        self.seen: set[tuple[str, str]] = set()
        monkeypatch.setattr(chaos.world, "SimTransport", self._transport)

    def _transport(self, network: Network, host: str, *identity: bytes) -> Transport:
        transport = SimTransport(network, host, *identity)
        return TransportTap(transport, self.marks, self.found) if host == RELAY else transport

    def found(self, tenant: str, where: str) -> None:
        self.seen.add((tenant, where))

    def know(self, world: World) -> None:
        """What to look for."""
        assert world.authority is not None
        tenants = {world.authority.tenant_id(name): name for name in (SECRET, "other")}
        self.marks = Marks(tenants)

    def look_at_disk(self, host: Host) -> int:
        """Every row that is kept; how many there are."""
        rows = [row for table in host.storage._written.values() for row in table.items()]
        for key, value in rows:
            self.marks.look(key + b"\0" + value, "its storage", self.found)
        return len(rows)


def test_a_host_that_is_no_member_receives_keeps_and_logs_nothing_of_a_tenant(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tapped = Tapped(monkeypatch)

    async def main() -> None:
        async with line_world(4, tapped.know) as (world, a, x, b):
            text = f"{canary(SECRET)} {DOCUMENT}"
            for number in range(4):
                for host in (a, b):
                    await world.ask(host, f"{number} {text}", tenant=SECRET, max_tokens=2)
                    shared = f"{number} {canary('other')} {DOCUMENT}"
                    await world.ask(host, shared, tenant="other", max_tokens=2)
            await until(lambda: b.running.knowledge.prefixes(a.identity.peer_id) > 0)
            await trio.sleep(30)
            assert tapped.look_at_disk(x) > 0

    with caplog.at_level(logging.DEBUG):
        run_simulation(4, main)
    # What it may see is seen: the taps do look.
    assert ("other", "prompt in what it received") in tapped.seen
    assert not [place for tenant, place in tapped.seen if tenant == SECRET]
    assert caplog.records
    tapped.marks.look(caplog.text.encode(), "a log", tapped.found)
    assert not [place for _, place in tapped.seen if place.endswith("a log")]
