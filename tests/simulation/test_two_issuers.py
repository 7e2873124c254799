"""Two issuers on whole peers: they revoke on two sides of a partition, and one replaces another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from chaos.world import PORT, Host, World, until
from overlay.address import Address
from overlay.control.adopting import adopt
from overlay.control.handler import ControlHandler
from overlay.control.messages import Adopt, Command, CreateToken, Invite
from overlay.control.tenant_messages import (
    AddMember,
    CreateTenant,
    ListTenants,
    RemoveMember,
    RotateTenant,
)
from overlay.errors import ConfigError, RequestError
from overlay.issuer import IssuerDesk
from overlay.renewer import PROTOCOL as RENEW
from overlay.steward import Steward
from overlay.transport.hello import FEATURE_ISSUES
from security.certificate import parse_leaf
from security.epoch import make_epoch
from security.errors import Revoked, UnknownHost, UntrustedIssuer
from security.keys import HostKeys
from security.renewal import open_renewal
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, simulate

BACK_S = 60.0
"""Hosts whose issuer was revoked are back under another one within this."""

WHAT_AN_ISSUER_SIGNS: list[Command] = [
    Invite(tenants=["lab"], expires_s=60.0),
    CreateToken(tenant="lab", name="web", expires_s=60.0),
    CreateTenant(name="another"),
    AddMember(tenant="lab", peer="12D3"),
    RemoveMember(tenant="lab", peer="12D3"),
    RotateTenant(tenant="lab"),
    Adopt(peers=["12D3"]),
]


def desk_of(host: Host) -> IssuerDesk:
    desk = host.running.desk
    assert desk is not None
    return desk


def steward_of(host: Host) -> Steward:
    node = host.running
    return Steward(desk=desk_of(host), keys=node.identity.keys, secret=node.ports.entropy.secret)


def issuer_id(host: Host) -> str:
    """The issuer of a host's certificate."""
    return parse_leaf(host.running.identity.leaf).issuer_id


def adopted(host: Host, *others: Host) -> None:
    """This issuer's host takes others into its table."""
    wanted = sorted(ids(*others))
    reply = adopt(host.running, desk_of(host), Adopt(peers=wanted))
    assert (reply.adopted, reply.already) == (wanted, [])


def up(host: Host) -> set[str]:
    return set(host.running.peers.up())


def ids(*hosts: Host) -> set[str]:
    return {host.identity.peer_id for host in hosts}


@asynccontextmanager
async def two_issuers(seed: int, hosts: int) -> AsyncIterator[World]:
    """Host 0 is the first issuer's, host 1 the second's, which has its own certificate from that.

    All others were enrolled by the first one.
    """
    world = World(seed)
    world.found([FAST] * hosts, ("default",))
    world.issue_at(world.hosts[0])
    second = world.another_issuer("second")
    epochs = world.hosts[1].epochs
    second = world.enrol_again(world.hosts[1], second)
    world.hosts[1].epochs = epochs
    world.issue_at(world.hosts[1], second)
    async with world.started():
        await everybody_ready(world)
        await until(lambda: all(len(host.running.tenants) == 1 for host in world.hosts))
        yield world


def test_what_two_issuers_revoke_in_a_partition_holds_on_both_sides_after_it() -> None:
    async def main() -> None:
        async with two_issuers(501, 6) as world:
            first, second, bad_there, bad_here, left, right = world.hosts
            one_side = [first.name, bad_there.name, left.name]
            other_side = [second.name, bad_here.name, right.name]
            world.network.partition(one_side, other_side)
            await until(lambda: up(first) == ids(bad_there, left))
            await until(lambda: up(second) == ids(bad_here, right))
            desk_of(first).revoke(bad_here.identity.peer_id, "seen here")
            desk_of(second).revoke(bad_there.identity.peer_id, "seen there")
            await until(lambda: left.running.revocations.revokes(bad_here.identity.peer_id))
            await until(lambda: right.running.revocations.revokes(bad_there.identity.peer_id))
            assert not left.running.revocations.revokes(bad_there.identity.peer_id)
            world.network.heal()
            honest = [first, second, left, right]
            await until(lambda: all(up(host) == ids(*honest) - ids(host) for host in honest))
            for host in honest:
                assert host.running.revocations.ids == set(ids(bad_here, bad_there))
            digests = {host.running.revocations.digest for host in honest}
            assert len(digests) == 1
            for host in (first, second):  # each still has what the other said after a restart
                await world.restart(host)
                assert host.running.revocations.ids == set(ids(bad_here, bad_there))

    simulate(501, main)


