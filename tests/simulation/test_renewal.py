"""Certificates that end and are renewed, on whole peers: in time, late, and not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from chaos.simulation import run_simulation
from chaos.world import Host, World, until
from overlay.errors import StorageFull
from overlay.node import Node
from security.certificate import parse_leaf
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, unwrapped

DAY_S = 86_400.0
HOUR_S = 3600.0


@asynccontextmanager
async def issued_world(seed: int, hosts: int, leaf_s: float) -> AsyncIterator[World]:
    """Hosts whose certificates last so long; the first one is the issuer's."""
    world = World(seed, leaf_s=leaf_s)
    world.found([FAST] * hosts, ("default",))
    world.issue_at(world.hosts[0])
    async with world.started():
        yield world


def simulate(seed: int, main: Callable[[], Awaitable[None]]) -> None:
    """Runs a scenario that may take weeks."""
    run_simulation(seed, lambda: unwrapped(main), limit_s=40 * DAY_S)


def is_whole(world: World) -> bool:
    """Everybody is connected with everybody."""
    others = len(world.hosts) - 1
    return all(len(host.running.peers.up()) == others for host in world.hosts)


def told(node: Node) -> str:
    """What its owner is told of its certificate."""
    return dict(node.engine_posture()).get("certificate", "")


def ends_s(host: Host) -> float:
    """When a host's certificate ends, in virtual seconds."""
    return parse_leaf(host.identity.leaf).not_after_unix_s - 1_800_000_000.0


def test_no_request_is_lost_and_no_connection_ends_over_many_lifetimes() -> None:
    async def main() -> None:
        async with issued_world(901, 3, leaf_s=60.0) as world:
            await everybody_ready(world)
            a, b, c = world.hosts
            first = {
                (host.name, peer_id): host.running.peers.connection(peer_id)
                for host in world.hosts
                for peer_id in host.running.peers.up()
            }
            assert len(first) == 6
            seen: set[bytes] = set()
            for number in range(100):
                host = world.hosts[number % 3]
                await world.ask(host, f"{QUESTION} {number}")
                seen |= {each.identity.leaf for each in world.hosts}
                await trio.sleep(7.0)
            assert len(seen) >= 3 * 700 / 60, "they were renewed more than once a life"
            for (name, peer_id), connection in first.items():
                node = next(host.running for host in world.hosts if host.name == name)
                assert node.peers.connection(peer_id) is connection
                assert connection is not None
                assert connection.closed is None
            for host in world.hosts:
                assert host.running.renewer.plan.failures == 0
                assert told(host.running) == ""
            assert a.running.desk is not None
            assert a.running.desk._identity is a.running.identity
            assert a.identity.leaf != b.identity.leaf != c.identity.leaf

    simulate(901, main)


def test_all_hosts_off_for_three_days_come_back_untouched() -> None:
    async def main() -> None:
        async with issued_world(902, 3, leaf_s=DAY_S) as world:
            await everybody_ready(world)
            for host in world.hosts:
                world.kill(host)
            await until(lambda: all(host.node is None for host in world.hosts))
            await trio.sleep(72 * HOUR_S)
            before = [host.identity.leaf for host in world.hosts]
            for host in reversed(world.hosts):  # the issuer's host is the last one
                await world.start(host)
                assert host is world.hosts[0] or host.running.renewer.ended
            await until(lambda: is_whole(world), timeout_s=200)
            assert not {host.identity.leaf for host in world.hosts} & set(before)
            for host in world.hosts:
                await world.ask(host, QUESTION)
                assert told(host.running) == ""

    simulate(902, main)


def test_a_host_that_was_off_for_over_thirty_days_is_not_renewed() -> None:
    async def main() -> None:
        async with issued_world(903, 2, leaf_s=DAY_S) as world:
            a, b = world.hosts
            for host in world.hosts:
                world.kill(host)
            await until(lambda: all(host.node is None for host in world.hosts))
            await trio.sleep(31 * DAY_S + 60)
            await world.start(a)
            await world.start(b)
            await until(lambda: b.running.renewer.plan.failures > 2, timeout_s=300)
            assert b.running.renewer.ended
            assert "ended too long ago for the issuer: get a ticket" in told(b.running)
            assert not a.running.peers.up()
            await world.ask(b, QUESTION)  # its own clients are served all the same

    simulate(903, main)


