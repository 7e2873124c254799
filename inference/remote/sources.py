"""Where a server tells what happens in its prefix cache: ZeroMQ endpoints, one for each rank.

An owner's word comes first. Without it the server is asked: vLLM lists the publishers of its ranks
(``/kv_event_sources``), SGLang shows the setting that it was started with.

Both servers *connect* to a TCP endpoint that names an address, and bind one with ``*`` in it; so we
bind the former and connect to the latter.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeGuard
from urllib.parse import urlsplit

from inference.remote.events.endpoints import EventSource, of_rank
from inference.remote.kinds import ServerKind
from inference.remote.server import Json, Server, ServerError
from inference.remote.settings import RemoteKind, RemoteSettings

RANKS_MAX = 256
RANK_DIGITS_MAX = 4
ENDPOINT_CHARS_MAX = 256


async def find_sources(
    server: Server, settings: RemoteSettings, kind: ServerKind, info: Json
) -> tuple[EventSource, ...]:
    """The publishers in the order of their ranks; none where there are none to be had.

    Args:
        server: Who is asked.
        settings: What the owner said.
        kind: The kind of server.
        info: What ``kind.info_path`` gave.

    Raises:
        EndpointUnusable: An endpoint cannot be that of every rank.
    """
    host = urlsplit(settings.url).hostname or "127.0.0.1"
    if settings.events is not None:
        given = EventSource(
            endpoint=settings.events, replay=settings.replay, binds=settings.events_bind
        )
        return _of_ranks(given, settings.ranks)
    if kind.kind is RemoteKind.VLLM:
        try:
            told = await server.get_json("/kv_event_sources")
        except ServerError:
            return ()
        ranks = sorted(filter(_is_rank, told), key=int)[:RANKS_MAX]
        found = [_source(told[name], host) for name in ranks]
        # Ranks must not be mixed up: all or none.
        return tuple(each for each in found if each) if all(found) else ()
    if kind.kind is RemoteKind.SGLANG:
        return _sglang_sources(info, host)
    return ()


def _sglang_sources(info: Json, host: str) -> tuple[EventSource, ...]:
    try:
        config = json.loads(info.get("kv_events_config") or "null")
    except (TypeError, ValueError, RecursionError):
        return ()
    source = _source(config, host)
    ranks = info.get("dp_size")
    count = ranks if type(ranks) is int and 1 <= ranks <= RANKS_MAX else 1
    if source is None:
        return ()
    return _of_ranks(source, count)


def _of_ranks(first: EventSource, count: int) -> tuple[EventSource, ...]:
    """The sources of so many ranks, of which the first one's is known."""
    return tuple(
        replace(
            first,
            endpoint=of_rank(first.endpoint, rank),
            replay=None if first.replay is None else of_rank(first.replay, rank),
        )
        for rank in range(count)
    )


def _source(config: object, host: str) -> EventSource | None:
    if not isinstance(config, dict) or config.get("publisher", "zmq") != "zmq":
        return None
    endpoint, replay = config.get("endpoint", "tcp://*:5557"), config.get("replay_endpoint")
    topic = config.get("topic", "")
    if config.get("enable_kv_cache_events", True) is not True or not _is_endpoint(endpoint):
        return None
    of_rank(endpoint, 0)  # raises for a port that is none
    wild = "*" in endpoint or "::" in endpoint or not endpoint.startswith("tcp:")
    return EventSource(
        endpoint=_reached(endpoint, host),
        replay=_reached(replay, host) if _is_endpoint(replay) else None,
        topic=topic if isinstance(topic, str) else "",
        binds=not wild and config.get("bind") is not True,
    )


def _is_rank(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= RANK_DIGITS_MAX


def _is_endpoint(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and value.startswith(("tcp://", "ipc://"))
        and value.isprintable()
        and len(value) <= ENDPOINT_CHARS_MAX
    )


def _reached(endpoint: str, host: str) -> str:
    """A wildcard as seen from outside: the host that the server's own URL names."""
    shown = f"[{host}]" if ":" in host else host
    for wildcard in ("*", "0.0.0.0", "[::]"):  # noqa: S104 - what a server listens on, not we
        if endpoint.startswith(f"tcp://{wildcard}:"):
            return f"tcp://{shown}:{endpoint.rpartition(':')[2]}"
    return endpoint
