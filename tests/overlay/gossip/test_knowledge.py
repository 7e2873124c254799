"""The driver of gossip in whole simulated peers: what breaks it ends what it came on, and heals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chaos.world import Host, World, until, world_of
from overlay.address import Address
from overlay.gossip.gossip import GossipConfig
from overlay.knowledge import PROTOCOL, Knowledge
from overlay.tenants import TenantBook
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from security.epoch import make_epoch
from security.record import ADDRESSES_MAX, MODELS_MAX
from tests.overlay.gossip.fabric import record_of
from tests.overlay.peers_world import (
    FAST,
    QUESTION,
    ask_error,
    everybody_ready,
    simulate,
)


def send_raw(host: Host, far: Host, message: bytes) -> None:
    """Puts bytes of a test's choice on a host's gossip stream."""
    host.running.knowledge._outboxes[far.identity.peer_id].send_nowait(message)


def connection_of(host: Host, far: Host) -> Connection:
    connection = host.running.peers.connection(far.identity.peer_id)
    assert connection is not None
    return connection


async def both_tell(world: World) -> None:
    """From now on each host hears of the other's load and cache."""
    a, b = world.hosts
    since_s = trio.current_time()

    def heard(host: Host, far: Host) -> bool:
        load = host.running.knowledge.load(far.identity.peer_id)
        return load is not None and load.taken_s > since_s

    await until(lambda: heard(a, b) and heard(b, a))


