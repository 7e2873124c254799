"""After a start a peer takes no part before somebody has told it who is revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from chaos.world import Host, World, until, world_of
from overlay.address import Address
from overlay.confirmation import Confirmation
from overlay.control.handler import waits_for
from overlay.errors import RostersUnheard
from overlay.forward import PROTOCOL as FORWARD_PROTOCOL
from overlay.forward import ForwardRequest, Refuse, decode_answer, encode
from overlay.steward import Steward
from overlay.tenants import TenantBook
from security.enrolment import make_join_request, open_admission
from security.errors import Refused
from security.keys import HostKeys
from security.peer_id import PeerId
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, simulate
from tests.security.world import seeded

NOW_UNIX_S = 1_800_000_000.0
LONG_S = 300.0
FAR = Address("10.0.0.9", 1)


@asynccontextmanager
async def apart(seed: int, hosts: int) -> AsyncIterator[World]:
    """Running hosts none of which reaches any other."""
    world = World(seed)
    world.found([FAST] * hosts, ("default",))
    cut(world)
    async with world.started():
        yield world


def cut(world: World) -> None:
    names = [host.name for host in world.hosts]
    for place, name in enumerate(names[:-1]):
        world.network.partition([name], names[place + 1 :])


def test_an_overlay_of_one_confirms_itself() -> None:
    async def main() -> None:
        async with world_of(91, [FAST]) as world:
            assert world.hosts[0].running.confirmation.event.is_set()

    simulate(91, main)


def test_a_host_that_expects_others_does_not_confirm_itself_however_long_it_waits() -> None:
    async def main() -> None:
        async with world_of(92, [FAST], expects_others=True) as world:
            (a,) = world.hosts
            await trio.sleep(LONG_S)
            assert not a.running.confirmation.event.is_set()
            assert waits_for(a.running) == []

    simulate(92, main)


def test_all_started_at_once_confirm_each_other_with_their_first_connections() -> None:
    async def main() -> None:
        async with world_of(93, [FAST] * 4) as world:
            await until(
                lambda: all(host.running.confirmation.event.is_set() for host in world.hosts),
                timeout_s=2,
                step_s=0.01,
            )
            await everybody_ready(world)
            for host in world.hosts:
                world.kill(host)
            await until(lambda: all(host.node is None for host in world.hosts))
            for host in world.hosts:
                await world.start(host)
            await until(
                lambda: all(host.running.confirmation.event.is_set() for host in world.hosts),
                timeout_s=5,
                step_s=0.01,
            )

    simulate(93, main)


def test_an_unconfirmed_peer_serves_its_own_clients_alone() -> None:
    async def main() -> None:
        async with apart(94, 3) as world:
            await trio.sleep(LONG_S)
            ids = sorted(host.identity.peer_id for host in world.hosts)
            for host in world.hosts:
                node = host.running
                assert not node.confirmation.event.is_set()
                assert waits_for(node) == [each for each in ids if each != node.peer_id]
                answered = await world.ask(host, QUESTION)
                assert answered.finished.served_by == node.peer_id
                assert "rhizome_confirmed 0.0" in node.metrics.text()[1].decode()
            world.network.heal()
            await everybody_ready(world)
            assert all(host.running.confirmation.event.is_set() for host in world.hosts)
            assert waits_for(world.hosts[0].running) == []

    simulate(94, main)


def test_before_it_is_confirmed_a_peer_takes_no_gossip_tells_none_and_serves_no_forward() -> None:
    async def main() -> None:
        async with world_of(95, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts

            async def never(*_: object) -> None:
                await trio.sleep_forever()

            # Whoever is there and tells nothing of revocations confirms nobody.
            b.running.peers._handlers = {
                **b.running.peers._handlers,
                "/rhizome/revocations/1": never,
            }
            await world.restart(a)
            node = a.running
            await until(lambda: node.peers.up() == [b.identity.peer_id])
            await trio.sleep(LONG_S)
            assert not node.confirmation.event.is_set()
            assert node.knowledge.models(b.identity.peer_id) == ()
            assert node.knowledge.sent_bytes == 0
            assert (
                node.generation
                > b.running.knowledge.gossip.origins.known[a.identity.peer_id].record.generation
            ), "b has heard nothing of this start"
            connection = b.running.peers.connection(a.identity.peer_id)
            assert connection is not None
            (epoch,) = b.running.tenants
            request = ForwardRequest(
                v=1,
                request_id="0a" * 16,
                attempt=0,
                tenant=epoch.tenant_id,
                token_id="test",
                chat=True,
                model="toy",
                body=b'{"messages": [{"role": "user", "content": "hi"}]}',
                token_ids=None,
                emitted=[],
                seed=1,
                deadline_ms=5000,
                hops=1,
            )
            data = await connection.call(FORWARD_PROTOCOL, encode(request), timeout_s=5)
            assert decode_answer(data) == Refuse(code="unconfirmed")
            served = await world.ask(a, QUESTION)
            assert served.finished.served_by == a.identity.peer_id

    simulate(95, main)


def test_a_copy_older_than_a_revocation_takes_no_part_before_it_is_told_and_then_enforces() -> None:
    async def main() -> None:
        async with world_of(96, [FAST] * 4) as world:
            await everybody_ready(world)
            restored, bad, c, d = world.hosts
            world.kill(restored)
            await until(lambda: restored.node is None)
            c.running.revoke(world.revocation(bad.identity.peer_id))
            await until(lambda: d.running.revocations.revokes(bad.identity.peer_id), timeout_s=5)
            world.network.partition([restored.name], [bad.name, c.name, d.name])
            node = await world.start(restored)
            assert not node.revocations.statements
            await trio.sleep(LONG_S)
            assert not node.confirmation.event.is_set()
            world.network.heal()
            world.network.partition([restored.name], [bad.name])
            await until(lambda: node.confirmation.event.is_set(), timeout_s=30, step_s=0.01)
            assert node.revocations.revokes(bad.identity.peer_id)
            world.network.heal()
            for _ in range(20):
                await trio.sleep(1)
                assert bad.identity.peer_id not in node.peers.up()
            assert len(node.peers.up()) == 2

    simulate(96, main)


def test_who_turns_out_to_be_revoked_confirms_nobody() -> None:
    async def main() -> None:
        async with world_of(97, [FAST] * 3) as world:
            await everybody_ready(world)
            a, bad, c = world.hosts
            world.kill(a)
            await until(lambda: a.node is None)
            # The revoked host has heard of it itself, and says so to whoever asks.
            world.network.partition([bad.name], [c.name])
            bad.running.revoke(world.revocation(bad.identity.peer_id))
            world.network.partition([a.name], [c.name])
            node = await world.start(a)
            await until(lambda: node.revocations.revokes(bad.identity.peer_id), timeout_s=30)
            await trio.sleep(LONG_S)
            assert not node.confirmation.event.is_set()
            assert node.peers.up() == []
            world.network.heal()
            await until(lambda: node.confirmation.event.is_set(), timeout_s=30)

    simulate(97, main)


def test_a_host_whose_last_other_host_is_revoked_is_an_overlay_of_one() -> None:
    async def main() -> None:
        async with apart(98, 2) as world:
            a, gone = world.hosts
            await trio.sleep(10)
            assert not a.running.confirmation.event.is_set()
            a.running.revoke(world.revocation(gone.identity.peer_id))
            assert a.running.confirmation.event.is_set()
            await world.restart(a)
            assert a.running.confirmation.event.is_set()

    simulate(98, main)


def test_an_issuers_host_that_is_no_member_any_more_still_knows_of_those_it_enrolled() -> None:
    revoked: set[str] = set()
    me, other = (HostKeys.generate(seeded(n)).peer_id for n in (1, 2))

    def begun(*enrolled: PeerId) -> Confirmation:
        return Confirmation(
            me=me,
            expects_others=False,
            tenants=TenantBook(),
            heard_of=tuple,
            enrolled=lambda: enrolled,
            is_revoked=revoked.__contains__,
            on_confirmed=lambda: None,
        )

    alone, founder = begun(me), begun(me, other)
    for each in (alone, founder):
        each.look()
    assert alone.event.is_set()
    assert not founder.event.is_set()
    assert founder.others() == [other]
    revoked.add(other)
    founder.look()
    assert founder.event.is_set()


def steward_of(host: Host) -> Steward:
    desk = host.running.desk
    assert desk is not None
    return Steward(desk=desk, keys=host.identity.keys, secret=host.running.ports.entropy.secret)


def test_an_issuer_changes_no_roster_before_others_have_had_their_say_on_it() -> None:
    async def main() -> None:
        async with world_of(100, [FAST] * 3) as world:
            await everybody_ready(world)
            issuer, b, c = world.hosts
            world.issue_at(issuer)
            world.network.partition([issuer.name], [b.name, c.name])
            await world.restart(issuer)
            await trio.sleep(LONG_S)
            with pytest.raises(RostersUnheard, match="rhizome revoke"):
                steward_of(issuer).rotate("default", hard=False)
            desk = issuer.running.desk
            assert desk is not None
            ticket = desk.invite([], [FAR], 600)
            keys = HostKeys.generate(seeded(5))
            answer = await desk.admit(make_join_request(keys, ticket), FAR)
            with pytest.raises(Refused, match="cannot answer now"):
                open_admission(answer, ticket, keys, issuer.running.ports.clock.unix_s())
            world.network.heal()
            await until(lambda: issuer.running.confirmation.event.is_set(), timeout_s=60)
            await trio.sleep(1)
            assert steward_of(issuer).rotate("default", hard=False).epoch == 2
            answer = await desk.admit(make_join_request(keys, ticket), FAR)
            assert open_admission(answer, ticket, keys, issuer.running.ports.clock.unix_s())

    simulate(100, main)


def test_an_issuer_whose_other_hosts_are_gone_for_good_goes_on_once_they_are_revoked() -> None:
    async def main() -> None:
        async with apart(101, 2) as world:
            issuer, gone = world.hosts
            world.issue_at(issuer)
            await world.restart(issuer)
            with pytest.raises(RostersUnheard):
                steward_of(issuer).rotate("default", hard=False)
            desk = issuer.running.desk
            assert desk is not None
            desk.revoke(gone.identity.peer_id, "gone")
            assert steward_of(issuer).rotate("default", hard=False).epoch == 2

    simulate(101, main)


def test_an_issuer_that_was_alone_waits_for_nobody() -> None:
    async def main() -> None:
        async with world_of(102, [FAST]) as world:
            (issuer,) = world.hosts
            world.issue_at(issuer)
            await world.restart(issuer)
            desk = issuer.running.desk
            assert desk is not None
            for n in range(2):  # the first one has not begun to run when the second one joins
                ticket = desk.invite([], [FAR], 600)
                keys = HostKeys.generate(seeded(n))
                answer = await desk.admit(make_join_request(keys, ticket), FAR)
                assert open_admission(answer, ticket, keys, issuer.running.ports.clock.unix_s())

    simulate(102, main)


def test_confirming_costs_a_start_no_time_that_shows() -> None:
    async def main() -> None:
        async with world_of(99, [FAST] * 3) as world:
            began_s = trio.current_time()
            await until(
                lambda: all(len(h.running.peers.up()) == 2 for h in world.hosts), step_s=0.01
            )
            up_s = trio.current_time()
            await until(
                lambda: all(h.running.confirmation.event.is_set() for h in world.hosts), step_s=0.01
            )
            assert trio.current_time() - up_s < 0.1
            assert up_s - began_s < 2

    simulate(99, main)
