"""Envelopes: members of the same tenant, epoch and process start open them; no nonce repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security import envelope
from security.envelope import (
    OVERHEAD_BYTES,
    Opener,
    Sealer,
    Sealers,
)
from security.errors import BadSeal, LimitExceeded, SealerExhausted
from security.peer_id import peer_id_of_bytes
from security.tenant import TenantId
from security.tenant_keys import TenantKeys

SALT, OTHER_SALT = bytes(range(16)), bytes(range(1, 17))
PEER, OTHER_PEER = peer_id_of_bytes(bytes(32)), peer_id_of_bytes(bytes([1]) * 32)


def keys_of(tenant: str = "0" * 32, epoch: int = 1, key: int = 1) -> TenantKeys:
    return TenantKeys.derive(
        tenant_id=TenantId(tenant),
        epoch=epoch,
        epoch_key=bytes([key]) * 32,
        chain_secret=bytes([2]) * 32,
    )


KEYS = keys_of()


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_a_member_opens_what_a_member_sealed(plaintext: bytes, header: bytes) -> None:
    sealed = Sealer(KEYS, PEER, 7, SALT).seal("delta", header, plaintext)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert Opener(KEYS, PEER, 7, SALT).open("delta", header, sealed) == plaintext


@pytest.mark.parametrize(
    ("cause", "opener", "kind", "header"),
    [
        ("tenant", Opener(keys_of("1" * 32), PEER, 7, SALT), "delta", b"h"),
        ("epoch", Opener(keys_of(epoch=2), PEER, 7, SALT), "delta", b"h"),
        ("epoch key", Opener(keys_of(key=3), PEER, 7, SALT), "delta", b"h"),
        ("origin", Opener(KEYS, OTHER_PEER, 7, SALT), "delta", b"h"),
        ("generation", Opener(KEYS, PEER, 8, SALT), "delta", b"h"),
        ("boot salt", Opener(KEYS, PEER, 7, OTHER_SALT), "delta", b"h"),
        ("kind", Opener(KEYS, PEER, 7, SALT), "checkpoint", b"h"),
        ("header", Opener(KEYS, PEER, 7, SALT), "delta", b"i"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_sealed_otherwise_does_not_open(
    cause: str, opener: Opener, kind: str, header: bytes
) -> None:
    sealed = Sealer(KEYS, PEER, 7, SALT).seal("delta", b"h", b"plain")
    with pytest.raises(BadSeal):
        opener.open(kind, header, sealed)


def test_every_altered_byte_and_every_cut_is_refused() -> None:
    sealed = Sealer(KEYS, PEER, 7, SALT).seal("delta", b"h", b"plain")
    opener = Opener(KEYS, PEER, 7, SALT)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(BadSeal):
            opener.open("delta", b"h", bytes(altered))
        with pytest.raises(BadSeal):
            opener.open("delta", b"h", sealed[:position])


@given(st.binary(max_size=100))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BadSeal):
        Opener(KEYS, PEER, 7, SALT).open("delta", b"", data)


def key_and_nonce(keys: TenantKeys, start: tuple[int, bytes], kind: str, sealed: bytes) -> bytes:
    return keys.sealing_key(kind, PEER, *start) + sealed[5:13]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["delta", "checkpoint", "load"]),
            st.sampled_from([1, 2]),
            st.sampled_from(["a", "b"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_no_key_and_nonce_pair_repeats(steps: list[tuple[str, int, str, bool]]) -> None:
    """Over tenants, epochs, rosters that grow, and restarts that kept the generation."""
    start = (7, (0).to_bytes(16, "big"))
    sealers = Sealers(PEER, *start)
    seen = set()
    for number, (kind, epoch, tenant, restart) in enumerate(steps, 1):
        if restart:
            start = (7, number.to_bytes(16, "big"))
            sealers = Sealers(PEER, *start)
        keys = keys_of(tenant * 32, epoch)  # new each time, as after a roster's new version
        pair = key_and_nonce(keys, start, kind, sealers.of(keys).seal(kind, b"", b"x"))
        assert pair not in seen
        seen.add(pair)


def test_the_same_text_never_seals_to_the_same_bytes() -> None:
    sealer = Sealer(KEYS, PEER, 7, SALT)
    assert len({sealer.seal("delta", b"", b"same") for _ in range(100)}) == 100


def test_a_roster_that_grows_keeps_its_sealer() -> None:
    sealers = Sealers(PEER, 7, SALT)
    assert sealers.of(keys_of()) is sealers.of(keys_of())
    assert sealers.of(keys_of(epoch=2)) is not sealers.of(keys_of())


def test_sealing_ends_when_the_counter_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "COUNTER_MAX", 2)
    sealer = Sealer(KEYS, PEER, 7, SALT)
    for _ in range(3):
        sealer.seal("delta", b"", b"x")
    for _ in range(2):
        with pytest.raises(SealerExhausted):
            sealer.seal("delta", b"", b"x")
    sealer.seal("checkpoint", b"", b"x")


def test_sealers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "SEALERS_MAX", 2)
    sealers = Sealers(PEER, 7, SALT)
    sealers.of(keys_of(epoch=1))
    sealers.of(keys_of(epoch=2))
    with pytest.raises(LimitExceeded):
        sealers.of(keys_of(epoch=3))
    sealers.of(keys_of(epoch=1))


@pytest.mark.parametrize("kind", ["", "Delta", "x" * 17, "a\0b"])
def test_kinds_are_words(kind: str) -> None:
    with pytest.raises(LimitExceeded):
        Sealer(KEYS, PEER, 7, SALT).seal(kind, b"", b"x")


def test_a_boot_salt_has_sixteen_bytes_and_an_envelope_its_bound() -> None:
    with pytest.raises(LimitExceeded):
        Sealer(KEYS, PEER, 7, SALT[:15])
    with pytest.raises(LimitExceeded):
        Sealer(KEYS, PEER, 7, SALT).seal("delta", b"", bytes(envelope.ENVELOPE_BYTES_MAX))


def test_what_stays_over_epochs_and_what_changes() -> None:
    new = keys_of(epoch=2, key=9)
    assert (new.chain_key, new.salt) == (KEYS.chain_key, KEYS.salt)
    assert new.tag_key != KEYS.tag_key
    assert new.stream_id(PEER, 1) != KEYS.stream_id(PEER, 1)


def test_tenants_with_the_same_secrets_share_no_key() -> None:
    other = keys_of("1" * 32)
    mine = {KEYS.chain_key, KEYS.salt, KEYS.tag_key, KEYS.stream_id(PEER, 1)}
    assert not mine & {other.chain_key, other.salt, other.tag_key, other.stream_id(PEER, 1)}


def test_stream_ids_differ_by_origin_and_generation() -> None:
    ids = {KEYS.stream_id(peer, g) for peer in (PEER, OTHER_PEER) for g in range(5)}
    assert len(ids) == 10
    assert {len(one) for one in ids} == {8}


def test_secrets_do_not_show() -> None:
    shown = repr(replace(KEYS)).encode()
    assert KEYS.chain_key.hex().encode() not in shown
    assert b"epoch_key" not in shown
