"""Issuers between whole simulated peers: learnt from whoever shows them, told on, and kept."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from chaos.world import Host, World, until
from overlay.errors import StreamReset
from overlay.transport.connection import Connection
from overlay.transport.frame import ResetCode
from overlay.transport.stream import Stream
from overlay.trust.book import TABLE
from overlay.trust.keeper import CARD_EVERY_S, COMPARE_EVERY_S
from overlay.trust.messages import PROTOCOL, VERSION, Question, encode
from security.authority import Authority
from security.certificate import (
    ISSUER_LIFETIME_S,
    RENEWAL_GRACE_S,
    IssuerKey,
    RootKey,
    make_issuer,
)
from security.errors import Expired, Revoked, UntrustedIssuer
from security.issuer_card import make_card
from security.keys import HostKeys
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, simulate
from tests.security.world import Overlay, forged_leaf

NOW_UNIX_S = 1_800_000_000.0


def knows(host: Host, *issuers: IssuerKey) -> bool:
    return {each.issuer_id for each in issuers} <= host.running.trust.now.issuers.keys()


@asynccontextmanager
async def two_issuers(
    seed: int, hosts: int = 4, *, apart: bool = False
) -> AsyncIterator[tuple[World, Authority, Authority]]:
    """The second half of the hosts was enrolled by another issuer; nobody knows the other's yet."""
    world = World(seed)
    world.found([FAST] * hosts, ("default",))
    assert world.authority is not None
    second = world.another_issuer("second")
    for host in world.hosts[hosts // 2 :]:
        second = world.enrol_again(host, second)
    if apart:
        names = [host.name for host in world.hosts]
        world.network.partition(names[: hosts // 2], names[hosts // 2 :])
    async with world.started():
        yield world, world.authority, second


def test_hosts_of_two_issuers_meet_and_serve_each_other() -> None:
    async def main() -> None:
        async with two_issuers(401) as (world, first, second):
            for host in world.hosts:
                mine = first if host in world.hosts[:2] else second
                assert set(host.running.trust.now.issuers) == {mine.issuer.issuer_id}
            await everybody_ready(world)
            assert all(knows(host, first.issuer, second.issuer) for host in world.hosts)
            # The tenant's steward is the first issuer: its EPOCH was unreadable to the others.
            await until(lambda: all(len(host.running.tenants) == 1 for host in world.hosts))
            answered = await world.ask(world.hosts[0], QUESTION)
            last = world.hosts[3]
            served = next(
                h for h in world.hosts if h.identity.peer_id == answered.finished.served_by
            )
            peer_id = served.identity.peer_id
            if served is not last:
                await until(lambda: last.running.knowledge.prefixes(peer_id) > 0)
            again = await world.ask(last, QUESTION)
            assert again.finished.usage.cached_tokens > 0

    simulate(401, main)


def test_an_issuer_that_nobody_here_belongs_to_is_told_at_once_and_told_on() -> None:
    async def main() -> None:
        world = World(402)
        world.found([FAST] * 3, ("default",))
        a, _, c = world.hosts
        world.network.partition([a.name], [c.name])
        third = world.another_issuer("third").issuer
        async with world.started():
            await until(lambda: [len(host.running.peers.up()) for host in world.hosts] == [1, 2, 1])
            await trio.sleep(5)
            a.running.trust.learn(issuers=[third.der])
            await until(lambda: knows(c, third), timeout_s=1, step_s=0.01)

    simulate(402, main)


def test_it_is_known_again_after_a_restart_before_anybody_is_met() -> None:
    async def main() -> None:
        async with two_issuers(403) as (world, first, second):
            await everybody_ready(world)
            lone = world.hosts[0]
            world.network.partition([lone.name], [host.name for host in world.hosts[1:]])
            node = await world.restart(lone)
            assert knows(lone, first.issuer, second.issuer)
            assert not node.peers.up()

    simulate(403, main)


def test_issuers_of_an_older_folder_count_that_stand_beside_its_revocations() -> None:
    async def main() -> None:
        world = World(404)
        world.found([FAST], ("default",))
        (host,) = world.hosts
        second = world.another_issuer("second").issuer
        row = {b"i" + bytes.fromhex(second.issuer_id): second.der}
        host.storage.write("revocations", row)
        async with world.started():
            assert knows(host, second)
            assert row.items() <= dict(host.storage.read(TABLE)).items()

    simulate(404, main)


def test_issuers_are_exchanged_while_both_are_unconfirmed() -> None:
    async def main() -> None:
        world = World(405)
        world.found([FAST] * 2, ("default",))
        a, b = world.hosts
        third = world.another_issuer("third").issuer

        async def silent(_: Connection, stream: Stream) -> None:
            await stream.receive()
            await trio.sleep_forever()

        async with world.started():
            for host in world.hosts:  # nobody hears what is revoked, so that nobody is confirmed
                host.running.peers._handlers["/rhizome/revocations/1"] = silent
            a.running.trust.learn(issuers=[third.der])
            await until(lambda: knows(b, third), timeout_s=10)
            assert not a.running.confirmation.event.is_set()
            assert not b.running.confirmation.event.is_set()

    simulate(405, main)


def test_a_peer_of_the_version_before_does_no_harm_and_is_not_asked_again() -> None:
    async def main() -> None:
        async with two_issuers(406, 2) as (world, first, second):
            a, b = world.hosts
            del b.running.peers._handlers[PROTOCOL]
            await everybody_ready(world)
            assert knows(a, first.issuer, second.issuer), "from the handshake"
            await trio.sleep(3 * COMPARE_EVERY_S)
            assert a.running.trust._knows == {}, "it is not asked again"
            assert b.identity.peer_id in a.running.peers.up()

    simulate(406, main)


def test_what_the_disk_refuses_is_believed_and_stored_later() -> None:
    async def main() -> None:
        async with two_issuers(407, 2) as (world, _, second):
            a, _ = world.hosts
            a.storage.full = True
            await everybody_ready(world)
            assert knows(a, second.issuer)
            assert second.issuer.der not in dict(a.storage.read(TABLE)).values()
            a.storage.full = False
            await trio.sleep(COMPARE_EVERY_S + 5)
            assert second.issuer.der in dict(a.storage.read(TABLE)).values()

    simulate(407, main)


def test_a_foreign_roots_issuer_is_refused_from_whoever_tells_it() -> None:
    async def main() -> None:
        async with two_issuers(408, 2) as (world, _, _):
            await everybody_ready(world)
            a, b = world.hosts
            to_b = a.running.peers.connection(b.identity.peer_id)
            assert to_b is not None
            before = b.running.trust.now
            body = Question(
                v=VERSION, marks=b"", issuers=[Overlay(9).issuer.der], roots=[], cards=[]
            )
            with pytest.raises(StreamReset) as caught:
                await to_b.call(PROTOCOL, encode(body), timeout_s=5)
            assert caught.value.code == ResetCode.PROTOCOL
            assert b.running.trust.now is before
            assert b.running.trust.refused == 1
            assert a.identity.peer_id in b.running.peers.up(), "an honest peer may be misled"

    simulate(408, main)


def test_hosts_of_a_revoked_issuer_are_put_out_and_the_others_go_on() -> None:
    async def main() -> None:
        async with two_issuers(409) as (world, _, second):
            await everybody_ready(world)
            a, b, c, d = world.hosts
            a.running.revoke(world.revocation(second.issuer.issuer_id))
            await until(lambda: b.running.peers.up() == [a.identity.peer_id])
            await until(lambda: a.running.peers.up() == [b.identity.peer_id])
            with pytest.raises(Revoked):
                a.running.admission.judge(c.identity.leaf)
            assert await world.ask(b, QUESTION)
            # Those two are shown why as they are cut off, and believe each other no more.
            await until(
                lambda: (
                    c.running.standing.is_issuer_revoked and d.running.standing.is_issuer_revoked
                )
            )
            await until(lambda: not c.running.peers.up() and not d.running.peers.up())

    simulate(409, main)


def test_a_leaf_of_an_issuer_whose_certificate_has_ended_is_refused() -> None:
    async def main() -> None:
        async with two_issuers(410, 2) as (world, first, _):
            a, b = world.hosts
            assert isinstance(first.root, RootKey)
            begun = NOW_UNIX_S - ISSUER_LIFETIME_S - 86_400
            ended = make_issuer(first.root, world.entropy("ended").secret, begun)
            stolen = forged_leaf(ended, b.identity.keys, now_s=NOW_UNIX_S)
            judge = a.running.admission.judge
            assert judge(b.identity.leaf, None, b.identity.issuer) == b.identity.peer_id
            with pytest.raises(Expired):
                judge(stolen, None, ended.der)
            with pytest.raises(UntrustedIssuer):
                judge(stolen, None, b.identity.issuer)

    simulate(410, main)


def test_a_thief_of_an_issuers_key_makes_no_host_write_and_tell_without_end() -> None:
    """Each card is as good as the one before and newer: a few are taken, and none once revoked."""

    async def main() -> None:
        async with two_issuers(411) as (world, _, second):
            await everybody_ready(world)
            a, b, *_ = world.hosts
            thief = a.running.peers.connection(b.identity.peer_id)
            assert thief is not None
            key, row = second.issuer, b"c" + bytes.fromhex(second.issuer.issuer_id)
            written: list[bytes] = []

            async def tell(*seqs: int) -> None:
                for seq in seqs:
                    card = make_card(key, [f"192.0.2.66:{seq}"], seq)
                    body = Question(v=VERSION, marks=b"", issuers=[], roots=[], cards=[card])
                    await thief.call(PROTOCOL, encode(body), timeout_s=5)
                    stored = b.storage.read(TABLE).get(row, b"")
                    if stored not in written:
                        written.append(stored)

            began_s = trio.current_time()
            await tell(*range(1, 40))
            assert trio.current_time() - began_s < CARD_EVERY_S
            assert len(written) == 1
            await trio.sleep(CARD_EVERY_S)
            await tell(*range(40, 60))
            assert len(written) == 2
            # The newest one is not lost, where an honest host has it.
            newest = make_card(key, ["192.0.2.1:7402"], 1000)
            a.running.trust.learn(cards=[newest])
            trust = b.running.trust
            await trio.sleep(1)
            assert trust.enrolment_of(key.issuer_id) != ("192.0.2.1:7402",)
            await until(lambda: trust.enrolment_of(key.issuer_id) == ("192.0.2.1:7402",))
            a.running.revoke(world.revocation(key.issuer_id))
            await until(lambda: b.running.revocations.revokes(key.issuer_id))
            await trio.sleep(CARD_EVERY_S)
            grown = trust._grown
            await tell(*range(2000, 2003))
            assert written[2:] == [newest]
            assert trust._grown is grown, "nobody is told anything"

    simulate(411, main)


def test_marks_of_cards_that_are_out_of_date_are_not_kept() -> None:
    async def main() -> None:
        async with two_issuers(412) as (world, first, _):
            await everybody_ready(world)
            trust = world.hosts[0].running.trust
            for number in range(20):
                trust.tell_enrolment(first.issuer, [f"192.0.2.1:{7000 + number}"])
                await trio.sleep(2)
            for known in trust._knows.values():
                assert known <= trust.book.marks()

    simulate(412, main)


def test_what_is_noted_of_hosts_that_are_gone_for_good_is_dropped() -> None:
    async def main() -> None:
        world = World(413)
        world.found([FAST] * 2, ("default",))
        a, b = world.hosts
        ends = {
            "ended": int(NOW_UNIX_S - RENEWAL_GRACE_S - 60),
            "late": int(NOW_UNIX_S - RENEWAL_GRACE_S + 3600),
            "unwritten": 0,
            "revoked": int(NOW_UNIX_S + 3600),
        }
        peers = {name: HostKeys.generate(world.entropy(name).secret).peer_id for name in ends}
        rows = {b"t" + peers[name].encode(): struct.pack(">IQ", 2, ends[name]) for name in ends}
        a.storage.write(TABLE, rows)
        revoked = world.revocation(peers["revoked"])
        async with world.started([a]):
            a.running.revoke(revoked)
            await world.start(b)
            await until(lambda: b.identity.peer_id in a.running.trust.book.taken)
            kept = {peers["late"], peers["unwritten"], b.identity.peer_id}
            assert set(a.running.trust.book.taken) == kept
            stored = {key[1:].decode() for key in a.storage.read(TABLE) if key[:1] == b"t"}
            assert stored == kept

    simulate(413, main)
