"""Root bundles: which are taken, in whatever order they come, and which never."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security import root_bundle
from security.certificate import Root, RootKey, make_next_root, parse_root
from security.errors import (
    BadSignature,
    LimitExceeded,
    Malformed,
    MalformedObject,
    RootConflict,
    SecurityError,
    UntrustedRoot,
    WrongOverlay,
)
from security.root_bundle import (
    BUNDLE_BYTES_MAX,
    CHAIN_MAX,
    NUMBER_MAX,
    TOLD_BYTES_MAX,
    BundleBody,
    Roots,
    SignedBundle,
    decode_bundles,
    encode_bundles,
    make_bundle,
    next_bundle,
    open_bundle,
)
from tests.security.rotations import Rotated
from tests.security.world import NOW_S, Overlay, seeded

THRICE = Rotated(rotations=3)
OVERLAPPING = Rotated(rotations=1)
OVERLAPPING.overlap()


def signed_by(
    number: int, old: Root, new: Root, signers: tuple[RootKey, RootKey], *, drop: bool = False
) -> bytes:
    """A bundle by an adversary that holds ``signers``."""
    body = msgspec.msgpack.encode(
        BundleBody(v=1, number=number, old=old.der, new=new.der, drop=drop)
    )
    overlay = bytes.fromhex(old.overlay_id)
    parts = [b"rhizome/roots/v1\0" + overlay, b"\x10"]
    signatures = [
        key.private.sign(b"".join([*parts, bytes.fromhex(parse_root(key.der).root_id), body]))
        for key in signers
    ]
    form = SignedBundle(v=1, overlay=overlay, body=body, signatures=signatures)
    return msgspec.msgpack.encode(form)


def test_a_rotation_is_an_overlap_and_a_drop() -> None:
    overlay = Rotated()
    before = overlay.roots
    assert (before.number, before.in_force, before.overlap) == (0, (overlay.root.der,), False)
    overlay.overlap()
    old, new = overlay.keys
    assert (overlay.roots.number, overlay.roots.in_force) == (2, (old.der, new.der))
    assert overlay.roots.overlap
    overlay.drop()
    assert (overlay.roots.number, overlay.roots.in_force) == (3, (new.der,))
    assert not overlay.roots.overlap
    assert overlay.roots.ever == (old.der, new.der)


def test_a_later_root_is_of_the_same_overlay_and_has_a_subject_of_its_own() -> None:
    subjects = {parse_root(key.der).subject for key in THRICE.keys}
    ids = {parse_root(key.der).overlay_id for key in THRICE.keys}
    assert len(subjects) == len(THRICE.keys)
    assert ids == {THRICE.overlay_id}
    assert [parse_root(key.der).number for key in THRICE.keys] == [1, 2, 4, 6]


def test_a_host_that_slept_over_every_rotation_gets_across() -> None:
    assert Roots.of(THRICE.root.der).learn(THRICE.roots.bundles) == THRICE.roots


@pytest.mark.parametrize("missing", range(1, 4))
def test_a_host_whose_ticket_had_a_later_root_goes_on_from_there(missing: int) -> None:
    """It has not heard of the rotations before, and what is told of them is no attack."""
    joined = Roots.of(THRICE.keys[missing].der).learn(THRICE.told)
    assert joined.in_force == THRICE.roots.in_force
    assert joined.number == THRICE.roots.number


def test_a_gap_in_the_chain_is_not_jumped() -> None:
    *_, last = THRICE.roots.bundles
    with pytest.raises(UntrustedRoot):
        Roots.of(THRICE.root.der).learn([last])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_bundles_in_any_order_and_number_lead_to_one_place_and_never_back(
    data: st.DataObject,
) -> None:
    overlay = OVERLAPPING if data.draw(st.booleans()) else THRICE
    told = overlay.told
    host, trusted = Roots.of(overlay.root.der), [Roots.of(overlay.root.der).in_force]
    for _ in range(data.draw(st.integers(0, 6))):
        some = data.draw(st.lists(st.sampled_from(told), max_size=len(told)))
        before = host
        try:
            host = host.learn(some)
        except UntrustedRoot:
            assert host is before
        assert host.number >= before.number
        trusted.append(host.in_force)
    assert host.learn(told) == overlay.roots
    numbers = [parse_root(roots[-1]).number for roots in trusted]
    assert numbers == sorted(numbers), "a root that was let go is back"


def test_equal_bundles_are_made_again_and_other_spellings_are_refused() -> None:
    overlay = Rotated()
    again = overlay.roots
    first = overlay.overlap()
    assert next_bundle(again, *overlay.keys, drop=False) == first
    fields = msgspec.msgpack.decode(first)
    longer = b"\x94\xd1" + int(fields[0]).to_bytes(2, "big") + first[2:]
    assert msgspec.msgpack.decode(longer) == fields
    with pytest.raises(MalformedObject):
        again.learn([longer])


# -- what never changes anything


def test_a_bundle_of_a_foreign_root() -> None:
    """One that only calls itself a root of this overlay."""
    honest, thief = Rotated(1), random.Random(9).randbytes
    rogue, second = (make_next_root(honest.overlay_id, n, thief, NOW_S) for n in (2, 3))
    for drop in (False, True):
        with pytest.raises(UntrustedRoot):
            honest.roots.learn([make_bundle(3, rogue, second, drop=drop)])
        forged = signed_by(2, honest.root, rogue, (rogue, rogue), drop=drop)
        with pytest.raises(BadSignature):
            honest.roots.learn([forged])
    with pytest.raises(WrongOverlay):
        honest.roots.learn([Rotated(2).overlap()])
    other = make_next_root(Overlay(2).overlay_id, 2, thief, NOW_S)
    with pytest.raises(WrongOverlay):
        honest.roots.learn([signed_by(2, honest.root, other, (honest.root, other))])


@pytest.mark.parametrize("drop", [False, True])
def test_a_root_that_was_let_go_signs_in_vain(drop: bool) -> None:
    overlay = Rotated(rotations=1)
    old, new = overlay.keys
    rogue = make_next_root(overlay.overlay_id, 4, seeded(9), NOW_S)
    with pytest.raises(UntrustedRoot):
        overlay.roots.learn([make_bundle(4, old, rogue, drop=drop)])
    with pytest.raises(BadSignature):
        overlay.roots.learn([signed_by(4, old, new, (old, rogue), drop=drop)])
    assert overlay.roots.in_force == (new.der,)


def test_a_root_that_is_leaving_brings_no_other_one() -> None:
    """In the overlap the old key can name no third root, nor stay alone."""
    overlay = Rotated()
    overlay.overlap()
    rogue = make_next_root(overlay.overlay_id, 3, seeded(9), NOW_S)
    for drop in (False, True):
        with pytest.raises(UntrustedRoot):
            overlay.roots.learn([make_bundle(3, overlay.root, rogue, drop=drop)])


def test_a_bundle_that_was_true_before_changes_nothing() -> None:
    overlay = Rotated(rotations=1)
    assert overlay.roots.learn(overlay.told) is overlay.roots


def test_a_new_root_that_has_not_signed_is_not_taken() -> None:
    """Else whoever holds the old key could put a key that nobody holds in its place."""
    overlay = Rotated()
    new = overlay.next_root()
    for signers in ((overlay.root, overlay.root), (new, overlay.root)):
        with pytest.raises(BadSignature):
            overlay.roots.learn([signed_by(2, overlay.root, new, signers)])


def test_two_bundles_of_one_number_are_a_conflict_and_the_first_one_stays() -> None:
    overlay = Rotated()
    before = overlay.roots
    first = overlay.overlap()
    other = make_next_root(overlay.overlay_id, 2, seeded(9), NOW_S)
    second = next_bundle(before, overlay.root, other, drop=False)
    for mine, theirs in ((first, second), (second, first)):
        with pytest.raises(RootConflict):
            before.learn([mine]).learn([theirs])
    strangers = [make_next_root(overlay.overlay_id, n, seeded(8), NOW_S) for n in (2, 3)]
    made_up = make_bundle(3, *strangers, drop=False)
    overlay.drop()
    assert overlay.roots.learn([made_up]) is overlay.roots, "nobody else can raise that alarm"


def test_bundles_that_are_altered_cut_or_too_large() -> None:
    overlay = Rotated()
    before, good = overlay.roots, overlay.overlap()
    for bad in (b"", good[:-1], good + b"\0", bytes(BUNDLE_BYTES_MAX + 1)):
        with pytest.raises(Malformed):
            before.learn([bad])
    rng = random.Random(3)
    for _ in range(200):
        at, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
        altered = good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :]
        with pytest.raises(SecurityError):
            before.learn([altered])


def test_roots_out_of_order_twice_or_of_a_later_number() -> None:
    overlay = Rotated()
    old, new = overlay.root, overlay.next_root()
    late = make_next_root(overlay.overlay_id, 7, seeded(9), NOW_S)
    for first, second in ((new, old), (old, old), (old, late)):
        with pytest.raises(MalformedObject):
            overlay.roots.learn([signed_by(2, first, second, (first, second))])
        with pytest.raises(LimitExceeded):
            make_bundle(2, first, second, drop=False)


def test_the_wrong_key_or_step_signs_nothing() -> None:
    overlay = Rotated()
    old, new = overlay.root, overlay.next_root()
    for first, second, drop in ((new, new, False), (new, old, False), (old, new, True)):
        with pytest.raises(UntrustedRoot):
            next_bundle(overlay.roots, first, second, drop=drop)
    overlay.overlap()
    with pytest.raises(UntrustedRoot):
        next_bundle(overlay.roots, overlay.keys[1], overlay.next_root(), drop=False)


def test_rotations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_bundle, "CHAIN_MAX", 2)
    overlay = Rotated(rotations=2)
    with pytest.raises(LimitExceeded):
        overlay.overlap()


def test_bundles_are_kept_and_told_in_one_form_that_is_bounded() -> None:
    assert decode_bundles(encode_bundles(THRICE.roots.bundles)) == THRICE.roots.bundles
    largest = encode_bundles([bytes(BUNDLE_BYTES_MAX)] * CHAIN_MAX)
    assert len(largest) <= TOLD_BYTES_MAX <= 1 << 16
    assert len(decode_bundles(largest)) == CHAIN_MAX
    for bad in (
        encode_bundles([b""] * (CHAIN_MAX + 1)),
        encode_bundles([bytes(BUNDLE_BYTES_MAX + 1)]),
        bytes(TOLD_BYTES_MAX + 1),
        b"",
    ):
        with pytest.raises(MalformedObject):
            decode_bundles(bad)


def test_the_largest_roots_fit_into_a_bundle() -> None:
    old, new = (
        make_next_root(THRICE.overlay_id, 10**9 - each, seeded(each), NOW_S) for each in (2, 1)
    )
    data = make_bundle(NUMBER_MAX, old, new, drop=True)
    assert open_bundle(data, THRICE.overlay_id).number == NUMBER_MAX
    assert len(data) <= BUNDLE_BYTES_MAX


def test_a_root_of_a_name_that_is_none() -> None:
    overlay = Overlay()
    for number in (0, 1, 10**9):
        made = make_next_root(overlay.overlay_id, number, seeded(4), NOW_S)
        with pytest.raises(Malformed):
            parse_root(made.der)
    assert parse_root(overlay.root.der).number == 1
