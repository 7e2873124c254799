"""One node: whom it admits over time, its generation, its goodbye, its clock."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import trio

from chaos.clock import VirtualClock
from chaos.storage import SimStorage
from chaos.world import PORT, Host, World, until, world_of
from inference.toy import ToyConfig
from overlay.address import Address
from overlay.errors import RequestError
from overlay.generation import KEY, TABLE
from overlay.ports import PeerHint
from overlay.request import AnswerEvent, Delta
from security.certificate import issue_leaf
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, simulate

NOW_UNIX_S = 1_800_000_000.0
SLOW_DECODE = ToyConfig(slots=2, prefill_tokens_per_s=5000.0, decode_s_per_token=0.5, end_every=0)


def shorten_leaf(world: World, host: Host, lifetime_s: float) -> None:
    assert world.authority is not None
    entropy, issuer = world.entropy("short leaf"), world.authority.issuer
    leaf = issue_leaf(
        issuer, host.identity.peer_id, entropy.secret, NOW_UNIX_S, lifetime_s=lifetime_s
    )
    host.identity = replace(host.identity, leaf=leaf)


def test_a_revoked_peer_is_put_out_at_once_and_not_let_in_again() -> None:
    async def main() -> None:
        async with world_of(51, [FAST] * 3) as world:
            await everybody_ready(world)
            a, b, c = world.hosts
            kept = a.running.peers.connection(c.identity.peer_id)
            a.running.revoke(world.revocation(b.identity.peer_id))
            await until(lambda: a.running.peers.up() == [c.identity.peer_id], timeout_s=2)
            for _ in range(30):
                await trio.sleep(1)
                assert a.running.peers.up() == [c.identity.peer_id]
            assert a.running.peers.connection(c.identity.peer_id) is kept
            assert c.running.peers.up() == [a.identity.peer_id], "a has told c"
            assert a.running.hello().revocations_digest == c.running.hello().revocations_digest
            a.running.revoke(())
            assert a.running.revocations.revokes(b.identity.peer_id)

    simulate(51, main)


def test_a_revoked_issuer_takes_every_peer_with_it() -> None:
    async def main() -> None:
        async with world_of(52, [FAST] * 3) as world:
            await everybody_ready(world)
            assert world.authority is not None
            a = world.hosts[0]
            a.running.revoke(world.revocation(world.authority.issuer.issuer_id))
            await until(lambda: not a.running.peers.up(), timeout_s=2)

    simulate(52, main)


def test_a_certificate_that_ends_while_it_is_in_use_ends_its_connections() -> None:
    async def main() -> None:
        world = World(53)
        world.found([FAST] * 2, ("default",))
        shorten_leaf(world, world.hosts[1], 300.0)
        async with world.started():
            await everybody_ready(world)
            a, b = world.hosts
            await trio.sleep_until(295)
            assert a.running.peers.up() == [b.identity.peer_id]
            await trio.sleep_until(300.5)
            assert a.running.peers.up() == []
            await trio.sleep(30)
            assert a.running.peers.up() == []

    simulate(53, main)


def test_an_own_identity_elsewhere_with_a_newer_generation_makes_this_one_jump() -> None:
    async def main() -> None:
        async with world_of(54, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            before = a.running.generation
            copy = Host("10.0.0.9", a.identity, a.epochs, SimStorage(), FAST)
            await world.start(copy)
            assert copy.running.generation > before
            a.running.peers.hint(PeerHint(peer_id=None, addresses=(Address(copy.name, PORT),)))
            await until(lambda: a.running.generation > before, timeout_s=5)
            assert a.running.generation > copy.running.generation
            stored = int.from_bytes(a.storage.read(TABLE)[KEY], "big")
            assert stored == a.running.generation, "it is stored before it is used"
            assert a.running.hello().generation == a.running.generation
            await until(lambda: bool(b.running.peers.up()), timeout_s=10)

    simulate(54, main)


def test_meeting_oneself_changes_nothing() -> None:
    async def main() -> None:
        async with world_of(55, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            before = a.running.generation
            a.running.peers.hint(PeerHint(peer_id=None, addresses=(Address(a.name, PORT),)))
            await trio.sleep(5)
            assert a.running.generation == before
            assert a.running.peers.up() == [b.identity.peer_id]

    simulate(55, main)


def test_a_leaving_peer_finishes_what_it_serves_and_says_goodbye() -> None:
    async def main() -> None:
        async with world_of(56, [None, SLOW_DECODE], drain_s=30.0) as world:
            await everybody_ready(world)
            ingress, serving = world.hosts
            events: list[AnswerEvent] = []
            tokens: list[int] = []

            async def ask() -> None:
                answered = await world.ask(ingress, QUESTION, max_tokens=10, events=events)
                tokens.extend(answered.token_ids)
                assert answered.finished.resumes == 0

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: any(isinstance(each, Delta) for each in events), step_s=0.01)
                node = serving.running
                node.leaving.set()
                await until(lambda: node.draining, timeout_s=1, step_s=0.01)
                assert ingress.running.peers.up() == [serving.identity.peer_id]
            assert len(tokens) == 10
            began_s = trio.current_time()
            await until(lambda: not ingress.running.peers.up(), step_s=0.01)
            assert trio.current_time() - began_s < 0.5, "a goodbye, not a silence"
            await until(lambda: serving.node is None, timeout_s=2)

    simulate(56, main)


def test_a_drain_takes_no_longer_than_it_may() -> None:
    async def main() -> None:
        async with world_of(57, [None, SLOW_DECODE], drain_s=2.0) as world:
            await everybody_ready(world)
            ingress, serving = world.hosts

            async def ask() -> None:
                with pytest.raises(RequestError, match="no other can go on"):
                    await world.ask(ingress, QUESTION, max_tokens=4000)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: serving.running.ports.engine.load().running == 1)
                began_s = trio.current_time()
                serving.running.leaving.set()
                await until(lambda: serving.node is None, step_s=0.01)
                assert 1.9 < trio.current_time() - began_s < 3.5

    simulate(57, main)


def test_an_idle_peer_leaves_at_once() -> None:
    async def main() -> None:
        async with world_of(58, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            began_s = trio.current_time()
            b.running.leaving.set()
            await until(lambda: b.node is None, step_s=0.01)
            assert trio.current_time() - began_s < 1
            await until(lambda: not a.running.peers.up(), timeout_s=1)

    simulate(58, main)


@pytest.mark.parametrize(("apart_s", "warned"), [(59.0, False), (61.0, True), (-90.0, True)])
def test_clocks_a_minute_apart_are_told(
    apart_s: float, caplog: pytest.LogCaptureFixture, *, warned: bool
) -> None:
    async def main() -> None:
        async with world_of(59, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            clock = b.running.ports.clock
            assert isinstance(clock, VirtualClock)
            clock.offset_s = apart_s
            caplog.clear()
            a.running.peers.drop_all("test")
            await until(lambda: not a.running.peers.up(), step_s=0.01)
            await until(lambda: bool(a.running.peers.up()))
            lines = [each.getMessage() for each in caplog.records if "clock of" in each.message]
            assert any(b.identity.peer_id in line for line in lines) == warned
            assert all("set one of them" in line for line in lines)

    with caplog.at_level(logging.WARNING, "overlay.node"):
        simulate(59, main)


def test_a_generation_that_cannot_be_stored_is_not_used() -> None:
    async def main() -> None:
        world = World(60)
        world.found([FAST], ("default",))
        world.hosts[0].storage.full = True
        async with world.started():
            raise AssertionError

    with pytest.raises(Exception, match="disk is full"):
        simulate(60, main)


def test_a_start_after_the_clock_went_back_still_has_a_larger_generation() -> None:
    async def main() -> None:
        async with world_of(61, [FAST]) as world:
            (a,) = world.hosts
            high = 2 * a.running.generation
            a.storage.write(TABLE, {KEY: high.to_bytes(8, "big")}, durable=True)
            await world.restart(a)
            assert a.running.generation == high + 1

    simulate(61, main)


def test_metrics_tell_of_peers_and_gossip_and_never_of_prompts() -> None:
    async def main() -> None:
        async with world_of(62, [FAST] * 2) as world:
            await everybody_ready(world)
            a = world.hosts[0]
            await world.ask(a, "zanzibar-marker " * 30)
            await trio.sleep(5)
            text = a.running.metrics.text()[1].decode()
            assert "rhizome_peers_alive 1.0" in text
            assert 'rhizome_requests_total{state="length"} 1.0' in text
            assert "rhizome_open_requests 0.0" in text
            for name in ("ttft_seconds_count 1.0", "prompt_tokens_total", "gossip_bytes_sent"):
                assert f"rhizome_{name}" in text
            assert 'rhizome_gossip_objects_total{result="refused"} 0.0' in text
            objects = text.split('rhizome_gossip_objects_total{result="accepted"} ')[1]
            assert float(objects.split()[0]) > 0
            for secret in ("zanzibar", "default", a.identity.peer_id):
                assert secret not in text

    simulate(62, main)


def test_no_prompt_is_logged_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    marker = "zanzibar-marker"

    async def main() -> None:
        async with world_of(63, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            for host in (a, b):
                for number in range(3):
                    await world.ask(host, f"{marker} {number} " * 40)
            explained = [host.running.decisions.last(None) for host in (a, b)]
            assert all(each is not None for each in explained)
            assert marker not in repr(explained)
            assert all(marker.encode() not in value for host in (a, b) for value in stored(host))

    with caplog.at_level(logging.DEBUG):
        simulate(63, main)
    assert marker not in caplog.text


def stored(host: Host) -> list[bytes]:
    return [value for table in host.storage._written.values() for value in table.values()]
