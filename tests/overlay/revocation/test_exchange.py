"""The exchange of revocations between pairs of hosts: what comes over, and what is refused."""

from __future__ import annotations

import pytest

from overlay.errors import ProtocolError
from overlay.revocation import exchange as module
from overlay.revocation.exchange import AGAINST_MAX, Exchange
from overlay.revocation.messages import MARK_BYTES, PART_STATEMENTS, VERSION, Compare, encode
from overlay.trust.book import TrustBook
from security.certificate import make_issuer
from security.errors import LimitExceeded, SecurityError
from security.revocation import RevocationSet, make_revocation
from security.signed import Kind, sign_as_issuer, sign_as_peer
from tests.overlay.revocation.pair import OVERLAY, SECOND, Host, merged, said
from tests.security.world import NOW_S, Overlay, seeded


def test_what_one_lacks_comes_over_in_one_question() -> None:
    a, b = Host("a"), Host("b")
    for id_ in ("x", "y"):
        a.revoke(id_)
    b.revoke("z")
    assert b.ask(a) == 1
    assert b.ids == {"x", "y", "z"}
    assert a.ids == {"x", "y"}
    assert a.ask(b) == 1
    assert a.exchange.known.digest == b.exchange.known.digest


def test_equal_sets_are_settled_by_their_digests() -> None:
    a, b = Host("a"), Host("b")
    for host in (a, b):
        host.revoke("x")
    question = a.exchange.compare(b.exchange.known.digest)
    assert question.marks == b""
    (part,) = b.exchange.answer(question)
    assert (part.statements, part.issuers, part.more) == ([], [], False)


def test_a_digest_that_was_seen_too_early_costs_one_more_question() -> None:
    a, b = Host("a"), Host("b")
    a.revoke("x")
    b.revoke("x")
    seen = b.exchange.known.digest
    b.revoke("y")
    assert a.ask(b, seen) == 2
    assert a.ids == {"x", "y"}


def test_an_empty_set_needs_no_marks_to_get_all() -> None:
    a, b = Host("a"), Host("b")
    b.revoke("x")
    assert a.ask(b, RevocationSet().digest) == 1
    assert a.ids == {"x"}


@pytest.mark.parametrize("count", [PART_STATEMENTS - 1, PART_STATEMENTS, 2 * PART_STATEMENTS + 1])
def test_large_sets_come_in_parts(count: int) -> None:
    a, b = Host("a"), Host("b")
    a.learn([said(str(number)) for number in range(count)], [])
    parts = list(a.exchange.answer(b.exchange.compare(a.exchange.known.digest)))
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert all(len(encode(part)) < 1 << 20 for part in parts)
    b.ask(a)
    assert b.exchange.known.digest == a.exchange.known.digest
    since = 0
    c = Host("c")
    while since < a.exchange.end:
        since = a.tell(c, since)
    assert c.exchange.known.digest == a.exchange.known.digest


def test_an_issuer_that_nobody_knew_is_shown_beside_its_statements_and_told_on() -> None:
    a, b, c = Host("a"), Host("b"), Host("c")
    a.revoke("x", SECOND)
    b.ask(a)
    b.start()
    assert b.ids == {"x"}, "its certificate is stored too"
    b.tell(c, 0)
    assert c.ids == {"x"}


def test_a_statement_of_an_issuer_that_is_not_shown_is_refused() -> None:
    a = Host("a")
    with pytest.raises(ProtocolError, match="UntrustedIssuer"):
        a.learn([said("x", SECOND)], [])
    assert a.ids == set()


def test_what_is_no_statement_of_this_overlays_issuers_is_refused() -> None:
    a, foreign = Host("a"), Overlay(2)
    host = OVERLAY.host()
    altered = bytearray(said("x"))
    altered[-1] ^= 1
    for statement, issuers in (
        (b"", []),
        (b"\xc1", []),
        (bytes(altered), []),
        (said("x")[:-1], []),
        (said("x") + b"\x00", []),
        (said("x", foreign.issuer), [foreign.issuer.der]),
        (sign_as_peer(host, OVERLAY.overlay_id, Kind.REVOCATION, b"\x80"), []),
        (sign_as_issuer(OVERLAY.issuer, Kind.REVOCATION, b"\x80"), []),
        (sign_as_issuer(OVERLAY.issuer, Kind.EPOCH, b"\x80"), []),
        (said("x", SECOND), [OVERLAY.leaf(host)]),
    ):
        with pytest.raises(ProtocolError):
            a.learn([statement], issuers)
    assert a.ids == set()
    assert not a.rows


def test_one_bad_statement_keeps_those_beside_it_out() -> None:
    a = Host("a")
    with pytest.raises(ProtocolError):
        a.learn([said("x"), said("y")[:-1]], [])
    assert a.ids == set()


