"""Many joiners with one ticket at a real enrolment listener: exactly one is admitted."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from overlay.address import Address
from overlay.founding import found_overlay
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from overlay.issuer import IssuerDesk
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.enrolment import enrol, serve_enrolment
from security.authority_state import authority_from_bytes
from security.enrolment import Admission, make_join_request, open_admission
from security.errors import SecurityError, TicketUsed
from security.keys import HostKeys
from security.ticket import Ticket

JOINERS = 7
"""So many may ask at a time from one address."""

CLOCK, ENTROPY = SystemClock(), SystemEntropy()


class Race:
    """A desk behind its listener, and what came of those who asked it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home.create(folder)
        found_overlay(self.home, ["default"], CLOCK, ENTROPY)
        self.desk = IssuerDesk(self.home, load_identity(self.home), CLOCK, ENTROPY, lambda _: None)
        self.credentials = load_identity(self.home).credentials
        self.admitted: list[Admission] = []
        self.refused: list[SecurityError] = []
        self.kept_at_answer: list[bytes] = []

    async def answer(self, request: bytes, address: Address) -> bytes:
        """The desk, with a look at the disk before each answer leaves."""
        answer = await self.desk.answer(request, address)
        self.kept_at_answer.append(self.home.need(HomeFile.AUTHORITY))
        return answer

    async def serve(self, *, task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
        await serve_enrolment(
            [Address("127.0.0.1", 0)],
            self.answer,
            credentials=lambda: self.credentials,
            task_status=task_status,
        )

    async def join(self, ticket: Ticket, ready: trio.Event) -> None:
        keys = HostKeys.generate(ENTROPY.secret)
        request = make_join_request(keys, ticket)
        await ready.wait()
        answer = await enrol(
            Address.parse(ticket.addresses[0]), [ticket.root], request, timeout_s=30
        )
        try:
            self.admitted.append(open_admission(answer, ticket, keys, CLOCK.unix_s()))
        except SecurityError as error:
            self.refused.append(error)


@pytest.mark.parametrize("attempt", range(3))
async def test_exactly_one_wins(tmp_path: Path, attempt: int) -> None:
    race = Race(tmp_path / "issuer")
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(race.serve)
        ticket = race.desk.invite([], bound, 60)
        ready = trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as joiners:
                for _ in range(JOINERS):
                    joiners.start_soon(race.join, ticket, ready)
                ready.set()
        nursery.cancel_scope.cancel()
    assert len(race.admitted) == 1
    assert [type(error) for error in race.refused] == [TicketUsed] * (JOINERS - 1)
    winner = race.admitted[0].leaf.peer_id
    for kept in race.kept_at_answer:
        row = authority_from_bytes(kept).tickets[ticket.ticket_id]
        assert row.used_by == winner, "it is burnt on the disk before any answer leaves"
    members = authority_from_bytes(race.kept_at_answer[-1]).hosts
    assert set(members) == {winner, race.desk._identity.peer_id}
    assert ticket.secret not in race.home.need(HomeFile.AUTHORITY), "what is kept cannot make it"
    assert ticket.key().private_bytes_raw() not in race.home.need(HomeFile.AUTHORITY)
