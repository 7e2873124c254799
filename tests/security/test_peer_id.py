"""A PeerId is a key, in one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import MalformedIdentity
from security.peer_id import (
    PeerId,
    parse_peer_id,
    peer_id_of,
    peer_id_of_bytes,
    public_bytes_of,
    public_key_of,
)


def test_a_key_has_the_text_that_libp2p_gives_it() -> None:
    # The Ed25519 key among the test vectors of libp2p's peer id specification.
    public = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    assert peer_id_of_bytes(public) == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


@given(st.binary(min_size=32, max_size=32))
def test_every_key_comes_back_from_its_text(public: bytes) -> None:
    text = peer_id_of_bytes(public)
    assert len(text) == 52
    assert text.startswith("12D3KooW")
    assert public_bytes_of(text) == public
    assert parse_peer_id(text) == text
    assert peer_id_of(public_key_of(text)) == text


@given(st.text(max_size=64))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(MalformedIdentity):
        parse_peer_id(text)


BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@given(st.text(alphabet=BASE58, min_size=52, max_size=52))
def test_base58_of_something_else_is_refused_or_comes_out_letter_by_letter(text: str) -> None:
    try:
        assert parse_peer_id(text) == text
    except MalformedIdentity:
        assert not text.startswith("12D3KooW")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(MalformedIdentity):
        peer_id_of_bytes(bytes(size))


def test_a_typo_in_a_peer_id_names_another_key_or_none() -> None:
    text = peer_id_of_bytes(bytes(range(32)))
    typo = PeerId(text[:-1] + ("2" if text[-1] != "2" else "3"))
    assert public_bytes_of(typo) != bytes(range(32))
