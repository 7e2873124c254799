"""Host keys: from the entropy given, written and read back, never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import MalformedObject, SecurityError, UnsupportedVersion
from security.keys import HostKeys, check_sealing_public
from tests.security.world import seeded


def test_keys_come_from_the_entropy_that_is_given() -> None:
    assert HostKeys.generate(seeded(1)).to_bytes() == HostKeys.generate(seeded(1)).to_bytes()
    assert HostKeys.generate(seeded(1)).peer_id != HostKeys.generate(seeded(2)).peer_id


def test_keys_come_back_from_what_was_written() -> None:
    keys = HostKeys.generate(seeded(1))
    again = HostKeys.from_bytes(keys.to_bytes())
    assert (again.peer_id, again.sealing_public) == (keys.peer_id, keys.sealing_public)
    assert again.to_bytes() == keys.to_bytes()


def test_another_version_and_damage_are_told_apart() -> None:
    data = HostKeys.generate(seeded(1)).to_bytes()
    with pytest.raises(UnsupportedVersion):
        HostKeys.from_bytes(data.replace(b"keys 1", b"keys 2"))
    with pytest.raises(MalformedObject, match="damaged"):
        HostKeys.from_bytes(data[:-1])


@given(st.binary(max_size=100))
def test_garbage_is_no_keys(data: bytes) -> None:
    with pytest.raises(SecurityError):
        HostKeys.from_bytes(data)


def test_keys_do_not_show() -> None:
    keys = HostKeys.generate(seeded(1))
    assert keys.identity.private_bytes_raw().hex() not in repr(keys)
    assert "PrivateKey" not in repr(keys)


@pytest.mark.parametrize("raw", [bytes(32), bytes([1]) + bytes(31), b"short"], ids=len)
def test_keys_that_give_everybody_one_secret_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedObject):
        check_sealing_public(raw)
