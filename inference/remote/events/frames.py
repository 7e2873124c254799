"""The cache events of vLLM and SGLang, from the bytes of a ZeroMQ message to typed values.

A message is ``[topic, sequence number (8 bytes, big-endian), msgpack payload]``; in a replay an
empty part stands before it, the topic may be left out, and number -1 ends it. What is understood:

1. The batch is an array ``[time, events, rank]`` or a map; each event is an array with its name
   first (older servers) or a map with ``type``. Fields that are left out have their default.
2. Fields and events that are not known here are passed over; such events are counted.
3. Hashes are opaque: signed or unsigned 64-bit numbers, or bytes.
4. vLLM puts the salt, untagged, among the first block's ``extra_keys``; SGLang has ``cache_salt``
   on the event. Anything else that a block's hash is made of (an adapter, an image) makes it and
   all blocks after it foreign: prompts of tokens alone never find it.
5. SGLang tells pages of a draft model as pairs (token, next token); the first ones are the page.
6. A message that breaks a rule or a limit raises :class:`MalformedFrame`, which has no content.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from inference.errors import InferenceError

PAYLOAD_BYTES_MAX = 4 << 20
"""A batch is what one scheduler step cached: 128k tokens with their hashes are 0.7 MB."""
EVENTS_MAX = 65_536
HASHES_MAX = 65_536
TOKENS_MAX = 1 << 20
NAME_LENGTH_MAX = 1024
"""Of a salt or the name of a medium or an adapter."""

END_OF_REPLAY = -1

EngineHash = int | bytes
"""A server's name for a block and all before it."""


class MalformedFrame(InferenceError):
    """A message that is not one of cache events (blame: the server, or who poses as it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Consecutive blocks of ``block_size`` tokens each are held in ``medium``.

    Without ``token_ids`` it only says that known blocks are held there as well. The block at index
    ``foreign_from`` and those after it belong to nothing that is routed here.
    """

    block_hashes: tuple[EngineHash, ...]
    parent: EngineHash | None
    token_ids: array[int]
    block_size: int
    salt: str | None
    foreign_from: int
    medium: str | None
    group: int | None
    kind: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """These blocks are not held in ``medium`` any more."""

    block_hashes: tuple[EngineHash, ...]
    medium: str | None
    group: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllCleared:
    """The server's process that told this holds nothing any more."""


