"""Renewing a certificate: who gets one, for which proof, and what is made of the answer."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import LEAF_LIFETIME_S, Leaf, issue_leaf, make_issuer, parse_leaf
from security.errors import (
    BadSignature,
    Expired,
    HostUnknown,
    IdentityMismatch,
    LimitExceeded,
    MalformedObject,
    Refused,
    Revoked,
    SecurityError,
    StaleChallenge,
    UnsupportedVersion,
    UntrustedIssuer,
    WrongKind,
    WrongOverlay,
)
from security.hosts import HOSTS_MAX, EnrolledHost, with_host
from security.keys import HostKeys
from security.peer_id import PeerId
from security.renewal import (
    CHALLENGE_REQUEST,
    CHALLENGE_S,
    Challenges,
    RenewRefusal,
    challenge_answer,
    make_renew_request,
    make_renewal,
    open_challenge,
    open_renewal,
    reason_in,
    refuse_renewal,
    refuse_renewal_as,
    verify_renew_request,
    with_reason,
)
from security.signed import Kind, claims_kind, sign_as_peer
from tests.security.world import DAY_S, NOTHING, NOW_S, Member, Overlay, member, seeded

CHALLENGE = bytes(range(32))


def renewed(
    world: Member, now_s: float = NOW_S + 100, lifetime_s: float = LEAF_LIFETIME_S
) -> tuple[Authority, Leaf]:
    authority, leaf = world.authority.renew(
        world.keys.peer_id, seeded(5), now_s, NOTHING, lifetime_s=lifetime_s
    )
    return authority, parse_leaf(leaf)


# -- the authority


def test_a_host_gets_another_certificate_for_the_same_key() -> None:
    world = member()
    before = parse_leaf(world.leaf)
    authority, leaf = renewed(world)
    assert leaf.peer_id == before.peer_id
    assert leaf.serial != before.serial
    assert leaf.issued_unix_s == before.issued_unix_s + 100
    assert leaf.lifetime_s == before.lifetime_s == LEAF_LIFETIME_S == DAY_S
    assert authority.hosts[world.keys.peer_id].leaf_ends_unix_s == leaf.not_after_unix_s
    assert authority.tenants == world.authority.tenants, "rosters are as they were"


def test_a_life_is_as_long_as_the_issuer_says() -> None:
    world = member()
    assert renewed(world, lifetime_s=4.0)[1].lifetime_s == 4


def test_thirty_days_past_its_end_and_no_longer() -> None:
    world = member()
    end_s = parse_leaf(world.leaf).not_after_unix_s
    assert renewed(world, end_s + 30 * DAY_S)[1].peer_id == world.keys.peer_id
    with pytest.raises(Expired, match="more than 30 days ago"):
        renewed(world, end_s + 30 * DAY_S + 1)


def test_strangers_and_the_revoked_get_nothing() -> None:
    world = member()
    with pytest.raises(HostUnknown):
        world.authority.renew(HostKeys.generate(seeded(8)).peer_id, seeded(5), NOW_S, NOTHING)
    overlay = Overlay()
    for revoked in (world.keys.peer_id, world.authority.issuer.issuer_id):
        with pytest.raises(Revoked):
            world.authority.renew(world.keys.peer_id, seeded(5), NOW_S, overlay.revoked(revoked))


def test_the_hosts_are_kept_with_the_state_and_an_older_state_takes_them_from_rosters() -> None:
    world = member()
    data = authority_to_bytes(world.authority)
    assert authority_from_bytes(data).hosts == world.authority.hosts
    fields = msgspec.msgpack.decode(data)
    del fields["hosts"]
    older = authority_from_bytes(msgspec.msgpack.encode(fields))
    expected = EnrolledHost(sealing_public=world.keys.sealing_public, leaf_ends_unix_s=None)
    assert older.hosts == {world.keys.peer_id: expected}
    authority, _ = older.renew(world.keys.peer_id, seeded(5), NOW_S + 400 * DAY_S, NOTHING)
    assert authority.hosts[world.keys.peer_id].leaf_ends_unix_s is not None


def test_hosts_are_bounded_and_those_that_can_only_join_again_make_room() -> None:
    world = member()
    old = EnrolledHost(sealing_public=bytes(32), leaf_ends_unix_s=int(NOW_S))
    crowd = MappingProxyType({PeerId(str(n)): old for n in range(HOSTS_MAX)})
    with pytest.raises(LimitExceeded):
        with_host(crowd, world.leaf, world.keys.sealing_public, NOW_S)
    later = with_host(crowd, world.leaf, world.keys.sealing_public, NOW_S + 31 * DAY_S)
    assert list(later) == [world.keys.peer_id]
    known = {**crowd, world.keys.peer_id: old}
    assert len(with_host(known, world.leaf, bytes(32), NOW_S)) == HOSTS_MAX + 1


# -- challenge and request


def test_a_challenge_is_good_once_for_a_while_and_for_its_maker() -> None:
    challenges, others = Challenges(seeded(1)), Challenges(seeded(2))
    challenge = challenges.make(1000.0)
    with pytest.raises(StaleChallenge):
        others.take(challenge, 1000.0)
    with pytest.raises(StaleChallenge):
        challenges.take(challenge, 1000.1 + CHALLENGE_S)
    challenges.take(challenge, 1000.0 + CHALLENGE_S)
    with pytest.raises(StaleChallenge):
        challenges.take(challenge, 1000.0 + CHALLENGE_S)
    for bit in range(0, 256, 7):
        altered = bytearray(challenges.make(1000.0))
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StaleChallenge):
            challenges.take(bytes(altered), 1000.0)


def test_strangers_who_ask_for_challenges_leave_nothing_behind() -> None:
    challenges = Challenges(seeded(1))
    made = {challenges.make(5.0) for _ in range(1000)}
    assert len(made) == 1000, "no two are alike"
    assert not challenges._used
    for challenge in made:
        challenges.take(challenge, 6.0)
    challenges.take(challenges.make(100.0), 100.0)
    assert len(challenges._used) == 1, "those that count no more are forgotten"


def test_a_request_is_of_one_host_issuer_overlay_and_kind() -> None:
    overlay, other = Overlay(), Overlay(2)
    keys = overlay.host()
    leaf = parse_leaf(overlay.leaf(keys))
    request = make_renew_request(keys, leaf, CHALLENGE)
    asked = verify_renew_request(request, overlay.issuer)
    assert (asked.before, asked.sealing) == (None, b"")
    assert (asked.peer_id, asked.challenge, asked.before) == (keys.peer_id, CHALLENGE, None)
    assert claims_kind(request, Kind.RENEW)
    assert not claims_kind(request, Kind.JOIN)
    assert not claims_kind(CHALLENGE_REQUEST, Kind.RENEW)
    second = make_issuer(overlay.root, seeded(4), NOW_S)
    with pytest.raises(UntrustedIssuer):
        verify_renew_request(request, second)
    with pytest.raises(WrongOverlay):
        verify_renew_request(request, other.issuer)
    thief = replace(overlay.host(), peer_id=keys.peer_id)
    with pytest.raises(BadSignature):
        verify_renew_request(make_renew_request(thief, leaf, CHALLENGE), overlay.issuer)
    body = sign_as_peer(keys, overlay.overlay_id, Kind.JOIN, b"x")
    with pytest.raises(WrongKind):
        verify_renew_request(body, overlay.issuer)


# -- the answer


def answered(world: Member) -> tuple[bytes, Leaf]:
    authority, leaf = renewed(world)
    return make_renewal(authority.issuer, leaf.der, ["192.0.2.1:7402"]), leaf


def test_the_answer_brings_certificate_and_addresses() -> None:
    world = member()
    answer, leaf = answered(world)
    renewal = open_renewal(answer, world.authority.trust, parse_leaf(world.leaf))
    assert renewal.leaf == leaf
    assert renewal.addresses == ("192.0.2.1:7402",)


def test_a_shorter_life_is_taken_and_an_older_certificate_is_not() -> None:
    world = member()
    _, long = renewed(world, NOW_S + 50, lifetime_s=90 * DAY_S)
    answer, leaf = answered(world)
    assert leaf.not_after_unix_s < long.not_after_unix_s
    assert open_renewal(answer, world.authority.trust, long).leaf == leaf
    for before in (leaf, renewed(world, NOW_S + 101)[1]):
        with pytest.raises(Refused, match="no newer"):
            open_renewal(answer, world.authority.trust, before)


def test_an_answer_of_another_issuer_host_or_root_is_refused() -> None:
    world = member()
    before, trust = parse_leaf(world.leaf), world.authority.trust
    root = world.authority.root
    second = make_issuer(root, seeded(4), NOW_S)
    foreign = issue_leaf(second, before.peer_id, seeded(5), NOW_S + 100)
    with pytest.raises(UntrustedIssuer, match="another issuer"):
        open_renewal(make_renewal(second, foreign, []), trust, before)
    stranger = HostKeys.generate(seeded(6))
    theirs = issue_leaf(world.authority.issuer, stranger.peer_id, seeded(5), NOW_S + 100)
    with pytest.raises(IdentityMismatch):
        open_renewal(make_renewal(world.authority.issuer, theirs, []), trust, before)
    other = Overlay(2)
    outside = issue_leaf(other.issuer, before.peer_id, seeded(5), NOW_S + 100)
    with pytest.raises(UntrustedIssuer):
        open_renewal(make_renewal(other.issuer, outside, []), trust, before)


def test_in_place_of_an_issuer_that_is_over_another_one_answers() -> None:
    world = member()
    before, trust = parse_leaf(world.leaf), world.authority.trust
    second = make_issuer(world.authority.root, seeded(4), NOW_S)
    early = issue_leaf(second, before.peer_id, seeded(5), NOW_S - 60)  # its clock is behind
    answer = make_renewal(second, early, [])
    assert open_renewal(answer, trust, before, is_over=True).leaf.der == early
    theirs = issue_leaf(second, HostKeys.generate(seeded(6)).peer_id, seeded(5), NOW_S)
    with pytest.raises(IdentityMismatch):
        open_renewal(make_renewal(second, theirs, []), trust, before, is_over=True)
    mixed = make_renewal(
        second, issue_leaf(world.authority.issuer, before.peer_id, seeded(5), NOW_S), []
    )
    with pytest.raises(UntrustedIssuer):
        open_renewal(mixed, trust, before, is_over=True)
    foreign = Overlay(2)
    outside = issue_leaf(foreign.issuer, before.peer_id, seeded(5), NOW_S)
    with pytest.raises(UntrustedIssuer):
        open_renewal(make_renewal(foreign.issuer, outside, []), trust, before, is_over=True)


def test_an_answer_says_why_it_is_another_issuers() -> None:
    answer, _ = answered(member())
    assert reason_in(answer) == b""
    assert reason_in(with_reason(answer, b"statement")) == b"statement"
    refusal = refuse_renewal_as(RenewRefusal.REVOKED)
    assert with_reason(refusal, b"statement") == refusal
    assert reason_in(refusal) == b""


def test_whoever_passes_it_on_changes_no_byte_of_it() -> None:
    world = member()
    answer, _ = answered(world)
    before, trust = parse_leaf(world.leaf), world.authority.trust
    swapped = msgspec.msgpack.decode(answer)
    assert b"192.0.2.1:7402" in swapped["renewal"]
    swapped["renewal"] = swapped["renewal"].replace(b"192.0.2.1:7402", b"192.0.2.9:7402")
    with pytest.raises(BadSignature):
        open_renewal(msgspec.msgpack.encode(swapped), trust, before)
    for cut in range(0, len(answer), 97):
        with pytest.raises(SecurityError):
            open_renewal(answer[:cut], trust, before)
    with pytest.raises(MalformedObject):
        open_renewal(bytes(1 << 15), trust, before)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HostUnknown("x"), RenewRefusal.HOST_UNKNOWN),
        (Expired("x"), RenewRefusal.TOO_LATE),
        (Revoked("x"), RenewRefusal.REVOKED),
        (StaleChallenge("x"), RenewRefusal.STALE),
        (BadSignature("x"), RenewRefusal.INVALID),
        (None, RenewRefusal.UNAVAILABLE),
    ],
)
def test_every_refusal_comes_back_as_the_error_that_it_was(
    error: SecurityError | None, reason: RenewRefusal
) -> None:
    world = member()
    answer = refuse_renewal(error)
    assert answer == refuse_renewal_as(reason)
    kind = type(error) if reason not in {RenewRefusal.INVALID, RenewRefusal.UNAVAILABLE} else None
    with pytest.raises(kind or Refused) as caught:
        open_renewal(answer, world.authority.trust, parse_leaf(world.leaf))
    assert str(caught.value) != "x", "words of the issuer's host stay there"
    with pytest.raises(kind or Refused):
        open_challenge(answer)


def test_a_challenge_comes_whole_or_not_at_all() -> None:
    assert open_challenge(challenge_answer(CHALLENGE)) == CHALLENGE
    later = msgspec.msgpack.encode({"type": "challenge", "v": 2, "more": 1})
    with pytest.raises(UnsupportedVersion):
        open_challenge(later)
    for data in (b"", challenge_answer(CHALLENGE)[:-1], bytes(5000)):
        with pytest.raises(MalformedObject):
            open_challenge(data)


@given(st.binary(max_size=300))
def test_garbage_is_no_answer_and_no_request(data: bytes) -> None:
    overlay = Overlay()
    before = parse_leaf(overlay.leaf(overlay.host()))
    for read in (
        lambda: open_renewal(data, overlay.trust, before),
        lambda: open_challenge(data),
        lambda: verify_renew_request(data, overlay.issuer),
    ):
        with pytest.raises(SecurityError):
            read()
    assert not claims_kind(data, Kind.RENEW)