def test_an_issuer_that_is_down_for_longer_than_a_certificate_lasts() -> None:
    async def main() -> None:
        async with issued_world(904, 3, leaf_s=600.0) as world:
            await everybody_ready(world)
            issuer, b, c = world.hosts
            await trio.sleep_until(20)
            world.kill(issuer)
            await trio.sleep_until(260)  # before half life, less jitter
            assert told(b.running) == told(c.running) == ""
            await trio.sleep_until(340)
            for host in (b, c):
                assert "not renewed since its half life, ends in" in told(host.running)
                assert host.running.renewer.counts()["failed"] > 0
                assert len(host.running.peers.up()) == 1, "a certificate in force is good"
            await trio.sleep_until(ends_s(b) + 1)
            for host in (b, c):
                assert host.running.peers.up() == []
                assert "no links to other peers" in told(host.running)
                answered = await world.ask(host, QUESTION)
                assert answered.finished.served_by == host.identity.peer_id
            await trio.sleep(900)
            assert b.running.peers.up() == c.running.peers.up() == []
            await world.start(issuer)
            await until(lambda: is_whole(world), timeout_s=90)
            await everybody_ready(world)
            for host in world.hosts:
                assert told(host.running) == ""
                await world.ask(host, QUESTION)
            assert b.starts == c.starts == 1, "nobody had to restart them"

    simulate(904, main)


def test_the_host_that_cannot_reach_its_issuer_any_more_is_put_out_by_the_others() -> None:
    async def main() -> None:
        async with issued_world(905, 3, leaf_s=600.0) as world:
            await everybody_ready(world)
            issuer, b, c = world.hosts
            world.network.partition([issuer.name], [c.name])
            await trio.sleep_until(580)
            assert c.identity.peer_id in b.running.peers.up()
            await trio.sleep_until(602)
            assert b.running.peers.up() == [issuer.identity.peer_id]
            assert c.running.peers.up() == []
            world.network.heal()
            await until(lambda: is_whole(world), timeout_s=90)

    simulate(905, main)


def test_a_revoked_host_is_not_renewed() -> None:
    async def main() -> None:
        async with issued_world(906, 2, leaf_s=600.0) as world:
            await everybody_ready(world)
            issuer, b = world.hosts
            issuer.running.revoke(world.revocation(b.identity.peer_id))
            before = b.identity.leaf
            await trio.sleep_until(700)
            assert b.identity.leaf == before
            assert b.running.renewer.ended
            assert "revoked" in told(b.running)

    simulate(906, main)


def test_a_clock_that_is_days_ahead_does_not_ask_without_end() -> None:
    async def main() -> None:
        async with issued_world(907, 2, leaf_s=DAY_S) as world:
            await everybody_ready(world)
            b = world.hosts[1]
            clock = b.running.ports.clock
            assert hasattr(clock, "offset_s")
            clock.offset_s = 5 * DAY_S
            await trio.sleep(HOUR_S)
            assert b.running.renewer.plan.renewals <= 1
            assert b.running.renewer.ended

    simulate(907, main)


def test_what_cannot_be_stored_is_not_shown() -> None:
    async def main() -> None:
        async with issued_world(908, 2, leaf_s=600.0) as world:
            await everybody_ready(world)
            issuer, b = world.hosts

            def full(*_: object) -> None:
                raise StorageFull("no space is left to write leaf.der")

            before = b.identity.leaf
            keep, b.running.renewer._keep = b.running.renewer._keep, full
            await trio.sleep_until(400)
            assert b.running.identity.leaf == before
            assert b.running.knowledge.gossip.publisher._leaf.der == before
            assert "no space is left" in told(b.running)
            b.running.renewer._keep = keep
            await until(lambda: b.identity.leaf != before, timeout_s=120)
            shown = issuer.running.knowledge.gossip.leaf_of
            await until(lambda: shown(b.identity.peer_id) == b.identity.leaf)

    simulate(908, main)