def test_a_revoked_issuer_goes_with_its_hosts_and_tenants_and_the_others_go_on() -> None:
    async def main() -> None:
        async with two_issuers(502, 4) as world:
            first, second, c, d = world.hosts
            made = steward_of(second).create("lab", public=False, empty=False)
            await until(lambda: second.running.tenants.get(made.tenant_id) is not None)
            token = desk_of(second).create_token("lab", "web", 600.0)
            assert first.running.principals.of_token(token.text).tenant == made.tenant_id
            stolen, honest = issuer_id(second), [first, c, d]
            leaf, old = second.running.identity.leaf, issuer_id(first)
            desk_of(first).revoke(stolen, "its key is in wrong hands")
            await until(lambda: all(h.running.revocations.revokes(stolen) for h in honest))
            for host in honest:
                with pytest.raises(Revoked):
                    host.running.admission.judge(leaf)
                with pytest.raises(RequestError, match="revoked"):
                    host.running.principals.of_token(token.text)
            assert await world.ask(c, QUESTION)
            await until(lambda: second.running.revocations.revokes(stolen))
            control = ControlHandler(
                second.running, desk=desk_of(second), enrolment=(), http=lambda: ("http://h",)
            )
            before = desk_of(second).authority
            for command in WHAT_AN_ISSUER_SIGNS:
                with pytest.raises(ConfigError, match="issuer is revoked"):
                    control._reply(command)
            assert desk_of(second).authority is before, "nothing was signed"
            assert control._reply(ListTenants()), "reading goes on"
            assert "issuer" in dict(second.running.renewer.posture())
            assert second.running.hello().features == 0
            assert first.running.hello().features == FEATURE_ISSUES
            # Its host joined at the first one, in whose table it is: it comes back as that one's.
            await until(lambda: issuer_id(second) == old, timeout_s=BACK_S)
            await until(lambda: all(up(host) == ids(*world.hosts) - ids(host) for host in honest))
            assert made.tenant_id not in second.running.tenants
            with pytest.raises(RequestError, match="revoked"):
                second.running.principals.of_token(token.text)

    simulate(502, main)


def test_hosts_of_a_compromised_issuer_come_back_by_themselves_under_another_one() -> None:
    """The written procedure (docs/operations.md): add, adopt, revoke, make the tenants anew."""

    async def main() -> None:
        async with two_issuers(503, 5) as world:
            first, second, c, d, forgotten = world.hosts
            old = issuer_id(first)
            adopted(second, c, d)
            assert issuer_id(c) == old
            desk_of(second).revoke(old, "its host was stolen")
            new = desk_of(second).issuer_id
            back = (second, c, d)
            await until(
                lambda: (
                    issuer_id(c) == issuer_id(d) == new
                    and all(up(host) == ids(*back) - ids(host) for host in back)
                ),
                timeout_s=BACK_S,
            )
            assert c.running.revocations.revokes(old), "it was told why, by a signed statement"
            assert c.starts == d.starts == 1, "nobody had to touch them"
            for host in (first, forgotten):
                assert not up(second) & ids(host), "who was not adopted stays out"
            assert not c.running.tenants, "the tenants of the revoked issuer are void"
            steward = steward_of(second)
            made = steward.create("default", public=False, empty=False)
            for host in (c, d):
                steward.add("default", host.identity.peer_id)
            await until(lambda: all(made.tenant_id in h.running.tenants for h in (second, c, d)))
            await until(lambda: bool(c.running.knowledge.models(d.identity.peer_id)))
            assert (await world.ask(c, QUESTION)).finished.served_by in ids(second, c, d)
            await world.restart(c)  # it starts again as what it is now
            await until(lambda: up(c) >= ids(second, d))
            assert issuer_id(c) == new

    simulate(503, main)


