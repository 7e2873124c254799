"""Enrolment asks the revocations that the issuer's own peer knows, as they are at that moment."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from overlay.address import Address
from overlay.founding import found_overlay
from overlay.home import Home
from overlay.identity import load_identity
from overlay.issuer import IssuerDesk
from overlay.system import SystemClock, SystemEntropy
from security.enrolment import JoinRefusal, NotAdmitted, make_join_request
from security.keys import HostKeys
from security.revocation import RevocationSet, make_revocation, open_revocation
from tests.security.world import NOW_S, seeded

HERE = Address("127.0.0.1", 7402)


@pytest.mark.parametrize("what", ["host", "ticket", "issuer"])
async def test_nothing_revoked_is_admitted(tmp_path: Path, what: str) -> None:
    home = Home.create(tmp_path / "home")
    clock, entropy = SystemClock(), SystemEntropy()
    authority = found_overlay(home, ["alpha"], clock, entropy)
    revoked = RevocationSet()
    desk = IssuerDesk(home, load_identity(home), clock, entropy, lambda _: None, lambda: revoked)
    keys, ticket = HostKeys.generate(seeded(3)), desk.invite((), [HERE] * 20, 600.0)
    assert ticket.addresses == (str(HERE),) * 16
    ids = {
        "host": keys.peer_id,
        "ticket": ticket.ticket_id,
        "issuer": authority.issuer.issuer_id,
    }
    statement = make_revocation(authority.issuer, ids[what], NOW_S)
    revoked = RevocationSet.of([open_revocation(statement, authority.trust)])
    answer = await desk.admit(make_join_request(keys, ticket), HERE)
    refused = msgspec.msgpack.decode(answer, type=NotAdmitted)
    assert refused.reason == JoinRefusal.REVOKED.value
