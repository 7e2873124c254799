"""Revocations between whole simulated peers: told at once, enforced, kept, and told on."""

from __future__ import annotations

import logging
from contextlib import suppress

import msgspec
import pytest
import trio

from chaos.world import Host, World, until, world_of
from inference.toy import ToyConfig
from overlay.control.handler import status_of
from overlay.errors import NotAdmitted, OverlayError, RequestError, StreamReset
from overlay.ports import PeerHint
from overlay.refusals import Refusals
from overlay.request import AnswerEvent, Delta
from overlay.revocation.exchange import TABLE
from overlay.revocation.keeper import COMPARE_EVERY_S
from overlay.revocation.messages import (
    PROTOCOL,
    VERSION,
    Compare,
    Tell,
    decode_part,
    decode_taken,
    encode,
)
from overlay.transport.frame import ResetCode
from security.certificate import make_issuer
from security.errors import LimitExceeded
from security.keys import HostKeys
from security.revocation import make_revocation
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, nothing_runs, simulate
from tests.security.world import seeded

NOW_UNIX_S = 1_800_000_000.0
ENFORCED_S = 5.0
ENDLESS = ToyConfig(slots=2, prefill_tokens_per_s=5000.0, decode_s_per_token=0.5, end_every=0)


def has_put_out(host: Host, bad: Host) -> bool:
    node = host.running
    return (
        node.revocations.revokes(bad.identity.peer_id)
        and bad.identity.peer_id not in node.peers.up()
        and bad.identity.peer_id not in node.knowledge.gossip.origins.known
    )


def line(world: World) -> None:
    """Each host reaches only those beside it."""
    names = [host.name for host in world.hosts]
    for place, name in enumerate(names):
        far = names[place + 2 :]
        if far:
            world.network.partition([name], far)


def test_every_reachable_peer_enforces_what_one_was_told_on_open_connections_too() -> None:
    async def main() -> None:
        async with world_of(71, [FAST] * 5) as world:
            await everybody_ready(world)
            issuer, bad, *others = world.hosts
            open_one = issuer.running.peers.connection(bad.identity.peer_id)
            issuer.running.revoke(world.revocation(bad.identity.peer_id))
            everybody = [issuer, *others]
            assert open_one is not None
            assert open_one.closed == "not admitted", "at once"
            await until(
                lambda: all(has_put_out(host, bad) for host in everybody),
                timeout_s=ENFORCED_S,
                step_s=0.01,
            )
            digests = {host.running.hello().revocations_digest for host in everybody}
            assert len(digests) == 1
            await trio.sleep(30)
            assert all(has_put_out(host, bad) for host in everybody)

    simulate(71, main)


def test_it_is_told_on_where_there_is_no_direct_link() -> None:
    async def main() -> None:
        world = World(72)
        world.found([FAST] * 4, ("default",))
        line(world)
        async with world.started():
            await until(lambda: [len(h.running.peers.up()) for h in world.hosts] == [1, 2, 2, 1])
            first, *_, last = world.hosts
            first.running.revoke(world.revocation("0a" * 16))
            await until(
                lambda: last.running.revocations.revokes("0a" * 16),
                timeout_s=ENFORCED_S,
                step_s=0.01,
            )

    simulate(72, main)


def test_what_two_issuers_say_on_two_sides_of_a_partition_holds_on_both_after_it() -> None:
    async def main() -> None:
        async with world_of(73, [FAST] * 4) as world:
            await everybody_ready(world)
            assert world.authority is not None
            a, bad_there, b, bad_here = world.hosts
            second = make_issuer(world.authority.root, world.entropy("second").secret, NOW_UNIX_S)
            one_side, other_side = [a.name, bad_there.name], [b.name, bad_here.name]
            world.network.partition(one_side, other_side)
            await until(lambda: a.running.peers.up() == [bad_there.identity.peer_id])
            a.running.revoke(world.revocation(bad_here.identity.peer_id))
            by_second = make_revocation(second, bad_there.identity.peer_id, NOW_UNIX_S)
            b.running.revoke([by_second], [second.der])
            await trio.sleep(5)
            assert not a.running.revocations.revokes(bad_there.identity.peer_id)
            world.network.heal()
            await until(
                lambda: all(
                    has_put_out(host, bad) for host in (a, b) for bad in (bad_here, bad_there)
                ),
                timeout_s=20,
            )
            assert b.identity.peer_id in a.running.peers.up()

    simulate(73, main)


