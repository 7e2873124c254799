"""Frames of several data-parallel ranks, by the publisher classes of vLLM and of SGLang.

A machine without graphics cards runs one rank only, so the classes are used alone. SGLang is not
installed: its wheel is unpacked, and only the modules in ``REAL_MODULES`` are its own; everything
that they import besides is a stand-in. Its events come from its own radix cache.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import json
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from array import array
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

from frames import SETTLE_S, Recording, replay, subscribed, subscriber

SGLANG = "sglang==0.5.23"
RANKS = (0, 1, 2)
TOPIC = "kv-events"
KEPT_BATCHES = 3
"""Fewer than are published, so that a replay from 0 begins late."""

PAGE_TOKENS = 4

ENDPOINTS = (
    "tcp://*:5557",
    "tcp://127.0.0.1:5557",
    "tcp://[::1]:5557",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:0",
    "ipc:///run/rhizome/events",
    "inproc://events",
)

REAL_MODULES = {
    "sglang.srt.disaggregation.kv_events",
    "sglang.srt.utils.network",
    *(
        f"sglang.srt.mem_cache.{name}"
        for name in (
            *("base_prefix_cache", "cache_init_params", "events", "evict_policy"),
            *("radix_cache", "utils"),
        )
    ),
}

Publish = Callable[[Any], list[Any]]


def record_vllm() -> dict[str, Any]:
    """vLLM's publisher, a rank a publisher, with one salt and none."""
    from vllm import __version__
    from vllm.config.kv_events import KVEventsConfig
    from vllm.distributed import kv_events

    def make(rank: int, endpoint: str, replayed: str) -> Any:  # vLLM's class
        told = KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=endpoint,
            replay_endpoint=replayed,
            topic=TOPIC,
            buffer_steps=KEPT_BATCHES,
        )
        return kv_events.EventPublisherFactory.create(told, rank)

    def stored(hashes: list[int], first: int, parent: int | None, salt: str | None = None) -> Any:
        return kv_events.BlockStored(
            block_hashes=hashes,
            parent_block_hash=parent,
            token_ids=list(range(first, first + PAGE_TOKENS * len(hashes))),
            block_size=PAGE_TOKENS,
            lora_id=None,
            medium=kv_events.MEDIUM_GPU,
            lora_name=None,
            extra_keys=[(salt,), *[None] * (len(hashes) - 1)] if salt else None,
            group_idx=0,
        )

    def batches(rank: int) -> list[Any]:
        first, top = 100 * rank, 2**64 - 1 - rank
        longer = stored([2 + rank], first + 2 * PAGE_TOKENS, 1 + rank)
        return [
            [stored([top, 1 + rank], first, None)],
            [longer, stored([9 + rank, 10 + rank], first, None, "tenant-a")],
            [kv_events.BlockRemoved(block_hashes=[2 + rank], medium=kv_events.MEDIUM_GPU)],
            [kv_events.AllBlocksCleared(), stored([top - 9], first, None, "tenant-b")],
        ]

    offset = kv_events.ZmqEventPublisher.offset_endpoint_port
    told = _record(make, lambda events: kv_events.KVEventBatch(time.time(), events), batches)
    part = "its publisher class and event types; hashes and tokens are made up"
    return {"made_with": {"vllm": __version__, "part": part}} | told | _derived(offset)


def record_sglang() -> dict[str, Any]:
    """SGLang's publisher and radix cache: a rank has a cache, a salt and none in it."""
    with tempfile.TemporaryDirectory(prefix="sglang-") as folder:
        where = _unpack(Path(folder))
        sys.meta_path.insert(0, _OwnModulesOnly(where))
        import sglang.srt.disaggregation.kv_events as published
        import sglang.srt.mem_cache.base_prefix_cache as asked
        import sglang.srt.mem_cache.radix_cache as radix

        def make(rank: int, endpoint: str, replayed: str) -> Any:  # SGLang's class
            told = {
                "publisher": "zmq",
                "endpoint": endpoint,
                "replay_endpoint": replayed,
                "topic": TOPIC,
                "bind": True,
                "buffer_steps": KEPT_BATCHES,
            }
            return published.EventPublisherFactory.create(json.dumps(told), rank)

        def batches(rank: int) -> list[Any]:
            cache = radix.RadixCache.create_simulated(
                page_size=PAGE_TOKENS,
                enable_kv_cache_events=True,
                mock_allocator=Mock(device="cpu"),
            )

            def stored(tokens: range, salt: str | None = None) -> None:
                key = radix.RadixKey(array("q", tokens), cache_salt=salt)
                cache.insert(asked.InsertParams(key=key))

            begin = 100 * rank
            told = [cache.take_events()]
            stored(range(begin, begin + 3 * PAGE_TOKENS))
            told.append(cache.take_events())
            stored(range(begin, begin + 5 * PAGE_TOKENS))
            stored(range(begin, begin + 2 * PAGE_TOKENS), "tenant-a")
            stored(range(begin, begin + 2 * PAGE_TOKENS), "tenant-b")
            stored(range(begin, begin + 3 * PAGE_TOKENS), "tenant-a")
            told.append(cache.take_events())
            cache.evict(asked.EvictParams(num_tokens=4 * PAGE_TOKENS))
            told.append(cache.take_events())
            cache.reset()
            stored(range(begin, begin + PAGE_TOKENS), "tenant-a")
            told.append(cache.take_events())
            return told

        told = _record(
            make,
            lambda events: published.KVEventBatch(time.time(), events),
            batches,
            subscriber_binds=False,
        )
        derived = _derived(published.ZmqEventPublisher.offset_endpoint_port)
    part = "its publisher class and radix cache; its C++ hash of a page is a stand-in"
    made_with = {"sglang": SGLANG.partition("==")[2], "part": part}
    return {"made_with": made_with} | told | derived