def test_marks_that_are_cut_off_are_a_fault() -> None:
    a = Host("a")
    a.revoke("x")
    question = Compare(v=VERSION, digest=bytes(16), marks=bytes(MARK_BYTES + 1))
    with pytest.raises(ProtocolError):
        list(a.exchange.answer(question))


def test_news_does_not_go_back_to_whom_it_came_from() -> None:
    a, b, c = Host("a"), Host("b"), Host("c")
    a.revoke("x")
    b.ask(a)
    assert b.exchange.news(0, a.peer_id) == (None, 1)
    message, until = b.exchange.news(0, c.peer_id)
    assert message is not None
    assert (message.statements, until) == ([said("x")], 1)


def test_whom_many_statements_concern_is_shown_a_few_of_them() -> None:
    a = Host("a")
    statements = [
        make_revocation(OVERLAY.issuer, "x", NOW_S + number, reason="r" * 128)
        for number in range(20)
    ]
    a.learn(statements, [])
    a.revoke("y")
    told = a.exchange.against("x")
    assert told is not None
    assert (len(told.statements), told.issuers) == (AGAINST_MAX, [OVERLAY.issuer.der])
    assert set(told.statements) <= set(statements)
    assert a.exchange.against("z") is None


def test_nothing_is_believed_before_it_is_prepared_and_stored() -> None:
    a = Host("a")
    prepared = a.exchange.prepare(a.exchange.check([said("x")]))
    assert a.ids == set()
    assert prepared.merged.revokes("x")
    assert len(prepared.rows) == 2


def test_a_full_set_takes_no_more_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("security.revocation.STATEMENTS_MAX", 2)
    a = Host("a")
    for id_ in ("x", "y"):
        a.revoke(id_)
    with pytest.raises(LimitExceeded, match="the set only grows"):
        a.revoke("z")
    assert a.ids == {"x", "y"}


def test_what_one_issuer_says_too_much_is_dropped_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overlay.revocation.exchange.REVOKED_MAX", 2)
    a = Host("a")
    a.revoke("w")
    flood = [said(str(number), SECOND) for number in range(5)]
    a.learn([*flood, said("x")], [SECOND.der])
    assert {"w", "x"} < a.ids
    assert len(a.ids) == 4
    assert a.exchange.dropped == {SECOND.issuer_id: 3}
    # Both have all that they had room for, and neither asks for the rest again.
    b = Host("b")
    b.learn(flood[::-1], [SECOND.der])
    assert a.ask(b) == b.ask(a) == 1
    for one, other in ((a, b), (b, a)):
        parts = list(other.exchange.answer(one.exchange.compare(other.exchange.known.digest)))
        assert [part.statements for part in parts] == [[]]
    a.start()
    assert len(a.ids) == 4


def test_the_first_statement_against_a_known_issuer_always_finds_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overlay.revocation.exchange.REVOKED_MAX", 1)
    a = Host("a")
    a.revoke("w")
    a.revoke("x", SECOND)
    a.revoke(SECOND.issuer_id)
    a.revoke(OVERLAY.issuer.issuer_id)
    assert a.ids == {"w", "x", SECOND.issuer_id, OVERLAY.issuer.issuer_id}
    again = make_revocation(OVERLAY.issuer, SECOND.issuer_id, NOW_S + 1)
    a.learn([again], [])
    assert again not in a.exchange.known.statements


def test_a_revoked_issuers_statements_still_hold_whatever_came_first() -> None:
    a, b = Host("a"), Host("b")
    a.revoke(SECOND.issuer_id)
    b.revoke("x", SECOND)
    b.revoke(OVERLAY.issuer.issuer_id, SECOND)
    merged(a, b)
    assert a.exchange.known == b.exchange.known
    assert a.ids == {"x", SECOND.issuer_id, OVERLAY.issuer.issuer_id}


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"s"])
def test_a_damaged_row_is_an_error_and_not_a_smaller_set(damage: bytes) -> None:
    a = Host("a")
    a.revoke("x")
    key = next(key for key in a.rows if key[:1] == b"s")
    with pytest.raises(SecurityError):
        Exchange(TrustBook(OVERLAY.trust, {}), {**a.rows, key: damage})


def test_issuers_beyond_what_trust_holds_are_refused() -> None:
    a = Host("a")
    for seed in range(63):
        issuer = make_issuer(OVERLAY.root, seeded(100 + seed), NOW_S)
        a.learn([said(str(seed), issuer)], [issuer.der])
    with pytest.raises(ProtocolError, match="LimitExceeded"):
        a.learn([said("x", SECOND)], [SECOND.der])
    assert module.mark_of(said("0")) != module.mark_of(said("1"))