def test_a_restart_forgets_nothing() -> None:
    async def main() -> None:
        async with world_of(74, [FAST] * 3) as world:
            await everybody_ready(world)
            a, bad, _ = world.hosts
            a.running.revoke(world.revocation(bad.identity.peer_id))
            await world.restart(a)
            assert a.running.revocations.revokes(bad.identity.peer_id)
            await trio.sleep(10)
            assert bad.identity.peer_id not in a.running.peers.up()

    simulate(74, main)


def test_a_full_disk_delays_storing_and_not_enforcing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world_of(75, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            b.storage.fill("test")
            a.running.revoke(world.revocation("0a" * 16))
            await until(lambda: b.running.revocations.revokes("0a" * 16), timeout_s=ENFORCED_S)
            assert not b.storage.read(TABLE)
            assert "enforced and not stored" in caplog.text
            b.storage.free("test")
            await trio.sleep(2 * COMPARE_EVERY_S)
            assert len(b.storage.read(TABLE)) == 2

    simulate(75, main)


@pytest.mark.parametrize("bad", ["garbage", "version", "forged", "marks"])
def test_what_is_no_question_or_statement_changes_nothing(bad: str) -> None:
    async def main() -> None:
        async with world_of(76, [FAST] * 3) as world:
            await everybody_ready(world)
            a, b, c = world.hosts
            (true,) = world.revocation(c.identity.peer_id)
            forged = true[:-1] + b"\x00"
            bodies = {
                "garbage": b"\xc1",
                "version": encode(Tell(v=VERSION + 1, issuers=[], statements=[])),
                "forged": encode(Tell(v=VERSION, issuers=[], statements=[forged])),
                "marks": encode(Compare(v=VERSION, digest=bytes(15) + b"1", marks=b"x")),
            }
            connection = a.running.peers.connection(b.identity.peer_id)
            assert connection is not None
            with pytest.raises(StreamReset) as caught:
                await connection.call(PROTOCOL, bodies[bad], timeout_s=5)
            assert caught.value.code == ResetCode.PROTOCOL
            assert b.running.keeper.refused == (bad == "forged")
            await trio.sleep(5)
            assert b.running.revocations.statements == frozenset()
            assert len(b.running.peers.up()) == 2
            # The same step with a statement that the issuer did sign works.
            good = Tell(v=VERSION, issuers=[], statements=world.revocation("0a" * 16))
            data = await connection.call(PROTOCOL, encode(good), timeout_s=5)
            assert decode_taken(data).digest == b.running.revocations.digest
            assert b.running.revocations.revokes("0a" * 16)

    simulate(76, main)


def test_whoever_asks_without_end_is_refused_and_others_are_not() -> None:
    async def main() -> None:
        async with world_of(77, [FAST] * 3) as world:
            await everybody_ready(world)
            a, b, c = world.hosts
            ids = [f"{number:032x}" for number in range(400)]
            b.running.revoke(world.revocation(*ids))
            await until(lambda: len(a.running.revocations.ids) == len(ids), timeout_s=10)
            question = encode(Compare(v=VERSION, digest=b"1" * 16, marks=bytes(12)))
            connection = a.running.peers.connection(b.identity.peer_id)
            assert connection is not None
            refused = None
            for _ in range(200):
                try:
                    async with connection.open(PROTOCOL, question) as stream:
                        while data := await stream.receive():
                            decode_part(data)
                except StreamReset as error:
                    refused = error.code
                    break
            assert refused == ResetCode.OVERLOADED
            c.running.revoke(world.revocation("0a" * 16))
            await until(lambda: b.running.revocations.revokes("0a" * 16), timeout_s=ENFORCED_S)
            await until(lambda: a.running.revocations.revokes("0a" * 16), timeout_s=ENFORCED_S)

    simulate(77, main)


def test_an_issuer_that_signs_without_end_silences_no_other_and_keeps_nobody_unconfirmed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("overlay.revocation.exchange.REVOKED_MAX", 3)

    async def main() -> None:
        async with world_of(79, [FAST] * 2) as world:
            await everybody_ready(world)
            assert world.authority is not None
            a, b = world.hosts
            stolen = make_issuer(world.authority.root, world.entropy("second").secret, NOW_UNIX_S)
            flood = [make_revocation(stolen, str(number), NOW_UNIX_S) for number in range(8)]
            for host, part in ((a, flood[:4]), (b, flood[4:])):
                with pytest.raises(LimitExceeded, match="revoke the issuer"):
                    host.running.revoke(part, [stolen.der])
            a.running.revoke(world.revocation("0a" * 16, stolen.issuer_id))
            await until(lambda: b.running.revocations.revokes("0a" * 16), timeout_s=ENFORCED_S)
            assert b.running.revocations.revokes(stolen.issuer_id)
            await world.restart(a)
            await until(lambda: a.running.confirmation.event.is_set(), timeout_s=ENFORCED_S)
            assert len(a.running.revocations.statements) == 5
            assert "if that was not its owner" in caplog.text

    simulate(79, main)


def test_an_answer_that_goes_on_behind_its_end_is_not_taken_in() -> None:
    async def main() -> None:
        async with world_of(78, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            part = msgspec.msgpack.encode(
                {
                    "type": "part",
                    "digest": bytes(16),
                    "issuers": [],
                    "statements": [],
                    "more": False,
                }
            )

            class Endless:
                async def __call__(self, connection: object, stream: object) -> None:
                    for _ in range(10):
                        await stream.send(part)  # type: ignore[attr-defined]
                    await stream.finish()  # type: ignore[attr-defined]

            b.running.peers._handlers = {**b.running.peers._handlers, PROTOCOL: Endless()}
            b.running.peers.drop_all("again")
            await until(lambda: not a.running.peers.up(), step_s=0.01)
            await until(lambda: bool(a.running.peers.up()))
            connection = a.running.peers.connection(b.identity.peer_id)
            assert connection is not None
            with pytest.raises(OverlayError, match="behind its end"):
                await a.running.keeper._ask(connection, b.identity.peer_id, b"1" * 16)

    simulate(78, main)


def test_a_forward_under_way_of_a_peer_that_is_revoked_ends() -> None:
    async def main() -> None:
        async with world_of(79, [None, ENDLESS, FAST], policy="random") as world:
            await everybody_ready(world)
            bad, serving, _ = world.hosts
            with trio.move_on_after(30):
                async with trio.open_nursery() as nursery:
                    for number in range(4):
                        nursery.start_soon(ask_and_fail, world, bad, f"{number} {QUESTION}")
                    await until(lambda: serving.running.ports.engine.load().running > 0)
                    serving.running.revoke(world.revocation(bad.identity.peer_id))
                    await until(lambda: nothing_runs(serving), timeout_s=2, step_s=0.01)
                    nursery.cancel_scope.cancel()

    simulate(79, main)


async def ask_and_fail(world: World, host: Host, text: str) -> None:
    try:
        await world.ask(host, text, max_tokens=400)
    except OverlayError as error:
        logging.getLogger(__name__).info("as expected: %s", error)


def test_a_revoked_issuers_tenants_are_served_no_more() -> None:
    async def main() -> None:
        async with world_of(80, [FAST] * 2) as world:
            await everybody_ready(world)
            assert world.authority is not None
            a, _ = world.hosts
            assert len(a.running.tenants) == 1
            a.running.revoke(world.revocation(world.authority.issuer.issuer_id))
            assert len(a.running.tenants) == 0
            assert a.running.standing.is_issuer_revoked
            assert not a.running.knowledge.gossip.epochs.known()
            await world.restart(a)
            assert len(a.running.tenants) == 0, "nor after a restart, whatever the folder holds"

    simulate(80, main)


def test_a_forward_in_the_name_of_a_revoked_token_is_refused_by_who_knows() -> None:
    async def main() -> None:
        async with world_of(81, [None, FAST]) as world:
            await everybody_ready(world)
            ingress, serving = world.hosts
            await world.ask(ingress, QUESTION)
            serving.running.forwards._is_revoked = {"test"}.__contains__
            with pytest.raises(OverlayError):
                await world.ask(ingress, QUESTION)
            assert serving.running.forwards.counters.refused == 1

    simulate(81, main)


def test_an_answer_under_way_ends_when_its_token_is_revoked() -> None:
    async def main() -> None:
        async with world_of(83, [ENDLESS, ENDLESS]) as world:
            await everybody_ready(world)
            ingress, _ = world.hosts
            events: list[AnswerEvent] = []

            async def revoke_it() -> None:
                await until(lambda: sum(isinstance(each, Delta) for each in events) > 2)
                ingress.running.ingress._is_revoked = {"test"}.__contains__

            async with trio.open_nursery() as nursery:
                nursery.start_soon(revoke_it)
                with pytest.raises(RequestError, match="the token is revoked") as caught:
                    await world.ask(ingress, QUESTION, max_tokens=400, events=events)
            assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
            await until(lambda: all(nothing_runs(host) for host in world.hosts), timeout_s=3)

    simulate(83, main)


def test_metrics_count_statements() -> None:
    async def main() -> None:
        async with world_of(82, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            a.running.revoke(world.revocation("0a" * 16))
            await until(lambda: b.running.revocations.revokes("0a" * 16))
            text = b.running.metrics.text()[1].decode()
            assert "rhizome_revocations 1.0" in text
            assert "rhizome_confirmed 1.0" in text
            assert "0a" * 16 not in text

    simulate(82, main)


def test_who_is_cut_off_is_shown_the_statement_that_revokes_it_and_keeps_it() -> None:
    async def main() -> None:
        async with world_of(72, [FAST] * 3) as world:
            await everybody_ready(world)
            issuer, bad, other = world.hosts
            statements = world.revocation(bad.identity.peer_id)
            issuer.running.revoke(statements)
            await until(lambda: bad.running.standing.is_revoked, timeout_s=ENFORCED_S, step_s=0.01)
            assert bad.running.revocations.statements == frozenset(statements)
            await until(lambda: not bad.running.peers.up(), timeout_s=ENFORCED_S)
            await world.restart(bad)
            assert bad.running.standing.is_revoked
            assert has_put_out(issuer, bad)
            assert has_put_out(other, bad)

    simulate(72, main)


def test_nothing_of_who_is_cut_off_is_taken_in_while_it_is_shown_why() -> None:
    """It says on, as fast as it can, that somebody else is revoked."""

    async def main() -> None:
        async with world_of(73, [FAST] * 3) as world:
            await everybody_ready(world)
            issuer, bad, other = world.hosts
            mine = bad.running.peers.connection(issuer.identity.peer_id)
            assert mine is not None
            statement, late = world.revocation(bad.identity.peer_id, other.identity.peer_id)

            async def say_on() -> None:
                while mine.closed is None:
                    message = Tell(v=VERSION, issuers=[], statements=[late])
                    with suppress(OverlayError):
                        await mine.call(PROTOCOL, encode(message), timeout_s=1)
                    await trio.sleep(0.001)

            async with trio.open_nursery() as nursery:
                issuer.running.revoke([statement])
                nursery.start_soon(say_on)
            await until(lambda: bad.running.standing.is_revoked, timeout_s=ENFORCED_S, step_s=0.01)
            await trio.sleep(5)
            assert issuer.running.revocations.statements == {statement}

    simulate(73, main)


def test_a_revoked_host_that_is_announced_for_long_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with world_of(77, [FAST] * 2) as world:
            await everybody_ready(world)
            issuer, bad = world.hosts
            issuer.running.revoke(world.revocation(bad.identity.peer_id))
            hint = PeerHint(peer_id=bad.identity.peer_id, addresses=bad.running.addresses)
            issuer.running.peers.hint(hint)
            before = issuer.running.peers.failed_dials
            await until(lambda: issuer.running.peers.failed_dials > before + 5, timeout_s=600)

    with caplog.at_level(logging.WARNING):
        simulate(77, main)
    refused = [each.getMessage() for each in caplog.records if "refused the peer" in each.msg]
    assert len(refused) == len(set(refused)) > 0


def test_a_host_that_was_away_is_refused_and_tells_its_owner_whose_word_that_is() -> None:
    async def main() -> None:
        async with world_of(74, [FAST] * 3) as world:
            await everybody_ready(world)
            issuer, bad, other = world.hosts
            world.kill(bad)
            await until(lambda: bad.node is None)
            issuer.running.revoke(world.revocation(bad.identity.peer_id))
            await until(lambda: other.running.revocations.revokes(bad.identity.peer_id))
            node = await world.start(bad)
            for host in (issuer, other):  # nobody tells it where they are
                hint = PeerHint(peer_id=host.identity.peer_id, addresses=host.running.addresses)
                node.peers.hint(hint)
            await until(lambda: bool(node.peers.refusals.posture()))
            ((name, words),) = node.peers.refusals.posture()
            assert name == "refused"
            assert "so they say, and nothing that an issuer has signed" in words
            assert not node.standing.is_revoked
            status = status_of(node, ())
            assert (name, words) in status.posture
            assert not status.revoked
            node.revoke(sorted(issuer.running.revocations.statements))
            status = status_of(node, ())
            assert status.revoked
            assert name not in dict(status.posture)  # it is signed now

    simulate(74, main)


def test_what_a_peer_says_of_being_revoked_counts_until_it_takes_the_host_in() -> None:
    refusals, peer_ids = Refusals(), [HostKeys.generate(seeded(n)).peer_id for n in range(5)]
    for peer_id in peer_ids:
        refusals.refused(peer_id, NotAdmitted("Expired"))
    assert refusals.posture() == []
    for peer_id in peer_ids:
        refusals.refused(peer_id, NotAdmitted("Revoked"))
    assert "and 2 more" in refusals.posture()[0][1]
    for peer_id in peer_ids:
        refusals.taken_in(peer_id)
    assert refusals.posture() == []
