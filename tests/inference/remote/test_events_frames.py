"""Frames: both shapes at both levels, what is passed over, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.remote.events import frames
from inference.remote.events.frames import (
    AllCleared,
    Batch,
    Event,
    MalformedFrame,
    Removed,
    Stored,
    decode,
    split,
)
from tests.inference.remote.folding import removed, stored

PLAIN: dict[str, Any] = {
    "type": "BlockStored",
    "block_hashes": [1, 2],
    "parent_block_hash": None,
    "token_ids": list(range(32)),
    "block_size": 16,
    "lora_id": None,
}
ORDER = ["block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"]
ORDER += ["lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind"]


def batch(*events: object, as_map: bool = False, rank: int | None = None) -> Batch:
    whole: object = [1.5, list(events), rank]
    if as_map:
        whole = {"ts": 1.5, "events": list(events), "data_parallel_rank": rank, "new": 1}
    return decode(7, msgspec.msgpack.encode(whole))


def one(**fields: object) -> Stored:
    """A stored event with these fields beside the plain ones."""
    (event,) = batch(PLAIN | fields).events
    assert isinstance(event, Stored)
    return event


def positional(event: dict[str, Any]) -> list[Any]:
    last = max(index for index, name in enumerate(ORDER) if name in event)
    return [event["type"], *(event.get(name) for name in ORDER[: last + 1])]


@pytest.mark.parametrize("as_map", [False, True])
@pytest.mark.parametrize("as_array", [False, True])
def test_array_or_map_at_both_levels(as_map: bool, as_array: bool) -> None:
    events: list[dict[str, Any]] = [
        PLAIN | {"medium": "GPU", "group_idx": 0, "extra_keys": [["salt"], None]},
        {"type": "BlockRemoved", "block_hashes": [2], "medium": "GPU", "group_idx": 0},
        {"type": "AllBlocksCleared"},
    ]
    shaped: list[Any] = list(events)
    if as_array:
        shaped = [positional(events[0]), ["BlockRemoved", [2], "GPU", 0], ["AllBlocksCleared"]]
    read = batch(*shaped, as_map=as_map, rank=3)
    expected: tuple[Event, ...] = (
        stored([1, 2], None, range(32), salt="salt"),
        removed(2),
        AllCleared(),
    )
    assert read == Batch(seq=7, unix_s=1.5, rank=3, events=expected, unknown=0)


def test_missing_defaults_unknown_fields_and_unknown_events_are_passed_over() -> None:
    read = batch(
        {k: v for k, v in PLAIN.items() if k != "lora_id"} | {"new": {"a": [1]}},
        {"type": "BlockPinned", "block_hashes": "other"},
        ["BlockPinned", 1, 2],
        {"type": "BlockRemoved", "block_hashes": []},
    )
    assert read.unknown == 2
    assert [type(event) for event in read.events] == [Stored, Removed]
    assert decode(0, msgspec.msgpack.encode([1, []])).events == ()
    sglang = {"ts": 1, "events": [], "attn_dp_rank": 2}
    assert decode(0, msgspec.msgpack.encode(sglang)).rank == 2


def test_hashes_are_opaque() -> None:
    hashes = [0, 2**64 - 1, -(2**63), b"x" * 32]
    event = one(block_hashes=hashes, parent_block_hash=-1, token_ids=[], block_size=0)
    assert event.block_hashes == tuple(hashes)
    assert event.parent == -1


@pytest.mark.parametrize(
    ("fields", "salt", "foreign_from"),
    [
        ({}, None, 2),
        ({"extra_keys": None}, None, 2),
        ({"extra_keys": [None, None]}, None, 2),
        ({"extra_keys": [["s"], None]}, "s", 2),
        ({"extra_keys": [["s"], []]}, "s", 2),
        ({"cache_salt": "s"}, "s", 2),
        ({"cache_salt": "s", "parent_block_hash": 5}, "s", 2),
        ({"cache_salt": ""}, None, 2),
        ({"lora_name": "adapter"}, None, 0),
        ({"lora_id": 1}, None, 0),
        ({"lora_name": "adapter", "extra_keys": [["adapter", "s"], ["adapter"]]}, None, 0),
        ({"extra_keys": [["s", ["image", 3]], None]}, None, 0),
        ({"extra_keys": [["s"], [["image", -3]]]}, "s", 1),
        ({"extra_keys": [["s"], ["s"]]}, "s", 1),
        ({"extra_keys": [[b"embedding"], None]}, None, 0),
        ({"extra_keys": [["s"], None], "parent_block_hash": 5}, None, 0),
        ({"extra_keys": [["s"], None], "cache_salt": "t"}, "t", 0),
    ],
)
def test_what_a_hash_is_made_of_besides_tokens(
    fields: dict[str, Any], salt: str | None, foreign_from: int
) -> None:
    event = one(**fields)
    assert event.foreign_from == foreign_from
    if foreign_from:
        assert event.salt == salt


def test_two_owners_of_one_medium_are_two_places() -> None:
    assert one().medium is None
    assert one(medium="CPU").medium == "CPU"
    places = {one(medium="CPU", ownership=owner).medium for owner in (None, "a", "b")}
    places.add(one(medium="CPU", locality="REMOTE").medium)
    assert len(places) == 4


def test_pairs_of_a_draft_model_are_read_as_their_first_tokens() -> None:
    event = one(token_ids=[[5, 6]] * 32)
    assert event.token_ids.tolist() == [5] * 32


@pytest.mark.parametrize(
    "fields",
    [
        {"token_ids": [-1] * 32},
        {"token_ids": [2**32] * 32},
        {"token_ids": [True] * 32},
        {"token_ids": [[]] * 32},
        {"token_ids": ["1"] * 32},
        {"token_ids": None},
        {"block_size": -1},
        {"block_size": 2**40},
        {"block_hashes": ["text"]},
        {"block_hashes": [1.5]},
        {"block_hashes": [0] * (frames.HASHES_MAX + 1)},
        {"extra_keys": "salt"},
        {"cache_salt": "s" * (frames.NAME_LENGTH_MAX + 1)},
        {"medium": 3},
    ],
)
def test_a_bad_field_is_refused_without_its_content(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedFrame) as caught:
        batch(PLAIN | fields)
    assert str(caught.value) == "not a batch of cache events"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        msgspec.msgpack.encode([1.0]),
        msgspec.msgpack.encode([1.0, [5]]),
        msgspec.msgpack.encode([1.0, [[]]]),
        msgspec.msgpack.encode([1.0, [{}]]),
        msgspec.msgpack.encode([1.0, [{"type": 3}]]),
        msgspec.msgpack.encode([1.0, [msgspec.Raw(b"\x91" * 50_000 + b"\x01")], None]),
        msgspec.msgpack.encode([1.0, [PLAIN | {"extra_keys": [None, 7]}]]),
        msgspec.msgpack.encode([1.0, [PLAIN]]).replace(b"BlockStored", b"Block\xffored"),
        msgspec.msgpack.encode([1.0, [["AllBlocksCleared"]] * (frames.EVENTS_MAX + 1)]),
        bytes(frames.PAYLOAD_BYTES_MAX + 1),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode(0, payload)


VALID = msgspec.msgpack.encode([1.0, [PLAIN, positional(PLAIN), {"type": "AllBlocksCleared"}], 1])


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_random_bytes_are_refused_or_read_but_nothing_else(payload: bytes) -> None:
    with_either(payload)


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_batches_are_refused_or_read_but_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with_either(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    with_either(bytes(damaged))


def with_either(payload: bytes) -> None:
    try:
        read = decode(0, payload)
    except MalformedFrame:
        return
    for event in read.events:
        assert isinstance(event, Stored | Removed | AllCleared)


@given(st.lists(st.binary(max_size=10), max_size=5))
def test_random_parts_are_refused_or_split_but_nothing_else(parts: list[bytes]) -> None:
    try:
        seq, payload = split(parts)
    except MalformedFrame:
        return
    assert seq >= -1
    assert payload == parts[-1]


def test_parts_with_and_without_delimiter_and_topic() -> None:
    number, end = (5).to_bytes(8, "big"), b"\xff" * 8
    for before in ([], [b""], [b"kv"], [b"", b"kv"], [b"", b""]):
        assert split([*before, number, b"x"]) == (5, b"x")
        assert split([*before, end, b""]) == (frames.END_OF_REPLAY, b"")
    for bad in ([], [b"x"], [b"short", b"x"], [b"", b"", b"", number, b"x"], [b"\xfe" * 8, b""]):
        with pytest.raises(MalformedFrame):
            split(bad)
    with pytest.raises(MalformedFrame):
        split([number, bytes(frames.PAYLOAD_BYTES_MAX + 1)])