def test_a_host_that_was_off_and_knows_bootstrap_addresses_alone_comes_back() -> None:
    """Nobody's id goes with such an address, and nobody can tell it anything over a connection."""

    async def main() -> None:
        async with two_issuers(507, 4) as world:
            first, second, c, away = world.hosts
            old, new = issuer_id(first), desk_of(second).issuer_id
            adopted(second, c, away)
            await until(lambda: bool(away.running.trust.enrolment_of(new)))
            world.kill(away)
            await until(lambda: away.node is None)
            desk_of(second).revoke(old, "its host was stolen")
            await until(lambda: issuer_id(c) == new, timeout_s=BACK_S)
            world.kill(first)
            away.bootstrap = (c.running.addresses[0],)
            await world.start(away)
            await until(lambda: issuer_id(away) == new, timeout_s=BACK_S)
            await until(lambda: up(away) == ids(second, c))
            assert away.running.revocations.revokes(old), "by a signed statement"

    simulate(507, main)


def test_a_host_that_starts_with_its_issuer_revoked_asks_though_nobody_turns_it_away() -> None:
    async def main() -> None:
        async with two_issuers(508, 4) as world:
            first, second, c, other = world.hosts
            old, new = issuer_id(first), desk_of(second).issuer_id
            desk_of(second).revoke(old, "its host was stolen")
            await until(lambda: c.running.standing.is_issuer_revoked)
            world.kill(c)
            await until(lambda: c.node is None)
            c.bootstrap = (Address("10.0.0.99", PORT),)  # nobody is there
            for host in (first, other):
                world.kill(host)
            adopted(second, c)
            await world.start(c)
            await until(lambda: issuer_id(c) == new, timeout_s=BACK_S)

    simulate(508, main)


def test_a_host_that_is_adopted_long_after_the_revocation_comes_back_within_a_minute() -> None:
    async def main() -> None:
        async with two_issuers(509, 3) as world:
            first, second, c = world.hosts
            desk_of(second).revoke(issuer_id(first), "its host was stolen")
            await until(lambda: c.running.standing.is_issuer_revoked)
            c.bootstrap = (Address("10.0.0.99", PORT),)  # nobody is there to turn it away
            await world.restart(c)
            await trio.sleep(1800)
            adopted(second, c)
            new = desk_of(second).issuer_id
            await until(lambda: issuer_id(c) == new, timeout_s=1.5 * BACK_S)

    simulate(509, main)


def test_a_host_that_was_forgotten_is_adopted_after_the_revocation() -> None:
    """Its issuer's tenants are forgotten by then: nobody else has to name its sealing key."""

    async def main() -> None:
        async with two_issuers(511, 3) as world:
            first, second, c = world.hosts
            desk_of(second).revoke(issuer_id(first), "its host was stolen")
            await until(lambda: not second.running.tenants and not up(second))
            adopted(second, c)
            steward, new = steward_of(second), desk_of(second).issuer_id
            made = steward.create("default", public=False, empty=False)
            with pytest.raises(UnknownHost, match="shown its key"):
                steward.add("default", c.identity.peer_id)
            await until(lambda: issuer_id(c) == new, timeout_s=1.5 * BACK_S)
            await until(lambda: up(second) == ids(c), timeout_s=BACK_S)
            steward.add("default", c.identity.peer_id)
            await until(lambda: made.tenant_id in c.running.tenants)

    simulate(511, main)


