"""What two hosts believe of issuers, without sockets: it grows, and ends equal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ProtocolError
from overlay.trust.book import MARK_BYTES, TrustBook, marks_in
from overlay.trust.messages import Question, decode_lacking, decode_question, encode
from security.certificate import ISSUER_LIFETIME_S, make_issuer, renew_issuer
from security.errors import BadSignature, LimitExceeded, UntrustedIssuer, WrongOverlay
from security.issuer_card import make_card
from security.root_bundle import CHAIN_MAX
from security.trust import ISSUERS_MAX
from tests.security.world import NOW_S, Overlay, seeded

OVERLAY = Overlay(1)
FOREIGN = Overlay(2)
SECRET = seeded(3)
ISSUERS = [make_issuer(OVERLAY.root, SECRET, NOW_S) for _ in range(4)]
NEWER = [
    renew_issuer(OVERLAY.root, each, SECRET, NOW_S + ISSUER_LIFETIME_S / 2) for each in ISSUERS
]
DERS = [each.der for each in (*ISSUERS, *NEWER)]
CARDS = [make_card(each, [f"192.0.2.{seq}:7402"], seq) for each in ISSUERS for seq in (1, 2)]


def book(*ders: bytes) -> TrustBook:
    made = TrustBook(OVERLAY.trust, {})
    made.learn(issuers=ders)
    return made


def ask(asker: TrustBook, answerer: TrustBook) -> None:
    """One call, through the bytes that it is made of."""
    question = decode_question(encode(asker.question(asker.marks())))
    answerer.learn(issuers=question.issuers, cards=question.cards)
    answer = decode_lacking(encode(answerer.answer(question)))
    asker.learn(issuers=answer.issuers, cards=answer.cards)


@given(st.lists(st.sampled_from(DERS)), st.lists(st.sampled_from(DERS)))
def test_two_that_have_asked_each_other_believe_the_same(
    left: list[bytes], right: list[bytes]
) -> None:
    a, b = book(*left), book(*right)
    ask(a, b)
    ask(b, a)
    assert a.now == b.now
    assert a.marks() == b.marks()
    shown = {*left, *right}
    for old, new in zip(ISSUERS, NEWER, strict=True):
        best = new.der if new.der in shown else old.der if old.der in shown else None
        found = a.now.issuers.get(old.issuer_id)
        assert (None if found is None else found.der) == best
    assert not a.answer(b.question(b.marks())).issuers, "nothing is told twice"


@given(st.lists(st.sampled_from(CARDS)), st.lists(st.sampled_from(CARDS)))
def test_of_two_cards_the_higher_number_counts_on_both_sides(
    left: list[bytes], right: list[bytes]
) -> None:
    a, b = book(*DERS), book(*DERS)
    a.learn(cards=left)
    b.learn(cards=right)
    ask(a, b)
    ask(b, a)
    assert a.marks() == b.marks()
    assert TrustBook(OVERLAY.trust, a.rows()).rows() == a.rows()
    for place, issuer in enumerate(ISSUERS):
        old, new = CARDS[2 * place : 2 * place + 2]
        shown = {*left, *right} & {old, new}
        best = new if new in shown else old if old in shown else None
        found = a.cards.get(issuer.issuer_id)
        assert (None if found is None else found.data) == best


def test_an_issuers_card_by_another_issuer_is_refused() -> None:
    believer = book(ISSUERS[0].der, ISSUERS[1].der)
    forged = replace(ISSUERS[1], issuer_id=ISSUERS[0].issuer_id)
    with pytest.raises(BadSignature):
        believer.learn(cards=[make_card(forged, ["192.0.2.9:1"], 9)])
    with pytest.raises(WrongOverlay):
        believer.learn(cards=[make_card(FOREIGN.issuer, ["192.0.2.9:1"], 9)])
    with pytest.raises(UntrustedIssuer):
        believer.learn(cards=[make_card(ISSUERS[2], ["192.0.2.9:1"], 9)])
    assert believer.cards == {}
    with pytest.raises(LimitExceeded):
        make_card(ISSUERS[0], ["a"] * 17, 1)


@given(st.lists(st.sampled_from(DERS)))
def test_the_rows_alone_bring_it_back(shown: list[bytes]) -> None:
    first = book(*shown)
    again = TrustBook(OVERLAY.trust, first.rows())
    assert (again.now, again.rows()) == (first.now, first.rows())


def test_news_goes_with_the_question() -> None:
    a, b = book(), book()
    known = a.marks()
    a.learn(issuers=[ISSUERS[0].der])
    question = a.question(known)
    assert question.issuers == [ISSUERS[0].der]
    b.learn(issuers=question.issuers)
    assert b.answer(question).issuers == []
    assert a.now == b.now


def test_an_issuer_of_a_foreign_root_changes_nothing() -> None:
    believer = book(ISSUERS[0].der)
    before = believer.now
    with pytest.raises(UntrustedIssuer):
        believer.learn(issuers=[FOREIGN.issuer.der])
    assert believer.now is before


def test_one_more_than_are_taken_is_refused_and_the_known_ones_stay() -> None:
    believer = book(*(make_issuer(OVERLAY.root, SECRET, NOW_S).der for _ in range(ISSUERS_MAX - 1)))
    before = believer.now
    assert len(before.issuers) == ISSUERS_MAX
    with pytest.raises(LimitExceeded):
        believer.learn(issuers=[ISSUERS[0].der])
    assert believer.now is before
    newer = renew_issuer(OVERLAY.root, OVERLAY.issuer, SECRET, NOW_S + 86_400)
    believer.learn(issuers=[newer.der])  # a newer certificate needs no room
    assert believer.now.issuer(OVERLAY.issuer.issuer_id).der == newer.der
    assert len(encode(believer.question(set()))) < 1 << 20


def test_a_stored_row_that_is_not_our_roots_is_passed_over() -> None:
    rows = {b"i" + bytes(16): FOREIGN.issuer.der, b"i" + b"\1" * 16: ISSUERS[0].der, b"i": b"torn"}
    believer = TrustBook(OVERLAY.trust, rows)
    assert believer.unbelieved == 2
    assert set(believer.now.issuers) == {OVERLAY.issuer.issuer_id, ISSUERS[0].issuer_id}


def test_marks_that_are_cut_off_are_a_fault() -> None:
    whole = Question(v=1, marks=bytes(MARK_BYTES), issuers=[], roots=[], cards=[])
    assert marks_in(whole) == {bytes(MARK_BYTES)}
    with pytest.raises(ProtocolError):
        book().answer(Question(v=1, marks=bytes(MARK_BYTES + 1), issuers=[], roots=[], cards=[]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode(Question(v=2, marks=b"", issuers=[], roots=[], cards=[])),
        encode(Question(v=1, marks=b"", issuers=[b""] * (ISSUERS_MAX + 1), roots=[], cards=[])),
        encode(Question(v=1, marks=b"", issuers=[bytes(2049)], roots=[], cards=[])),
        encode(Question(v=1, marks=b"", issuers=[], roots=[b""] * (CHAIN_MAX + 1), cards=[])),
    ],
)
def test_what_is_no_question_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_question(data)
    with pytest.raises(ProtocolError):
        decode_lacking(data)
