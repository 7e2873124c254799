"""The issuer's desk: every ticket once, stored before anybody learns of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.entropy import SeededEntropy
from overlay.address import Address
from overlay.errors import ConfigError, StorageFull
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from overlay.issuer import IssuerDesk, found_overlay
from security.enrolment import make_join_request, open_admission
from security.errors import Expired, LimitExceeded, SecurityError, TicketUsed, UnknownTenant
from security.keys import HostKeys
from security.revocation import RevocationSet
from security.ticket import Ticket
from security.token import verify_token

HERE = Address("127.0.0.1", 7402)
FAR = Address("10.0.0.9", 1)
ENTROPY = SeededEntropy(1, "issuer")


class FixedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.unix = SIMULATION_EPOCH_UNIX_S

    def now_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return self.unix


class Issuing:
    """A founded overlay and its desk."""

    def __init__(self, folder: Path) -> None:
        self.clock = FixedClock()
        self.home = Home.create(folder)
        found_overlay(self.home, ["b", "a"], self.clock, ENTROPY)
        self.epochs: list[bytes] = []
        self.desk = self.opened()

    def opened(self) -> IssuerDesk:
        identity = load_identity(self.home)
        return IssuerDesk(self.home, identity, self.clock, ENTROPY, self.epochs.append)

    def redeem(self, ticket: Ticket, host: int = 1) -> bytes:
        keys = HostKeys.generate(SeededEntropy(host, "host").secret)
        request = make_join_request(keys, ticket)
        return trio.run(self.desk.admit, request, FAR)

    def admitted(self, ticket: Ticket, host: int = 1) -> list[str]:
        """Joins; the names of the tenants that were granted."""
        keys = HostKeys.generate(SeededEntropy(host, "host").secret)
        answer = trio.run(self.desk.admit, make_join_request(keys, ticket), FAR)
        admission = open_admission(answer, ticket, keys, self.clock.unix_s())
        return sorted(tenant.name for tenant in admission.tenants)


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path / "issuer")


def test_a_ticket_is_for_the_tenants_named_or_all(issuing: Issuing) -> None:
    assert issuing.desk.tenant_names() == ["a", "b"]
    every = issuing.desk.invite([], [HERE], 60)
    one = issuing.desk.invite(["a"], [HERE], 60)
    assert sorted(every.tenants) == ["a", "b"]
    assert one.tenants == ("a",)
    assert one.addresses == (str(HERE),)
    assert issuing.admitted(one) == ["a"]
    assert issuing.admitted(every, host=2) == ["a", "b"]


def test_an_admission_changes_the_rosters_that_it_names_and_tells_of_them(
    issuing: Issuing,
) -> None:
    before = issuing.home.read_epochs()
    issuing.admitted(issuing.desk.invite(["a"], [HERE], 60))
    after = issuing.home.read_epochs()
    assert len(issuing.epochs) == 1
    assert sorted(before) == sorted(after)
    assert sum(before[name] != after[name] for name in before) == 1
    assert issuing.epochs[0] in after.values()


def test_a_ticket_is_burnt_even_over_a_restart_and_its_host_may_ask_again(
    issuing: Issuing,
) -> None:
    ticket = issuing.desk.invite([], [HERE], 60)
    issuing.admitted(ticket)
    issuing.desk = issuing.opened()
    with pytest.raises(TicketUsed):
        issuing.admitted(ticket, host=2)
    assert issuing.admitted(ticket) == ["a", "b"]


def test_a_ticket_made_before_a_restart_is_good_after_it(issuing: Issuing) -> None:
    ticket = issuing.desk.invite([], [HERE], 60)
    issuing.desk = issuing.opened()
    assert issuing.admitted(ticket) == ["a", "b"]


def test_a_ticket_ends_by_the_issuers_clock(issuing: Issuing) -> None:
    ticket = issuing.desk.invite([], [HERE], 60)
    issuing.clock.unix += 61
    with pytest.raises(Expired):
        issuing.admitted(ticket)


def test_what_cannot_be_stored_is_not_given(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = issuing.desk.invite([], [HERE], 60)
    kept = issuing.home.need(HomeFile.AUTHORITY)
    write = Home.write

    def full(home: Home, file: HomeFile, content: bytes) -> None:
        raise StorageFull("no space is left")

    with monkeypatch.context() as patched:
        patched.setattr(Home, "write", full)
        with pytest.raises(StorageFull):
            issuing.desk.invite([], [HERE], 60)
        with pytest.raises(SecurityError) as caught:
            issuing.admitted(ticket)
        assert "space" not in str(caught.value), "a stranger learns nothing of this host"
    assert Home.write is write
    assert issuing.home.need(HomeFile.AUTHORITY) == kept
    assert issuing.epochs == []
    assert issuing.admitted(ticket) == ["a", "b"], "the ticket is not lost"


def test_garbage_is_answered_with_a_refusal(issuing: Issuing) -> None:
    ticket = issuing.desk.invite([], [HERE], 60)
    keys = HostKeys.generate(SeededEntropy(1, "host").secret)
    whole = make_join_request(keys, ticket)
    for request in (b"", b"\xc1", whole[:-1], whole + b"\x00", bytes(len(whole))):
        answer = trio.run(issuing.desk.admit, request, FAR)
        with pytest.raises(SecurityError):
            open_admission(answer, ticket, keys, issuing.clock.unix_s())
    assert issuing.admitted(ticket) == ["a", "b"]


def test_what_is_out_of_bounds_is_refused_in_words(issuing: Issuing) -> None:
    with pytest.raises(UnknownTenant, match="there is a, b"):
        issuing.desk.invite(["c"], [HERE], 60)
    for ttl_s in (0, -1, 31 * 86_400, float("nan")):
        with pytest.raises(LimitExceeded):
            issuing.desk.invite([], [HERE], ttl_s)
    with pytest.raises(LimitExceeded):
        issuing.desk.invite([], [], 60)
    with pytest.raises(UnknownTenant):
        issuing.desk.create_token("c", "name", 60)
    for ttl_s in (0, -1, 11 * 365 * 86_400):
        with pytest.raises(LimitExceeded):
            issuing.desk.create_token("a", "name", ttl_s)


def test_the_usual_tenant_is_the_only_one_or_the_default(tmp_path: Path, issuing: Issuing) -> None:
    with pytest.raises(ConfigError, match="name a tenant with --tenant; there is a, b"):
        issuing.desk.usual_tenant()
    for names, usual in ((["a"], "a"), (["a", "default"], "default")):
        home = Home.create(tmp_path / usual)
        found_overlay(home, names, issuing.clock, ENTROPY)
        desk = IssuerDesk(home, load_identity(home), issuing.clock, ENTROPY, issuing.epochs.append)
        assert desk.usual_tenant() == usual


def test_a_token_is_for_its_tenant_and_may_infer_alone(issuing: Issuing) -> None:
    token = issuing.desk.create_token("a", "web", 60)
    trust = load_identity(issuing.home).trust
    claims = verify_token(token.text, trust, issuing.clock.unix_s(), RevocationSet())
    assert (claims.name, claims.scopes) == ("web", ("infer",))
    assert token.text not in repr(token)
    assert token.text.encode() not in issuing.home.need(HomeFile.AUTHORITY)