Event = Stored | Removed | AllCleared


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step changed. ``unknown`` counts the events of a kind that is not known here."""

    seq: int
    unix_s: float
    rank: int | None
    events: tuple[Event, ...]
    unknown: int


_Hashes = Annotated[list[int | bytes], Meta(max_length=HASHES_MAX)]
_Name = Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]
_Count = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]


class _StoredMap(msgspec.Struct, tag="BlockStored"):
    """Field order is that of the positional form."""

    block_hashes: _Hashes
    parent_block_hash: int | bytes | None
    # Without bounds: msgspec 0.22 mixes up those of a number and a list that stand in one union.
    token_ids: Annotated[list[int | list[int]], Meta(max_length=TOKENS_MAX)]
    block_size: _Count
    lora_id: int | str | None = None
    medium: _Name | None = None
    lora_name: _Name | None = None
    # Any, as what else there is in it only matters for being there.
    extra_keys: Annotated[list[list[Any] | None], Meta(max_length=HASHES_MAX)] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: _Name | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: _Name | None = None
    ownership: _Name | None = None
    session_id: str | None = None
    cache_salt: _Name | None = None


class _RemovedMap(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: _Hashes
    medium: _Name | None = None
    group_idx: int | None = None
    locality: _Name | None = None
    ownership: _Name | None = None


class _ClearedMap(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _StoredArray(_StoredMap, array_like=True, tag="BlockStored"):
    pass


class _RemovedArray(_RemovedMap, array_like=True, tag="BlockRemoved"):
    pass


class _ClearedArray(_ClearedMap, array_like=True, tag="AllBlocksCleared"):
    pass


_Events = Annotated[list[msgspec.Raw], Meta(max_length=EVENTS_MAX)]


class _BatchMap(msgspec.Struct):
    ts: float
    events: _Events
    data_parallel_rank: int | None = None
    attn_dp_rank: int | None = None


class _BatchArray(msgspec.Struct, array_like=True):
    ts: float
    events: _Events
    data_parallel_rank: int | None = None


class _Tagged(msgspec.Struct):
    type: str


class _TaggedArray(msgspec.Struct, array_like=True):
    type: str


_BATCH_MAP = msgspec.msgpack.Decoder(_BatchMap)
_BATCH_ARRAY = msgspec.msgpack.Decoder(_BatchArray)
_EVENT_MAP = msgspec.msgpack.Decoder(_StoredMap | _RemovedMap | _ClearedMap)
_EVENT_ARRAY = msgspec.msgpack.Decoder(_StoredArray | _RemovedArray | _ClearedArray)
_TAG_MAP = msgspec.msgpack.Decoder(_Tagged)
_TAG_ARRAY = msgspec.msgpack.Decoder(_TaggedArray)
_KNOWN = {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
_BAD = (msgspec.DecodeError, RecursionError, ValueError, LookupError, TypeError, OverflowError)
"""What msgspec raises for bytes from outside, and we for a token that has not 32 bits."""


def split(parts: Sequence[bytes]) -> tuple[int, bytes]:
    """The sequence number and payload of a message; ``END_OF_REPLAY`` has no payload.

    Raises:
        MalformedFrame: When there are too few or too many parts, or one has a wrong size.
    """
    if not 2 <= len(parts) <= 4:
        raise MalformedFrame("a message of cache events has two to four parts")
    number, payload = parts[-2:]
    if len(number) != 8:
        raise MalformedFrame("a sequence number has 8 bytes")
    seq = int.from_bytes(number, "big", signed=True)
    if seq < END_OF_REPLAY:
        raise MalformedFrame("a sequence number is not negative")
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise MalformedFrame(f"a batch has at most {PAYLOAD_BYTES_MAX} bytes")
    return seq, payload


def decode(seq: int, payload: bytes) -> Batch:
    """Reads a batch, whose size :func:`split` has checked.

    Raises:
        MalformedFrame: When it is not one, or has more in it than the limits of this module.
    """
    try:
        if _is_map(payload):
            batch = _BATCH_MAP.decode(payload)
            rank = batch.attn_dp_rank if batch.data_parallel_rank is None else None
            return _read(seq, batch, batch.data_parallel_rank if rank is None else rank)
        array = _BATCH_ARRAY.decode(payload)
        return _read(seq, array, array.data_parallel_rank)
    except _BAD:
        # Without the cause: its message quotes what was sent.
        raise MalformedFrame("not a batch of cache events") from None


def pieces(event: Event, blocks: int) -> Iterator[Event]:
    """The same as events of at most so many blocks each, so that folding one takes little time."""
    if isinstance(event, AllCleared) or len(event.block_hashes) <= blocks:
        yield event
        return
    for start in range(0, len(event.block_hashes), blocks):
        hashes = event.block_hashes[start : start + blocks]
        if isinstance(event, Removed):
            yield replace(event, block_hashes=hashes)
            continue
        if len(event.token_ids) not in (0, event.block_size * len(event.block_hashes)):
            yield event
            return
        tokens = event.token_ids[start * event.block_size : (start + blocks) * event.block_size]
        yield replace(
            event,
            block_hashes=hashes,
            parent=event.block_hashes[start - 1] if start else event.parent,
            token_ids=tokens,
            foreign_from=max(0, event.foreign_from - start),
        )


def _read(seq: int, batch: _BatchMap | _BatchArray, rank: int | None) -> Batch:
    events: list[Event] = []
    unknown = 0
    for raw in batch.events:
        event = _event(raw)
        if event is None:
            unknown += 1
        else:
            events.append(event)
    return Batch(seq=seq, unix_s=batch.ts, rank=rank, events=tuple(events), unknown=unknown)


def _event(raw: msgspec.Raw) -> Event | None:
    """One event; None where its kind is not known here."""
    is_map = _is_map(memoryview(raw))
    try:
        event = (_EVENT_MAP if is_map else _EVENT_ARRAY).decode(raw)
    except msgspec.ValidationError:
        if (_TAG_MAP if is_map else _TAG_ARRAY).decode(raw).type in _KNOWN:
            raise
        return None
    match event:
        case _StoredMap():
            return _stored(event)
        case _RemovedMap():
            return Removed(
                block_hashes=tuple(event.block_hashes),
                medium=_tier(event),
                group=event.group_idx,
            )
        case _:
            return AllCleared()


def _stored(event: _StoredMap) -> Stored:
    salt, foreign_from = _extras(event)
    tokens = event.token_ids
    return Stored(
        block_hashes=tuple(event.block_hashes),
        parent=event.parent_block_hash,
        token_ids=array("I", [t if isinstance(t, int) else t[0] for t in tokens]),
        block_size=event.block_size,
        salt=salt,
        foreign_from=foreign_from,
        medium=_tier(event),
        group=event.group_idx,
        kind=event.kv_cache_spec_kind,
    )


def _extras(event: _StoredMap) -> tuple[str | None, int]:
    """The salt, and the index of the first foreign block (their number if there is none)."""
    salt = event.cache_salt or None
    if event.lora_id is not None or event.lora_name is not None:
        return salt, 0
    for index, keys in enumerate(event.extra_keys or ()):
        match keys:
            case None | []:
                continue
            case [str(key)] if index == 0 and event.parent_block_hash is None and salt is None:
                salt = key
            case _:
                return salt, index
    return salt, len(event.block_hashes)


def _tier(event: _StoredMap | _RemovedMap) -> str | None:
    """Where the blocks are; two owners of one medium are two places."""
    if event.ownership is None and event.locality is None:
        return event.medium
    return f"{event.medium or ''}/{event.locality or ''}/{event.ownership or ''}"


def _is_map(data: bytes | memoryview) -> bool:
    first = data[0] if len(data) else 0xC0
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)
