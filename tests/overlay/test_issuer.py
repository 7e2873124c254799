"""The issuer's desk: every ticket once, stored before anybody learns of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.entropy import SeededEntropy
from overlay.address import Address
from overlay.errors import ConfigError, HomeError, StorageFull
from overlay.founding import found_overlay
from overlay.gossip.epochs import Epochs
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from overlay.issuer import IssuerDesk
from overlay.steward import Steward
from security.authority_state import authority_from_bytes
from security.certificate import Leaf, parse_leaf
from security.enrolment import make_join_request, open_admission
from security.errors import (
    Expired,
    HostUnknown,
    LimitExceeded,
    Refused,
    Revoked,
    SecurityError,
    StaleChallenge,
    TicketUnknown,
    TicketUsed,
    UnknownTenant,
)
from security.keys import HostKeys
from security.renewal import (
    CHALLENGE_REQUEST,
    make_renew_request,
    open_challenge,
    open_renewal,
)
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.ticket import Ticket
from security.token import verify_token

HERE = Address("127.0.0.1", 7402)
FAR = Address("10.0.0.9", 1)
ENTROPY = SeededEntropy(1, "issuer")


class FixedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.unix = SIMULATION_EPOCH_UNIX_S
        self.now = 0.0

    def now_s(self) -> float:
        return self.now

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


def test_a_roster_that_is_stored_is_told_whatever_happens_after(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = issuing.desk.invite(["a"], [HERE], 60)

    def full(home: Home, name: str, content: bytes) -> None:
        raise StorageFull("no space is left")

    with monkeypatch.context() as patched:
        patched.setattr(Home, "write_epoch", full)
        assert issuing.admitted(ticket) == ["a"]
    (told,) = issuing.epochs
    issuing.epochs.clear()
    desk = issuing.opened()
    desk.say_again()
    assert told in issuing.epochs
    assert sorted(issuing.epochs) == sorted(desk.authority.epochs)


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


def test_a_state_that_could_not_be_read_again_is_not_written(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = issuing.home.need(HomeFile.AUTHORITY)
    monkeypatch.setattr("security.authority_state.STATE_BYTES_MAX", len(kept))
    with pytest.raises(LimitExceeded, match="at most"):
        issuing.desk.invite([], [HERE], 60)
    assert issuing.home.need(HomeFile.AUTHORITY) == kept
    assert not issuing.desk.authority.tickets
    assert issuing.opened().tenant_names() == ["a", "b"]


def test_a_public_tenant_that_is_full_keeps_nobody_from_joining(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    identity = load_identity(issuing.home)
    steward = Steward(desk=issuing.desk, keys=identity.keys, secret=ENTROPY.secret)
    steward.create("open", public=True, empty=False)
    assert issuing.admitted(issuing.desk.invite(["a"], [HERE], 60)) == ["a", "open"]
    assert not caplog.records
    for place in ("security.roster", "security.epoch"):
        monkeypatch.setattr(f"{place}.MEMBERS_MAX", 2)
    issuing.epochs.clear()
    steward.create("room", public=False, empty=True)
    assert issuing.admitted(issuing.desk.invite(["room"], [HERE], 60), host=2) == ["room"]
    assert "public tenant is full" in caplog.text


# -- renewing


class Late:
    """A host that has joined, whose certificate may have ended."""

    def __init__(self, issuing: Issuing) -> None:
        self.issuing = issuing
        self.keys = HostKeys.generate(SeededEntropy(1, "host").secret)
        ticket = issuing.desk.invite([], [HERE], 60)
        answer = issuing.redeem(ticket)
        self.leaf = open_admission(answer, ticket, self.keys, issuing.clock.unix_s()).leaf
        self.trust = load_identity(issuing.home).trust

    def challenge(self) -> bytes:
        return open_challenge(trio.run(self.issuing.desk.answer, CHALLENGE_REQUEST, FAR))

    def ask(self, challenge: bytes) -> Leaf:
        request = make_renew_request(self.keys, self.leaf, challenge)
        answer = trio.run(self.issuing.desk.answer, request, FAR)
        return open_renewal(answer, self.trust, self.leaf).leaf


def test_a_host_renews_from_its_key_alone_and_the_end_is_kept(issuing: Issuing) -> None:
    late = Late(issuing)
    issuing.clock.unix += 20 * 86_400
    leaf = late.ask(late.challenge())
    assert leaf.issued_unix_s == int(issuing.clock.unix)
    assert leaf.lifetime_s == 86_400
    kept = authority_from_bytes(issuing.home.need(HomeFile.AUTHORITY)).hosts[late.keys.peer_id]
    assert kept.leaf_ends_unix_s == leaf.not_after_unix_s
    assert len(issuing.epochs) == 2, "no roster has changed since the join"


def test_hosts_count_as_enrolled_while_their_certificates_would_be_renewed(
    issuing: Issuing,
) -> None:
    late = Late(issuing)
    assert late.keys.peer_id in issuing.desk.enrolled()
    issuing.clock.unix += 30 * 86_400
    assert late.keys.peer_id in issuing.desk.enrolled()
    issuing.clock.unix += 2 * 86_400
    assert late.keys.peer_id not in issuing.desk.enrolled()


def test_a_request_that_was_captured_is_worth_nothing(issuing: Issuing) -> None:
    late = Late(issuing)
    issuing.clock.unix += 60
    challenge = late.challenge()
    late.ask(challenge)
    issuing.clock.unix += 60
    with pytest.raises(StaleChallenge):
        late.ask(challenge)
    challenge = late.challenge()
    issuing.clock.now += 31
    with pytest.raises(StaleChallenge):
        late.ask(challenge)
    challenge = late.challenge()
    issuing.desk = issuing.opened()
    with pytest.raises(StaleChallenge, match="challenge"):
        late.ask(challenge)
    assert late.ask(late.challenge())


def test_a_host_that_asks_without_end_is_written_down_once(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(issuing)
    issuing.clock.unix += 3600
    written: list[HomeFile] = []
    write = Home.write

    def noting(home: Home, file: HomeFile, content: bytes) -> None:
        written.append(file)
        write(home, file, content)

    with monkeypatch.context() as patched:
        patched.setattr(Home, "write", noting)
        answers = {trio.run(issuing.desk.renew, late.keys.peer_id) for _ in range(50)}
        assert len(answers) == len(written) == 1
        issuing.clock.now += 61
        issuing.clock.unix += 61
        assert trio.run(issuing.desk.renew, late.keys.peer_id) not in answers
        assert len(written) == 2
    issuing.clock.now += 61
    own = load_identity(issuing.home).peer_id
    trio.run(issuing.desk.renew, own)
    assert list(issuing.desk._made) == [own], "answers are not kept for longer than they are given"


def test_a_host_that_never_joined_or_is_revoked_is_not_renewed(issuing: Issuing) -> None:
    late = Late(issuing)
    stranger = Late.__new__(Late)
    stranger.__dict__.update(late.__dict__)
    stranger.keys = HostKeys.generate(SeededEntropy(7, "host").secret)
    with pytest.raises(HostUnknown):
        stranger.ask(stranger.challenge())
    issuer = authority_from_bytes(issuing.home.need(HomeFile.AUTHORITY)).issuer
    statement = make_revocation(issuer, late.keys.peer_id, issuing.clock.unix_s())
    revoked = RevocationSet.of([open_revocation(statement, late.trust)])
    issuing.desk._revocations = lambda: revoked
    with pytest.raises(Revoked):
        late.ask(late.challenge())


def test_a_stranger_uses_up_no_challenge_and_no_space(
    issuing: Issuing, caplog: pytest.LogCaptureFixture
) -> None:
    late = Late(issuing)
    stranger = Late.__new__(Late)
    stranger.__dict__.update(late.__dict__)
    stranger.keys = HostKeys.generate(SeededEntropy(7, "host").secret)
    issuing.clock.unix += 60
    challenge = late.challenge()
    with caplog.at_level("INFO"), pytest.raises(HostUnknown):
        stranger.ask(challenge)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert late.ask(challenge)


def test_who_is_revoked_is_put_on_no_roster(issuing: Issuing) -> None:
    identity = load_identity(issuing.home)
    steward = Steward(desk=issuing.desk, keys=identity.keys, secret=ENTROPY.secret)
    bad = Late(issuing).keys.peer_id
    steward.remove("a", bad)
    issuing.desk.revoke(bad, "")
    with pytest.raises(Revoked, match="that host is revoked"):
        steward.add("a", bad)
    assert set(steward.create("open", public=True, empty=False).members) == {identity.peer_id}


def test_what_the_disk_does_not_take_is_not_renewed(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(issuing)
    issuing.clock.unix += 60
    kept = issuing.home.need(HomeFile.AUTHORITY)

    def full(home: Home, file: HomeFile, content: bytes) -> None:
        raise StorageFull("no space is left")

    with monkeypatch.context() as patched:
        patched.setattr(Home, "write", full)
        with pytest.raises(Refused, match="cannot answer now") as caught:
            late.ask(late.challenge())
        assert "space" not in str(caught.value)
    assert issuing.home.need(HomeFile.AUTHORITY) == kept
    assert late.ask(late.challenge())


def test_the_issuers_own_host_renews_itself_however_long_it_was_off(issuing: Issuing) -> None:
    identity = load_identity(issuing.home)
    before = parse_leaf(identity.leaf)
    issuing.clock.unix += 400 * 86_400
    answer = trio.run(issuing.desk.renew, identity.peer_id)
    renewed = open_renewal(answer, identity.trust, before)
    assert renewed.leaf.peer_id == identity.peer_id
    assert renewed.leaf.not_after_unix_s > issuing.clock.unix


def test_renewing_the_issuers_own_host_changes_no_roster(issuing: Issuing) -> None:
    identity = load_identity(issuing.home)
    steward = Steward(desk=issuing.desk, keys=identity.keys, secret=ENTROPY.secret)
    steward.create("open", public=True, empty=False)
    steward.remove("open", identity.peer_id)
    before = issuing.desk.authority
    issuing.clock.unix += 60
    trio.run(issuing.desk.renew, identity.peer_id)
    assert issuing.desk.authority.tenants == before.tenants
    assert issuing.desk.authority.hosts != before.hosts


def test_the_addresses_of_its_listener_are_told_with_each_renewal(issuing: Issuing) -> None:
    late = Late(issuing)
    issuing.clock.unix += 60
    issuing.desk.addresses = tuple(Address(f"10.0.0.{n}", 7402) for n in range(20))
    request = make_renew_request(late.keys, late.leaf, late.challenge())
    answer = trio.run(issuing.desk.answer, request, FAR)
    told = open_renewal(answer, late.trust, late.leaf).addresses
    assert len(told) == 16
    assert told[0] == "10.0.0.0:7402"


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


def test_an_issuer_restored_from_an_old_copy_goes_on_from_what_the_overlay_knows(
    issuing: Issuing,
) -> None:
    identity = load_identity(issuing.home)
    ticket = issuing.desk.invite(["a"], [HERE], 60)
    copy = issuing.home.read(HomeFile.AUTHORITY)
    assert copy is not None
    steward = Steward(desk=issuing.desk, keys=identity.keys, secret=ENTROPY.secret)
    for _ in range(3):
        steward.rotate("a", hard=False)
    epochs = Epochs(trust=lambda: identity.trust, keys=identity.keys)
    for data in issuing.epochs:
        epochs.take(data, 0.0, issuing.clock.unix_s(), RevocationSet())
    issuing.home.write(HomeFile.AUTHORITY, copy)

    def opened() -> IssuerDesk:
        return IssuerDesk(
            issuing.home,
            identity,
            issuing.clock,
            ENTROPY,
            issuing.epochs.append,
            epochs=lambda: epochs,
        )

    desk = opened()
    content = Steward(desk=desk, keys=identity.keys, secret=ENTROPY.secret).rotate("a", hard=False)
    assert content.epoch > 4, "above all that it had signed before, so that members take it"
    taken = epochs.take(issuing.epochs[-1], 0.0, issuing.clock.unix_s(), RevocationSet())
    assert taken is not None
    # Without being able to read what it has signed since, it does nothing that would be in vain.
    epochs.mine.clear()
    issuing.home.write(HomeFile.AUTHORITY, copy)
    desk = opened()
    with pytest.raises(HomeError, match="restore a newer copy"):
        Steward(desk=desk, keys=identity.keys, secret=ENTROPY.secret).rotate("a", hard=False)
    with pytest.raises(HomeError, match="restore a newer copy"):
        desk.invite(["a"], [HERE], 60)
    keys = HostKeys.generate(SeededEntropy(9, "host").secret)
    answer = trio.run(desk.admit, make_join_request(keys, ticket), FAR)
    with pytest.raises(SecurityError):
        open_admission(answer, ticket, keys, issuing.clock.unix_s())


def test_tickets_of_an_old_copy_are_void_once_it_is_found_to_be_one(
    issuing: Issuing, caplog: pytest.LogCaptureFixture
) -> None:
    identity = load_identity(issuing.home)
    first, second = (issuing.desk.invite(["a"], [HERE], 600) for _ in range(2))
    issuing.admitted(first)
    copy = issuing.home.need(HomeFile.AUTHORITY)
    issuing.admitted(second, host=2)
    epochs = Epochs(trust=lambda: identity.trust, keys=identity.keys)
    for data in issuing.epochs:
        epochs.take(data, 0.0, issuing.clock.unix_s(), RevocationSet())
    issuing.home.write(HomeFile.AUTHORITY, copy)
    issuing.desk = issuing.opened()
    issuing.desk._epochs = lambda: epochs
    with pytest.raises(TicketUnknown):
        issuing.admitted(second, host=3)
    assert "rhizome ca http-name" in caplog.text, "names are as they were then"
    assert issuing.admitted(first) == ["a"], "who has used one may ask again"
    issuing.home.write(HomeFile.AUTHORITY, copy)
    issuing.desk = issuing.opened()
    issuing.desk._epochs = lambda: epochs
    fresh = issuing.desk.invite(["a"], [HERE], 600)
    assert issuing.admitted(fresh, host=4) == ["a"], "made after the copy was found out"


def test_what_was_revoked_is_stored_first_and_told_again_at_each_start(
    issuing: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[list[bytes], list[bytes]]] = []

    def opened() -> IssuerDesk:
        identity = load_identity(issuing.home)
        return IssuerDesk(
            issuing.home,
            identity,
            issuing.clock,
            ENTROPY,
            issuing.epochs.append,
            on_revoked=lambda statements, issuers: told.append(([*statements], [*issuers])),
        )

    desk = opened()
    with monkeypatch.context() as patched:
        patched.setattr(Home, "write", full)
        with pytest.raises(StorageFull):
            desk.revoke("0a" * 16, "lost")
    assert told == [], "nothing was said"
    desk.revoke("0a" * 16, "lost")
    desk.revoke("0b" * 16, "")
    said = [statement for statements, _ in told for statement in statements]
    assert len(said) == 2
    told.clear()
    opened().say_again()
    assert told == [(said, [issuing.home.need(HomeFile.ISSUER)])]


def test_what_finds_no_room_any_more_does_not_end_a_start(
    issuing: Issuing, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise LimitExceeded("no room")

    desk = IssuerDesk(
        issuing.home,
        issuing.desk._identity,
        issuing.desk._clock,
        issuing.desk._entropy,
        lambda _: None,
        on_revoked=refuse,
    )
    desk.say_again()
    assert "no room" in caplog.text


def full(home: Home, file: HomeFile, content: bytes) -> None:
    raise StorageFull("no space is left")


def test_tokens_are_listed_until_they_end(issuing: Issuing) -> None:
    first = issuing.desk.create_token("a", "web", 60)
    second = issuing.desk.create_token("b", "phone", 600)
    desk = issuing.opened()
    assert [row.token_id for row in desk.tokens()] == [first.token_id, second.token_id]
    assert [desk.tenant_name(row.tenant_id) for row in desk.tokens()] == ["a", "b"]
    issuing.clock.unix += 60
    assert [row.token_id for row in desk.tokens()] == [second.token_id]
    known = desk.known_ids(["other"])
    assert dict(known.tokens) == {second.token_id: "phone"}
    assert {"other", issuing.desk._identity.peer_id} <= set(known.peers)
