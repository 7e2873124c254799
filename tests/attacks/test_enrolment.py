"""Ways to join that the issuer refuses, and ways to keep a joiner out: real TLS over loopback.

The issuer's desk stands beside an honest peer, as it does in ``rhizome peer``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
import trio

from chaos.entropy import SeededEntropy
from overlay.address import Address
from overlay.commands.join import redeem
from overlay.errors import HomeError
from overlay.home import Home, HomeFile
from overlay.issuer import IssuerDesk
from overlay.system import SystemClock
from overlay.transport.enrolment import enrol, serve_enrolment
from security.authority_state import authority_from_bytes
from security.certificate import issue_leaf, parse_leaf
from security.enrolment import (
    Admission,
    JoinBody,
    JoinRefusal,
    NotAdmitted,
    make_admission,
    make_join_request,
    open_admission,
)
from security.errors import SecurityError
from security.keys import HostKeys
from security.renewal import (
    NotRenewed,
    RenewRefusal,
    make_renew_request,
    open_challenge,
    open_renewal,
)
from security.revocation import RevocationSet, open_revocation
from security.signed import Kind, SignedObject, sign_as_peer
from security.ticket import Ticket
from tests.attacks.adversary import foreign_peer, host_of, member_of_beta, revocation
from tests.attacks.victim import BETA, Victim
from tests.attacks.worlds import real_overlay
from tests.overlay.issuer_home import issuer_home

HERE = Address("127.0.0.1", 0)
ANSWER_S = 30.0


def keys_of(name: str) -> HostKeys:
    return HostKeys.generate(SeededEntropy(1, f"joiner {name}").secret)


@dataclass
class Issuer:
    """The desk of the first honest host, and what it has stored."""

    victim: Victim
    home: Home
    desk: IssuerDesk
    at: Address
    revoked: RevocationSet = field(default_factory=RevocationSet)

    def ticket(self, ttl_s: float = 600.0) -> Ticket:
        return self.desk.invite([BETA], [self.at], ttl_s)

    def revoke(self, *ids: str) -> None:
        """From now on the desk knows that these are revoked."""
        trust = self.victim.guest.identity.trust
        statements = revocation(self.victim, *ids)
        self.revoked = RevocationSet.of(open_revocation(each, trust) for each in statements)

    def used(self, ticket: Ticket) -> str | None:
        """Who has used a ticket, as it is stored."""
        stored = authority_from_bytes(self.home.need(HomeFile.AUTHORITY))
        return stored.tickets[ticket.ticket_id].used_by

    def members(self) -> set[str]:
        stored = authority_from_bytes(self.home.need(HomeFile.AUTHORITY))
        return set(stored.tenants[stored.tenant_id(BETA)].content.members)

    async def answer(self, request: bytes, ticket: Ticket) -> bytes:
        return await enrol(self.at, [ticket.root], request, timeout_s=ANSWER_S)

    async def refuses(self, request: bytes, ticket: Ticket, reason: JoinRefusal) -> None:
        """The answer is that reason, and no roster has changed."""
        members = self.members()
        answer = await self.answer(request, ticket)
        assert msgspec.msgpack.decode(answer, type=NotAdmitted).reason == reason.value
        assert self.members() == members


@asynccontextmanager
async def issuing(tmp_path: Path) -> AsyncIterator[Issuer]:
    async with real_overlay() as victim, trio.open_nursery() as nursery:
        host = victim.honest[0]
        own = host.identity
        home = issuer_home(tmp_path / "issuer", victim.world, host, victim.now_unix_s)
        clock = SystemClock()
        desk = IssuerDesk(
            home,
            own,
            clock,
            SeededEntropy(1, "desk"),
            host.running.knowledge.learn_epoch,
            lambda: issuer.revoked,
        )
        at = await listen(nursery, victim, desk.answer)
        issuer = Issuer(victim, home, desk, at)
        yield issuer
        nursery.cancel_scope.cancel()


Handle = Callable[[bytes, Address], Awaitable[bytes]]


async def listen(nursery: trio.Nursery, victim: Victim, handle: Handle, host: int = 0) -> Address:
    """An enrolment port with a host's certificate."""
    credentials = victim.world.hosts[host].identity.credentials

    async def serve(task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
        await serve_enrolment(
            [HERE], handle, credentials=lambda: credentials, task_status=task_status
        )

    (at,) = await nursery.start(serve)
    return at


async def join(ticket: Ticket, keys: HostKeys) -> Admission:
    return await redeem(ticket, keys, SystemClock())


async def test_control_a_ticket_admits_one_host(tmp_path: Path) -> None:
    async with issuing(tmp_path) as issuer:
        keys, ticket = keys_of("honest"), issuer.ticket()
        admission = await join(ticket, keys)
        assert [tenant.name for tenant in admission.tenants] == [BETA]
        assert issuer.used(ticket) == keys.peer_id
        assert keys.peer_id in issuer.members()


async def test_a_replayed_ticket(tmp_path: Path) -> None:
    """The text of a used ticket, and the request itself as it was seen on the wire."""
    async with issuing(tmp_path) as issuer:
        honest, ticket = keys_of("honest"), issuer.ticket()
        request = make_join_request(honest, ticket)
        await join(ticket, honest)
        async with issuer.victim.unharmed():
            thief = make_join_request(keys_of("thief"), ticket)
            await issuer.refuses(thief, ticket, JoinRefusal.TICKET_USED)
            # The same request is answered again, for the same keys: it gives a thief nothing.
            again = open_admission(
                await issuer.answer(request, ticket), ticket, honest, issuer.victim.now_unix_s
            )
            assert again.leaf.peer_id == honest.peer_id
            with pytest.raises(SecurityError):
                open_admission(
                    await issuer.answer(request, ticket),
                    ticket,
                    keys_of("thief"),
                    issuer.victim.now_unix_s,
                )


async def test_a_ticket_race(tmp_path: Path) -> None:
    """Eight hosts with one ticket at once: exactly one is admitted."""
    async with issuing(tmp_path) as issuer:
        ticket, won = issuer.ticket(), []

        async def try_to(name: str) -> None:
            try:
                won.append((await join(ticket, keys_of(name))).leaf.peer_id)
            except HomeError:
                return

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(try_to, str(number))
        assert len(won) == 1
        assert issuer.used(ticket) == won[0]
        assert issuer.members() & {keys_of(str(n)).peer_id for n in range(8)} == set(won)


def with_other_keys(request: bytes, ticket: Ticket, thief: HostKeys) -> dict[str, bytes]:
    """A request that was seen, changed so that it would admit somebody else."""
    signed = msgspec.msgpack.decode(request, type=SignedObject)
    body = msgspec.msgpack.decode(signed.body, type=JoinBody)
    swapped = msgspec.structs.replace(body, sealing=thief.sealing_public)
    encode = msgspec.msgpack.encode
    return {
        "another identity, signed by it": sign_as_peer(
            thief, ticket.overlay_id, Kind.JOIN, signed.body
        ),
        "another sealing key, signed by the thief": sign_as_peer(
            thief, ticket.overlay_id, Kind.JOIN, encode(swapped)
        ),
        "another sealing key under the old signature": encode(
            msgspec.structs.replace(signed, body=encode(swapped))
        ),
        "another signer under the old signature": encode(
            msgspec.structs.replace(signed, signer=thief.identity.public_key().public_bytes_raw())
        ),
        "another kind": encode(msgspec.structs.replace(signed, kind="admission")),
    }


async def test_a_request_whose_keys_are_swapped(tmp_path: Path) -> None:
    """A host in the middle has the honest request, not the ticket: it is burnt for nobody."""
    async with issuing(tmp_path) as issuer:
        honest, thief, ticket = keys_of("honest"), keys_of("thief"), issuer.ticket()
        request = make_join_request(honest, ticket)
        async with issuer.victim.unharmed():
            for made in with_other_keys(request, ticket, thief).values():
                await issuer.refuses(made, ticket, JoinRefusal.INVALID)
                assert issuer.used(ticket) is None
        assert (await join(ticket, honest)).leaf.peer_id == honest.peer_id


async def test_tickets_that_are_not_good_here(tmp_path: Path) -> None:
    async with issuing(tmp_path) as issuer:
        thief, good = keys_of("thief"), issuer.ticket()
        ended, revoked = issuer.ticket(ttl_s=0.001), issuer.ticket()
        await trio.sleep(1.1)  # a ticket's end is in whole seconds
        made_up = replace(good, secret=bytes(32))
        elsewhere = replace(good, issuer_id="0" * 32)
        foreign = replace(good, overlay_id="0" * 32)
        issuer.revoke(revoked.ticket_id, keys_of("revoked").peer_id)
        async with issuer.victim.unharmed():
            for ticket, keys, reason in (
                (ended, thief, JoinRefusal.TICKET_EXPIRED),
                (made_up, thief, JoinRefusal.TICKET_UNKNOWN),
                (elsewhere, thief, JoinRefusal.INVALID),
                (foreign, thief, JoinRefusal.INVALID),
                (revoked, thief, JoinRefusal.REVOKED),
                (good, keys_of("revoked"), JoinRefusal.REVOKED),
            ):
                await issuer.refuses(make_join_request(keys, ticket), good, reason)
        assert issuer.used(good) is None


async def test_a_member_answers_in_place_of_the_issuer(tmp_path: Path) -> None:
    """A wrong host at a ticket's address refuses, makes up an admission, or says nothing."""
    async with issuing(tmp_path) as issuer:
        victim, honest = issuer.victim, keys_of("honest")
        insider, foreign = member_of_beta(victim), foreign_peer(victim)
        ticket = issuer.ticket()
        authority = victim.world.authority
        assert authority is not None
        rogue = replace(authority.issuer, private=insider.identity.keys.identity)

        async def refuse(request: bytes, address: Address) -> bytes:
            return msgspec.msgpack.encode(NotAdmitted(v=1, reason="revoked"))

        async def make_up(request: bytes, address: Address) -> bytes:
            return make_admission(rogue, ticket.ticket_id, insider.identity.leaf, ())

        async def of_another_overlay(request: bytes, address: Address) -> bytes:
            leaf, der = foreign.identity.leaf, foreign.identity.issuer
            return make_admission(replace(rogue, der=der), ticket.ticket_id, leaf, ())

        async def garbage(request: bytes, address: Address) -> bytes:
            return b"\xc1" * 60_000

        async with trio.open_nursery() as nursery:
            wrong = [
                str(await listen(nursery, victim, handle, host=2))
                for handle in (refuse, make_up, of_another_overlay, garbage)
            ]
            async with victim.unharmed():
                with pytest.raises(HomeError):
                    await join(replace(ticket, addresses=tuple(wrong)), honest)
                assert issuer.used(ticket) is None
            # The issuer's own answer helps, wherever in the row it stands.
            admission = await join(replace(ticket, addresses=(*wrong, str(issuer.at))), honest)
            assert admission.leaf.peer_id == honest.peer_id
            nursery.cancel_scope.cancel()


async def test_garbage_on_the_enrolment_port(tmp_path: Path) -> None:
    async with issuing(tmp_path) as issuer:
        ticket = issuer.ticket()
        honest = make_join_request(keys_of("honest"), ticket)
        async with issuer.victim.unharmed():
            for request in (b"", b"\xc1", bytes(1024), honest[:-1], honest + b"\0", bytes(60_000)):
                await issuer.refuses(request, ticket, JoinRefusal.INVALID)
            # A leaf of the overlay is worth nothing here.
            leaf = host_of(issuer.victim).identity.leaf
            await issuer.refuses(leaf, ticket, JoinRefusal.INVALID)


# -- renewal on the same port


async def challenge_of(issuer: Issuer, roots: Sequence[bytes]) -> bytes:
    """One that the issuer has made now."""
    asked = msgspec.msgpack.encode({"type": "challenge", "v": 1})
    return open_challenge(await enrol(issuer.at, roots, asked, timeout_s=ANSWER_S))


async def test_renewals_that_are_not_asked_for_rightly(tmp_path: Path) -> None:
    """A replayed request, a made-up challenge, keys of nobody, a changed body, a revoked host."""
    async with issuing(tmp_path) as issuer:
        identity = member_of_beta(issuer.victim).identity
        roots, keys, thief = identity.trust.roots.in_force, identity.keys, keys_of("thief")
        authority = issuer.victim.world.authority
        assert authority is not None
        hour_ago_s = issuer.victim.now_unix_s - 3600
        secret = SeededEntropy(1, "older leaf").secret
        leaf = parse_leaf(issue_leaf(authority.issuer, identity.peer_id, secret, hour_ago_s))

        async def reason(request: bytes) -> str:
            answer = await enrol(issuer.at, roots, request, timeout_s=ANSWER_S)
            return msgspec.msgpack.decode(answer, type=NotRenewed).reason

        request = make_renew_request(keys, leaf, await challenge_of(issuer, roots))
        answer = await enrol(issuer.at, roots, request, timeout_s=ANSWER_S)
        # The control: the host itself is renewed, and its answer is of use to it alone.
        assert open_renewal(answer, identity.trust, leaf).leaf.peer_id == identity.peer_id
        async with issuer.victim.unharmed():
            assert await reason(request) == RenewRefusal.STALE.value
            made_up = make_renew_request(keys, leaf, bytes(32))
            assert await reason(made_up) == RenewRefusal.STALE.value
            unknown = make_renew_request(thief, leaf, await challenge_of(issuer, roots))
            assert await reason(unknown) == RenewRefusal.HOST_UNKNOWN.value
            fresh = make_renew_request(keys, leaf, await challenge_of(issuer, roots))
            signed = msgspec.msgpack.decode(fresh, type=SignedObject)
            key = thief.identity.public_key().public_bytes_raw()
            swapped = msgspec.msgpack.encode(msgspec.structs.replace(signed, signer=key))
            assert await reason(swapped) == RenewRefusal.INVALID.value
            issuer.revoke(identity.peer_id)
            again = make_renew_request(keys, leaf, await challenge_of(issuer, roots))
            assert await reason(again) == RenewRefusal.REVOKED.value
