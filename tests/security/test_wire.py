"""What came from outside is a value of its form and version, or one of two errors."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.enrolment import JoinBody
from security.errors import MalformedObject, UnsupportedVersion
from security.signed import SignedObject
from security.wire import decode

ARRAY = [1, bytes(16), "head", bytes(32), b"body", bytes(64)]
MAP = {
    "type": "join",
    "v": 1,
    "verifier": bytes(32),
    "issuer": bytes(16),
    "sealing": bytes(32),
    "ticket_proof": bytes(64),
}


@pytest.mark.parametrize(
    "value",
    [[2], [2, *ARRAY[1:]], [2, *ARRAY[1:], "more"], [2, "all", "else", "is", "other"]],
)
def test_an_array_of_another_version_is_told_from_a_malformed_one(value: object) -> None:
    with pytest.raises(UnsupportedVersion):
        decode(msgspec.msgpack.encode(value), SignedObject, 1, "an object")


@pytest.mark.parametrize("value", [{**MAP, "v": 2}, {**MAP, "v": 2, "more": 1}, {"v": 2}])
def test_a_map_of_another_version_is_told_from_a_malformed_one(value: object) -> None:
    with pytest.raises(UnsupportedVersion):
        decode(msgspec.msgpack.encode(value), JoinBody, 1, "a request")


@pytest.mark.parametrize("value", [[], {}, 2, "v", [1], {"v": 1}, {"v": "2"}, {**MAP, "more": 1}])
def test_what_names_no_other_version_is_malformed(value: object) -> None:
    for form in (SignedObject, JoinBody):
        with pytest.raises(MalformedObject):
            decode(msgspec.msgpack.encode(value), form, 1, "a form")


def test_what_is_of_this_version_is_read() -> None:
    assert decode(msgspec.msgpack.encode(ARRAY), SignedObject, 1, "an object").kind == "head"
    assert decode(msgspec.msgpack.encode(MAP), JoinBody, 1, "a request").sealing == bytes(32)


@given(st.binary(max_size=100))
def test_garbage_is_one_of_two_errors(data: bytes) -> None:
    for form in (SignedObject, JoinBody):
        with pytest.raises((MalformedObject, UnsupportedVersion)):
            decode(data, form, 1, "a form")
