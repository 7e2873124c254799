"""Roots between two hosts, without sockets: bundles come first, and what follows is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.storage import SimStorage
from overlay.errors import StorageFull
from overlay.ports import Ports
from overlay.trust.book import TABLE, Taken, TrustBook, mark_of
from overlay.trust.keeper import TrustKeeper
from overlay.trust.messages import decode_lacking, decode_question, encode
from security.certificate import make_next_root, renew_issuer
from security.errors import UntrustedIssuer, UntrustedRoot
from security.issuer_card import make_card
from security.root_bundle import make_bundle
from security.trust import Trust
from tests.security.rotations import Rotated
from tests.security.world import NOW_S, Overlay, seeded

TWICE = Rotated(rotations=2)
NEW = renew_issuer(TWICE.keys[2], TWICE.issuer, seeded(4), NOW_S)
HOST = TWICE.host().peer_id
ENDS = int(NOW_S)


def book() -> TrustBook:
    return TrustBook(TWICE.trust, {})


def ask(asker: TrustBook, answerer: TrustBook) -> None:
    """One call, through the bytes that it is made of."""
    question = decode_question(encode(asker.question(asker.marks())))
    answerer.learn(issuers=question.issuers, roots=question.roots)
    answer = decode_lacking(encode(answerer.answer(question)))
    asker.learn(issuers=answer.issuers, roots=answer.roots)


@given(st.integers(0, 4), st.integers(0, 4))
def test_two_that_have_asked_each_other_trust_the_same_roots(left: int, right: int) -> None:
    one, other = book(), book()
    for told, count in ((one, left), (other, right)):
        told.learn(roots=TWICE.told[:count])
        if count == len(TWICE.told):
            told.learn(issuers=[NEW.der])
    ask(one, other)
    ask(other, one)
    assert one.now == other.now
    assert one.now.roots == TWICE.trust.roots.learn(TWICE.told[: max(left, right)])


def test_an_issuer_comes_with_the_root_that_has_signed_it() -> None:
    """In one message: the bundles are taken first."""
    knows, lacks = book(), book()
    knows.learn(roots=TWICE.told, issuers=[NEW.der])
    ask(lacks, knows)
    assert lacks.now.issuer(TWICE.issuer.issuer_id).der == NEW.der


def test_an_issuer_by_a_former_root_is_no_news_and_no_lie() -> None:
    told = book()
    told.learn(roots=TWICE.told, issuers=[NEW.der])
    before = told.now
    told.learn(issuers=[TWICE.issuer.der])
    assert told.now is before
    with pytest.raises(UntrustedIssuer):
        told.learn(issuers=[Overlay(2).issuer.der])


def test_a_stored_issuer_goes_with_its_root() -> None:
    told = TrustBook(TWICE.trust, {})
    key = b"i" + bytes.fromhex(TWICE.issuer.issuer_id)
    assert told.rows() == {key: TWICE.issuer.der}
    told.learn(cards=[make_card(TWICE.issuer, ["192.0.2.1:7402"], 1)])
    told.learn(roots=TWICE.told)
    assert told.rows() == {}, "its card goes with it"
    told.learn(issuers=[NEW.der])
    assert told.rows() == {key: NEW.der}


def test_which_bundle_a_peer_has_is_known_by_its_marks_and_never_falls() -> None:
    told = book()
    told.learn(roots=TWICE.told)
    overlap, drop = (mark_of(each) for each in TWICE.roots.bundles)
    told.note_taken(HOST, {bytes(12)}, ENDS)
    assert told.taken == {HOST: Taken(0, ENDS)}
    told.note_taken(HOST, {overlap, drop}, ENDS)
    assert told.taken == {HOST: Taken(5, ENDS)}
    told.note_taken(HOST, {overlap}, ENDS + 1)
    assert told.taken == {HOST: Taken(5, ENDS + 1)}
    assert TrustBook(TWICE.trust, told.rows()).taken == told.taken


def test_what_the_version_before_has_stored_of_a_peer_is_read() -> None:
    stored = {b"t" + HOST.encode(): bytes([0, 0, 0, 5]), b"t" + b"other": b"?"}
    assert TrustBook(TWICE.trust, stored).taken == {HOST: Taken(5, 0)}


def test_a_conflict_is_kept_for_the_owner_and_the_issuers_beside_it_are_taken() -> None:
    told = book()
    told.learn(roots=TWICE.told[:1])
    rogue = make_next_root(TWICE.overlay_id, 2, seeded(9), NOW_S)
    second = make_bundle(2, TWICE.keys[0], rogue, drop=False)
    issuer = renew_issuer(TWICE.keys[1], TWICE.issuer, seeded(4), NOW_S)
    before = told.now.roots
    told.learn(roots=[second], issuers=[issuer.der])
    assert told.now.roots is before
    assert told.conflict is not None
    assert told.now.issuer(TWICE.issuer.issuer_id).der == issuer.der
    follower = make_next_root(TWICE.overlay_id, 9, seeded(8), NOW_S)
    with pytest.raises(UntrustedRoot):
        told.learn(roots=[make_bundle(9, rogue, follower, drop=False)])


class Disk:
    """Where bundles are kept; it may be full."""

    def __init__(self) -> None:
        self.full = True
        self.kept: Sequence[bytes] = ()
        self.storage = SimStorage()

    def keep(self, bundles: tuple[bytes, ...]) -> None:
        if self.full:
            raise StorageFull("no space is left")
        self.kept = bundles


def test_what_cannot_be_kept_is_believed_and_kept_later(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    keeper = TrustKeeper(trust=TWICE.trust, ports=cast("Ports", disk), keep=disk.keep)
    seen: list[Trust] = []
    keeper.on_change = seen.append
    keeper.learn(roots=TWICE.told)
    assert keeper.now.roots == TWICE.roots
    assert seen == [TWICE.trust]
    assert (disk.kept, "roots are believed and not stored" in caplog.text) == ((), True)
    disk.full = False
    keeper.learn(issuers=[NEW.der])
    assert disk.kept == TWICE.roots.bundles
    assert NEW.der in disk.storage.read(TABLE).values()
