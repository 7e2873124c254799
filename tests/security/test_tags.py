"""Tags are 48 bits of AES under the tenant's key, in the order of the hashes."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from security.errors import LimitExceeded
from security.tags import Tagger, tags_of

KEY = bytes(range(16))


def plain_tag(hash_: bytes) -> int:
    """The definition, one hash at a time."""
    block = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update(hash_)  # noqa: S305
    return int.from_bytes(block[:6], "little")


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=40))
def test_a_batch_gives_each_hash_its_own_tag(hashes: list[bytes]) -> None:
    assert tags_of(KEY, hashes) == [plain_tag(one) for one in hashes]


def test_a_tagger_used_again_gives_the_same_and_refuses_alike() -> None:
    tagger, hashes = Tagger(KEY), [bytes([i]) * 16 for i in range(3)]
    for _ in range(2):
        assert tagger.tags_of(hashes) == tags_of(KEY, hashes)
        assert tagger.tags_of([]) == []
        with pytest.raises(LimitExceeded):
            tagger.tags_of([bytes(15)])


def test_another_key_gives_other_tags() -> None:
    hashes = [bytes([i]) * 16 for i in range(64)]
    ours, theirs = set(tags_of(KEY, hashes)), set(tags_of(bytes(16), hashes))
    assert len(ours) == 64
    assert not ours & theirs
    assert max(ours) < 1 << 48


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        tags_of(KEY, [bytes(15)])