def test_a_thief_of_an_issuers_key_names_no_sealing_key_for_the_hosts_of_another_one() -> None:
    """He puts a host on a roster that he signs, with a sealing key of his, before it is adopted."""

    async def main() -> None:
        async with two_issuers(512, 3) as world:
            first, second, c = world.hosts
            thief = HostKeys.generate(world.entropy("thief").secret)
            stolen, peer_id = desk_of(first).authority, c.identity.peer_id
            content = next(iter(stolen.tenants.values())).content
            forged = replace(
                content,
                version=content.version + 50,
                members={**content.members, peer_id: thief.sealing_public},
            )
            epoch = make_epoch(stolen.issuer, forged, world.entropy("forged").secret)
            first.running.knowledge.learn_epoch(epoch)
            seen = second.running.tenants
            await until(
                lambda: any(one.members.get(peer_id) == thief.sealing_public for one in seen)
            )
            adopted(second, c)
            desk_of(second).revoke(issuer_id(first), "its key is in wrong hands")
            await until(lambda: issuer_id(c) == desk_of(second).issuer_id, timeout_s=BACK_S)
            steward = steward_of(second)
            made = steward.create("secret", public=False, empty=False)
            steward.add("secret", peer_id)
            await until(lambda: made.tenant_id in c.running.tenants)
            kept = desk_of(second).authority.tenants[made.tenant_id].content
            assert kept.members[peer_id] == c.identity.keys.sealing_public

    simulate(512, main)


def test_no_issuer_signs_for_hosts_of_another_one_that_is_in_force() -> None:
    """Their own certificates are due often here; the other's state is not written for that."""

    async def main() -> None:
        async with two_issuers(513, 3) as world:
            first, second, c = world.hosts
            adopted(second, c)
            await trio.sleep(60)
            before = desk_of(second).authority.hosts
            connection = c.running.peers.connection(second.identity.peer_id)
            assert connection is not None
            answer = await connection.call(RENEW, b"", timeout_s=5)
            with pytest.raises(UntrustedIssuer, match="not the host of this one's issuer"):
                open_renewal(answer, c.running.trust.now, parse_leaf(c.running.identity.leaf))
            c.running.renewer.look_elsewhere()
            await trio.sleep(60)
            assert desk_of(second).authority.hosts == before
            assert issuer_id(c) == issuer_id(first)

    simulate(513, main)


def test_who_is_turned_away_without_a_reason_that_is_signed_stays_with_its_issuer() -> None:
    """A thief of an issuer's key, and a peer that lies, take no host over."""

    async def main() -> None:
        async with two_issuers(504, 3) as world:
            first, second, c = world.hosts
            adopted(second, c)
            before = c.running.identity.leaf
            for _ in range(5):
                c.running.renewer.on_turned_away("Revoked")
                await trio.sleep(30)
            assert c.running.identity.leaf == before
            assert up(c) == ids(first, second)

    simulate(504, main)


def test_a_host_that_is_revoked_itself_gets_nothing_from_the_other_issuer() -> None:
    async def main() -> None:
        async with two_issuers(505, 4) as world:
            first, second, c, d = world.hosts
            adopted(second, c, d)
            desk_of(second).revoke(c.identity.peer_id, "stolen")
            desk_of(second).revoke(issuer_id(first), "stolen too")
            await until(lambda: up(second) == ids(d), timeout_s=BACK_S)
            await trio.sleep(120)
            assert issuer_id(c) != desk_of(second).issuer_id
            assert up(second) == ids(d)

    simulate(505, main)


def test_where_an_issuer_listens_is_known_everywhere_and_after_a_restart() -> None:
    async def main() -> None:
        async with two_issuers(506, 3) as world:
            first, second, c = world.hosts
            wanted = {
                issuer_id(first): (f"{first.name}:7402",),
                issuer_id(second): (f"{second.name}:7402",),
            }

            def told() -> dict[str, tuple[str, ...]]:
                trust = c.running.trust
                return {issuer: trust.enrolment_of(issuer) for issuer in trust.now.issuers}

            await until(lambda: told() == wanted)
            world.network.partition([c.name], [first.name, second.name])
            await world.restart(c)
            assert told() == wanted

    simulate(506, main)