def _record(
    make: Callable[[int, str, str], Any],
    batch: Callable[[list[Any]], Any],
    batches: Callable[[int], list[list[Any]]],
    *,
    subscriber_binds: bool = True,
) -> dict[str, Any]:
    """Publishes every rank's batches in turn; rank r is expected at the base port + r."""
    base, replay_base = _free_ports(2 * len(RANKS))[:: len(RANKS)]
    endpoint, replayed = f"tcp://127.0.0.1:{base}", f"tcp://127.0.0.1:{replay_base}"
    recording = Recording()
    sockets = [
        subscriber(f"tcp://127.0.0.1:{base + rank}", TOPIC, bind=subscriber_binds) for rank in RANKS
    ]
    publishers = [make(rank, endpoint, replayed) for rank in RANKS]
    with subscribed(recording, *sockets):
        time.sleep(SETTLE_S)
        for rank, publisher in zip(RANKS, publishers, strict=True):
            for events in batches(rank):
                publisher.publish(batch(events))
                recording.sent.append({"rank": rank, "events": [repr(each) for each in events]})
                time.sleep(0.05)
    replays = [
        {"rank": rank} | replay(f"tcp://127.0.0.1:{replay_base + rank}", start)
        for rank in RANKS
        for start in (0, 2)
    ]
    for publisher in publishers:
        publisher.shutdown()
    settings = {
        "endpoint": endpoint,
        "replay_endpoint": replayed,
        "topic": TOPIC,
        "buffer_steps": KEPT_BATCHES,
        "ranks": list(RANKS),
        "subscriber_binds": subscriber_binds,
    }
    return {
        "settings": settings,
        "frames": recording.frames,
        "replay": replays,
        "sent": recording.sent,
    }


def _derived(offset: Callable[[str, int], str]) -> dict[str, Any]:
    """Where each rank publishes, as the class derives it from one endpoint."""
    told: dict[str, list[str]] = {}
    for endpoint in ENDPOINTS:
        for rank in RANKS:
            try:
                found = offset(endpoint, rank)
            except ValueError as error:
                found = f"ValueError: {error}"
            told.setdefault(endpoint, []).append(found)
    return {"endpoints": told}


class _StandIn(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)


class _OwnModulesOnly(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets ``REAL_MODULES`` be found in the unpacked wheel, and stands in for the others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if not f"{name}.".startswith("sglang.") or name in REAL_MODULES:
            return None
        spec = ModuleSpec(name, self, is_package=True)
        spec.submodule_search_locations = [str(self._folder.joinpath(*name.split(".")))]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        made = _StandIn(spec.name)
        if spec.name.endswith(".native_hash"):
            made.get_native_hash = _page_hashes
        if spec.name.endswith(".runtime_context"):
            made.get_parallel = lambda: SimpleNamespace(pp_rank=0, attn_tp_rank=0, attn_cp_rank=0)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """A stand-in has nothing to run."""


def _page_hashes(key: Any, prior: bytes | None, page_size: int) -> list[str]:
    """SHA-256 of the hash before and the page's tokens, as SGLang's ``hash_binding.cpp`` does."""
    tokens = array("I", key.raw_token_ids())
    told = []
    for start in range(0, len(tokens), page_size):
        page = tokens[start : start + page_size].tobytes()
        prior = hashlib.sha256((prior or b"") + page).digest()
        told.append(prior.hex())
    return told


def _unpack(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(folder),
        SGLANG,
    ]
    subprocess.run(command, check=True)
    wheel = next(folder.glob("sglang-*.whl"))
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder)
    return folder


def _free_ports(count: int) -> list[int]:
    """The first of as many free ports in a row."""
    for base in range(28500, 60000, count):
        probes = [socket.socket() for _ in range(count)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", base + number))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return list(range(base, base + count))
    raise SystemExit("no free ports on 127.0.0.1")
