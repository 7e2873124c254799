"""What is asked: real and drawn request streams, as chained block hashes.

Mooncake conversation is a real hour of chat traffic; MMLU is real text with drawn popularity;
``hot90`` and ``uniform`` are 32 made-up families, one of which draws 90 % of the requests, or all
evenly. Arrival times have unit rate here; the simulation stretches them to the wanted load.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import overload

from inference.events import BlockHash

OVERLAY_BLOCK_TOKENS = 16
SEED = 1

FAMILIES = 32
FAMILY_BLOCKS = 48
UNIQUE_BLOCKS = 16
HOT_SHARE = 0.9


class MissingTrace(Exception):
    """A trace file is not there; the message names it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``at`` is in units of the mean gap; ``hashes`` are chained, one for a block."""

    at: float
    hashes: tuple[BlockHash, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A request stream and the cache it meets: ``cache_tokens`` at each peer."""

    name: str
    block_tokens: int
    cache_tokens: int
    requests: tuple[Request, ...]

    @property
    def cache_blocks(self) -> int:
        return self.cache_tokens // self.block_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a workload comes from. ``requests`` and ``quick_requests`` say how many are taken."""

    name: str
    trace: str | None
    block_tokens: int
    cache_tokens: int
    requests: int
    quick_requests: int


SOURCES = (
    Source(
        name="mmlu_z1.0",
        trace="mmlu.jsonl.gz",
        block_tokens=16,
        cache_tokens=4_000,
        requests=4_000,
        quick_requests=1_000,
    ),
    Source(
        name="mmlu_z0.6",
        trace="mmlu.jsonl.gz",
        block_tokens=16,
        cache_tokens=4_000,
        requests=4_000,
        quick_requests=1_000,
    ),
    Source(
        name="mooncake_conversation",
        trace="mooncake_conversation.jsonl.gz",
        block_tokens=512,
        cache_tokens=500_000,
        requests=4_000,
        quick_requests=1_000,
    ),
    Source(
        name="hot90",
        trace=None,
        block_tokens=16,
        cache_tokens=12_800,
        requests=4_000,
        quick_requests=1_000,
    ),
    Source(
        name="uniform",
        trace=None,
        block_tokens=16,
        cache_tokens=12_800,
        requests=4_000,
        quick_requests=1_000,
    ),
)


def load(source: Source, data: Path, *, quick: bool) -> Workload:
    """Reads or draws a workload; the same every time.

    Raises:
        MissingTrace: When its file is not in ``data``.
    """
    count = source.quick_requests if quick else source.requests
    rows = _families(source.name, count) if source.trace is None else _traced(source, data, count)
    taken = list(islice(rows, count))
    first, last = taken[0][0], taken[-1][0]
    gap = (last - first) / max(1, len(taken) - 1)
    requests = tuple(Request((at - first) / gap, hashes, out) for at, hashes, out in taken)
    return Workload(
        name=source.name,
        block_tokens=source.block_tokens,
        cache_tokens=source.cache_tokens,
        requests=requests,
    )


Row = tuple[float, tuple[BlockHash, ...], int]


def require(source: Source, data: Path) -> None:
    """Checks that a workload's files are there.

    Raises:
        MissingTrace: When one is not in ``data``.
    """
    for needed in () if source.trace is None else ("trace_readers.py", source.trace):
        if not (data / needed).exists():
            raise MissingTrace(
                f"{data / needed} is missing; point --data at the folder that has it"
            )


def _traced(source: Source, data: Path, count: int) -> Iterator[Row]:
    require(source, data)
    readers = _readers(data / "trace_readers.py")
    if source.name.startswith("mmlu"):
        rows = readers.fewshot("mmlu", n=count, zipf=float(source.name.removeprefix("mmlu_z")))
    else:
        rows = readers.mooncake("conversation")
    for at, _, ids, output_tokens in rows:
        yield at, tuple(BlockHash(each.to_bytes(16, "big")) for each in ids), output_tokens


def _readers(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("trace_readers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


def _families(name: str, count: int) -> Iterator[Row]:
    rng = random.Random(SEED)
    at = 0.0
    for number in range(count):
        at += rng.expovariate(1.0)
        hot = name == "hot90" and rng.random() < HOT_SHARE
        family = 0 if hot else rng.randrange(FAMILIES)
        shared = [_named(f"{family}/{block}") for block in range(FAMILY_BLOCKS)]
        own = [_named(f"{family}/{number}/{block}") for block in range(UNIQUE_BLOCKS)]
        yield at, (*shared, *own), 16


def _named(name: str) -> BlockHash:
    return BlockHash(blake2b(name.encode(), digest_size=16).digest())


class Expanded(Sequence[bytes]):
    """Hashes of larger blocks seen as one for every 16 tokens, as the overlay counts them."""

    __slots__ = ("_hashes", "_ratio")

    def __init__(self, hashes: Sequence[bytes], block_tokens: int) -> None:
        self._hashes = hashes
        self._ratio = block_tokens // OVERLAY_BLOCK_TOKENS

    def __len__(self) -> int:
        return len(self._hashes) * self._ratio

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        length = len(self)
        return self._hashes[(index if index >= 0 else index + length) // self._ratio]