def test_a_malformed_message_ends_the_connection_and_both_are_told_again() -> None:
    async def main() -> None:
        async with world_of(71, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            broken = connection_of(a, b)
            send_raw(b, a, b"\xc1")
            await until(lambda: broken.closed is not None, timeout_s=2.0)
            assert "gossip" in str(broken.closed)
            await both_tell(world)
            await world.ask(b, QUESTION)
            holder = next(h for h in (a, b) if h.running.ports.engine.load().prefill_tokens_per_s)
            other = b if holder is a else a
            peer_id = holder.identity.peer_id
            await until(lambda: other.running.knowledge.prefixes(peer_id) > 0)

    simulate(71, main)


@pytest.mark.parametrize("opening", [b"", b"x"])
def test_gossip_is_one_stream_each_way_with_an_empty_opening(opening: bytes) -> None:
    async def main() -> None:
        async with world_of(72, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            broken = connection_of(b, a)
            async with broken.open(PROTOCOL, opening):
                await until(lambda: broken.closed is not None, timeout_s=2.0)
            await both_tell(world)

    simulate(72, main)


def test_a_peer_that_comes_up_before_gossip_begins_is_told_on_one_stream() -> None:
    async def main() -> None:
        async with world_of(79, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            kept, knowledge = connection_of(a, b), a.running.knowledge
            knowledge.on_up(kept)
            await both_tell(world)
            nursery, knowledge._nursery = knowledge._nursery, None
            knowledge.on_down(b.identity.peer_id)
            # Who reads the first stream has to be through before it is offered another one.
            await until(lambda: connection_of(b, a) not in b.running.knowledge._heard)
            knowledge.on_up(kept)
            assert b.identity.peer_id not in knowledge._outboxes
            knowledge._nursery = nursery
            assert nursery is not None
            nursery.start_soon(knowledge.run, a.running.addresses)
            await both_tell(world)
            assert connection_of(a, b) is kept

    simulate(79, main)


class GivesUp:
    """Fails at the first gossip streams that it is to read, and then reads them."""

    def __init__(self, knowledge: Knowledge, failures: int) -> None:
        self.knowledge = knowledge
        self.failures = failures

    def __getattr__(self, name: str) -> object:
        return getattr(self.knowledge, name)

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("made to fail")
        await self.knowledge(connection, stream)


def test_a_peer_that_gives_our_stream_up_is_told_on_another_one() -> None:
    async def main() -> None:
        async with world_of(73, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            script = GivesUp(a.running.knowledge, 2)
            a.running.knowledge = script  # type: ignore[assignment]  # stands in for Knowledge
            a.running.peers.drop_all("test")
            await until(lambda: not script.failures)
            kept = connection_of(a, b)
            await both_tell(world)
            assert connection_of(a, b) is kept

    simulate(73, main)


def test_a_peer_that_breaks_gossip_whenever_it_is_up_is_not_dialled_without_end() -> None:
    async def main() -> None:
        async with world_of(74, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            ups = 0
            on_up = b.running.knowledge.on_up

            def break_it(connection: Connection) -> None:
                nonlocal ups
                ups += 1
                on_up(connection)
                send_raw(b, a, b"\xc1")

            b.running.knowledge.on_up = break_it  # type: ignore[method-assign]
            a.running.peers.drop_all("test")
            await trio.sleep(60.0)
            assert 5 < ups < 60

    simulate(74, main)


def test_a_host_that_a_newer_roster_leaves_out_serves_the_tenant_no_more() -> None:
    async def main() -> None:
        async with world_of(75, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            assert world.authority is not None
            content = world.authority.tenants[world.authority.tenant_id("default")].content
            without = replace(
                content,
                epoch=content.epoch + 1,
                version=1,
                epoch_key=bytes(range(32)),
                members={a.identity.peer_id: a.identity.keys.sealing_public},
            )
            secret = world.entropy("epoch").secret
            a.running.knowledge.learn_epoch(make_epoch(world.authority.issuer, without, secret))
            tenant = b.running.tenants.named("default")
            await until(lambda: b.running.tenants.get(content.tenant_id) is None)
            # A client's token still names the tenant.
            b.running.tenants.named = lambda _: tenant  # type: ignore[method-assign]
            error = await ask_error(world, b, QUESTION)
            assert (error.code, error.status) == ("not_a_member", 421)
            answered = await world.ask(a, QUESTION)
            assert answered.finished.served_by == a.identity.peer_id

    simulate(75, main)


def test_a_tenant_that_is_forgotten_can_be_learnt_again() -> None:
    async def main() -> None:
        async with world_of(76, [FAST]) as world:
            node = world.hosts[0].running
            epoch = next(iter(node.tenants))
            book = TenantBook()
            book.forget(epoch.tenant_id)
            book.learn(epoch)
            chain = book.chain(epoch, node.ports.engine.capabilities().models[0].prefix)
            book.forget(epoch.tenant_id)
            assert (len(book), book.get(epoch.tenant_id)) == (0, None)
            assert not book.is_member(epoch.tenant_id, node.peer_id)
            assert book.learn(epoch)
            assert book.chain(epoch, node.ports.engine.capabilities().models[0].prefix) is not chain

    simulate(76, main)


def test_what_a_forgotten_peer_served_is_forgotten_too() -> None:
    async def main() -> None:
        settings = GossipConfig(forget_s=20.0)
        async with world_of(77, [FAST] * 2, gossip=settings) as world:
            await everybody_ready(world)
            a, b = world.hosts
            world.kill(b)
            await trio.sleep(10.0)
            assert a.running.knowledge.models(b.identity.peer_id)
            await until(lambda: not a.running.knowledge.models(b.identity.peer_id))
            assert b.identity.peer_id not in a.running.knowledge._models

    simulate(77, main)


def test_a_host_of_very_many_addresses_and_models_tells_of_the_first_ones() -> None:
    temporary = tuple(Address(f"2001:db8::{number:x}", 7401) for number in range(1, 30))

    async def main() -> None:
        settings = {"advertise": lambda bound: (*temporary, *bound)}
        async with world_of(78, [FAST] * 2, **settings) as world:
            await everybody_ready(world)
            a, b = world.hosts
            record = record_of(b.running.knowledge.gossip, a.identity.peer_id)
            assert record is not None
            assert len(record.addresses) == ADDRESSES_MAX
            assert record.addresses[0] == "10.0.0.1:7401"
            engine = a.running.ports.engine
            many = replace(engine.capabilities(), models=engine.capabilities().models * 40)
            engine.capabilities = lambda: many  # type: ignore[method-assign]
            a.running.knowledge._describe(a.running.addresses)
            peer_id = a.identity.peer_id
            await until(lambda: len(b.running.knowledge.models(peer_id)) == MODELS_MAX)

    simulate(78, main)
