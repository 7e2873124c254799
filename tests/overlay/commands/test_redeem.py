"""Joining by a ticket with several addresses, at some of which others answer than the issuer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chaos.rotation import RootChange
from overlay.address import Address
from overlay.commands.join import redeem
from overlay.errors import HomeError, OverlayError
from overlay.founding import found_overlay
from overlay.home import Home
from overlay.identity import (
    Identity,
    load_identity,
    read_bundles,
    store_identity,
    store_renewed,
)
from overlay.issuer import IssuerDesk
from overlay.root import authority_in, root_key_in
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.enrolment import Handle, serve_enrolment
from security.enrolment import refuse_join
from security.errors import SecurityError, TicketUsed
from security.keys import HostKeys
from security.root_bundle import ROOTS_REQUEST, encode_bundles

ENTROPY = SystemEntropy()
CLOCK = SystemClock()
USED = TicketUsed("used")


async def refuses_in_the_answer(request: bytes, address: Address) -> bytes:
    return refuse_join(USED)


async def refuses_by_status(request: bytes, address: Address) -> bytes:
    raise OverlayError("go away")


async def talks_nonsense(request: bytes, address: Address) -> bytes:
    return b"nonsense"


LIARS: list[Handle] = [refuses_in_the_answer, refuses_by_status, talks_nonsense]


class Desk:
    """An overlay with an issuer's desk."""

    def __init__(self, folder: Path) -> None:
        self.home = home = Home.create(folder)
        found_overlay(home, ["office"], CLOCK, ENTROPY)
        self.change = RootChange(home, root_key_in(home), CLOCK, ENTROPY)
        self.start()

    def start(self) -> None:
        self.identity: Identity = load_identity(self.home)
        self.desk = IssuerDesk(self.home, self.identity, CLOCK, ENTROPY, lambda _: None)

    def change_root(self) -> None:
        """As the commands do, one after the other; this host shows the new chain then."""
        for step in (self.change.overlap, self.change.certify, self.change.drop):
            step()
        self.show_the_newest()

    def show_the_newest(self) -> None:
        """The certificate of the issuer, by the root that signs now."""
        issuer = authority_in(self.home).issuer.der
        self.start()
        trust = self.identity.trust
        renewed = self.identity.renewed(self.identity.leaf, issuer, trust)
        store_renewed(self.home, renewed, ())
        self.start()

    @asynccontextmanager
    async def serving(self, *handles: Handle) -> AsyncIterator[list[Address]]:
        """Hosts of the overlay; each answers joiners in its own way."""
        async with trio.open_nursery() as nursery:
            addresses: list[Address] = []
            for handle in handles:

                async def serve(
                    task_status: trio.TaskStatus[tuple[Address, ...]], handle: Handle = handle
                ) -> None:
                    await serve_enrolment(
                        [Address("127.0.0.1", 0)],
                        handle,
                        credentials=lambda: self.identity.credentials,
                        task_status=task_status,
                    )

                addresses += await nursery.start(serve)
            with trio.fail_after(10):
                yield addresses
            nursery.cancel_scope.cancel()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "issuer")


@pytest.mark.parametrize("liar", LIARS)
async def test_who_is_not_the_issuer_keeps_nobody_from_joining(desk: Desk, liar: Handle) -> None:
    async with desk.serving(liar, desk.desk.admit) as addresses:
        ticket = desk.desk.invite([], addresses, 60)
        admission = await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)
    assert [tenant.name for tenant in admission.tenants] == ["office"]


async def test_a_ticket_from_before_the_root_was_changed_is_still_good(
    desk: Desk, tmp_path: Path
) -> None:
    """The joiner follows the bundles from the ticket's root, and keeps them."""
    made = desk.desk.invite([], [Address("127.0.0.1", 1)], 3600)
    for _ in range(2):
        desk.change_root()
    keys = HostKeys.generate(ENTROPY.secret)
    async with desk.serving(desk.desk.answer) as addresses:
        ticket = replace(made, addresses=tuple(map(str, addresses)))
        admission = await redeem(ticket, keys, CLOCK)
    joined = Home.create(tmp_path / "joined")
    store_identity(joined, keys, admission, CLOCK.unix_s())
    identity = load_identity(joined)
    assert identity.trust.roots == desk.identity.trust.roots
    assert identity.trust.roots.number == 5
    assert identity.trust.leaf(identity.leaf)[0].peer_id == keys.peer_id


async def test_a_new_host_knows_the_end_of_the_last_rotation(desk: Desk) -> None:
    """Its ticket has the new root alone: the overlap, told again, puts no root back in force."""
    desk.change.overlap()
    overlap = read_bundles(desk.home)
    desk.change.certify()
    desk.change.drop()
    desk.show_the_newest()
    async with desk.serving(desk.desk.answer) as addresses:
        ticket = desk.desk.invite([], addresses, 60)
        admission = await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)
    roots = admission.trust.roots
    assert ticket.root == roots.newest
    assert roots == desk.identity.trust.roots
    assert roots.learn(overlap) is roots


async def test_who_is_in_the_way_of_an_old_ticket_keeps_no_bundle_back(desk: Desk) -> None:
    """As nobody in particular it tells the overlap alone; whoever is believed tells the rest."""
    made = desk.desk.invite([], [Address("127.0.0.1", 1)], 3600)
    desk.change.overlap()
    overlap = read_bundles(desk.home)
    desk.change.certify()
    desk.change.drop()
    desk.show_the_newest()
    asked = 0

    async def answer(request: bytes, address: Address) -> bytes:
        nonlocal asked
        asked += request == ROOTS_REQUEST
        # The first question that gets here is the one that judges nobody.
        return encode_bundles(overlap) if asked == 1 else await desk.desk.answer(request, address)

    async with desk.serving(answer) as addresses:
        ticket = replace(made, addresses=tuple(map(str, addresses)))
        admission = await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)
    assert asked == 2
    assert admission.trust.roots == desk.identity.trust.roots


async def test_bundles_that_do_not_follow_from_the_tickets_root_help_nobody(desk: Desk) -> None:
    """A host in the middle shows its own chain, and bundles of its own overlay."""
    other = Desk(desk.home.path.parent / "other")
    other.change_root()
    async with other.serving(other.desk.answer) as addresses:
        ticket = desk.desk.invite([], addresses, 60)
        with pytest.raises(HomeError):
            await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)


async def test_a_refusal_is_told_once_where_all_say_the_same(desk: Desk) -> None:
    async with desk.serving(desk.desk.admit, desk.desk.admit) as addresses:
        ticket = desk.desk.invite([], addresses, 60)
        await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)
        with pytest.raises(HomeError) as refused:
            await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)
    assert str(refused.value).startswith("the ticket has been used: ")
    assert str(addresses[0]) not in str(refused.value)


async def test_different_failures_are_all_told(desk: Desk) -> None:
    async with desk.serving(*LIARS) as addresses:
        ticket = desk.desk.invite([], [*addresses, Address("127.0.0.1", 1)], 60)
        with pytest.raises((HomeError, SecurityError)) as refused:
            await redeem(ticket, HostKeys.generate(ENTROPY.secret), CLOCK)
    words = str(refused.value)
    assert words.startswith("the ticket has been used: ")
    assert all(f"{address}: " in words for address in ticket.addresses)
